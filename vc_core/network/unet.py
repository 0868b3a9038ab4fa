"""The video UNet of VideoCrafter (arXiv:2310.19512, arXiv:2401.09047).

A UNet over the pixels of each frame, with a transformer over time behind every transformer over space, and in the later
models a convolution over time in every ResBlock. One class for every layout; `UNetSpec` tells them apart, and a branch
of the forward pass is decided by which submodule exists. Attribute names are the published ones.
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..conditions import Conditioning
from ..errors import UserError
from ..specs import UNetSpec
from .adapter import Adapters, Place
from .attention import Attention, sdpa_attention
from .attentions import OverTime
from .call import PLAIN, Call, Pass, repeated
from .fused import Weights, adjoining, split_as
from .layers import (
    Downsample,
    Layers,
    ResBlock,
    Stage,
    Upsample,
    adapted,
    embedding_mlp,
    scale_sinusoid,
    sinusoid,
    to_clips,
    to_frames,
)
from .memory import free_bytes, until_it_fits
from .parts import whole_bytes
from .transformers import SpatialTransformer, TemporalTransformer

INIT_ATTENTION_HEADS = 8


class FirstConvolution(nn.ModuleList):
    """The convolution that opens the encoder. (b f) c h w -> (b f) c h w"""

    def forward(self, x: Tensor, call: Call) -> Tensor:
        out: Tensor = (adapted(self[0], "first", call, x) or self[0])(x)
        return out


class Stack(nn.ModuleList):
    """The layers of one block in turn. (b f) c h w -> (b f) c h w"""

    def forward(self, x: Tensor, call: Call) -> Tensor:
        for number, layer in enumerate(self):
            x = layer(x, call.noted(layer=number))
        return x


class VideoUNet(nn.Module):
    """noised latents, timestep, conditioning -> prediction (of the noise, or of v)

    `operations` names the layer classes (default `torch.nn`), and `weights` gives theirs, see `network.fused`;
    `attention` names the attention function, see `network.attention`. Build on `device="meta"` and load with
    `assign=True` to make no tensor twice.
    """

    def __init__(
        self,
        spec: UNetSpec,
        *,
        operations: ModuleType | Any = nn,
        attention: Attention = sdpa_attention,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        weights: Weights | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.attention = attention
        build = _Builder(spec, Layers(operations, spec.norm_groups, device, dtype, weights, attention))
        self.budget, self.fused = build.layers.plan.budget, build.layers.fused
        width = spec.model_channels
        self.time_embed = embedding_mlp(width, 4 * width, build.layers)
        self.fps_embedding = embedding_mlp(width, 4 * width, build.layers) if spec.fps_condition else None
        self.time_cond_proj = build.scale_projection(spec.guidance_width)
        self.motion_cond_proj = build.scale_projection(spec.motion_width)
        self.combine_proj = build.scale_projection(2 * width if spec.motion_width else 0)
        self.input_blocks = nn.ModuleList([FirstConvolution([build.layers.conv2d(spec.in_channels, width)])])
        self.init_attn = Stack([build.first_attention()])
        skips = [width]
        channels = width
        last = len(spec.channel_mult) - 1
        for level, mult in enumerate(spec.channel_mult):
            for _ in range(spec.num_res_blocks):
                attends = level in spec.attention_levels
                self.input_blocks.append(build.block(channels, mult * width, attends, finest=level == 0))
                channels = mult * width
                skips.append(channels)
            if level != last:
                self.input_blocks.append(Stack([Downsample(channels, build.layers)]))
                skips.append(channels)
        self.middle_block = build.block(channels, channels, attends=True)
        self.middle_block.append(build.res_block(channels, channels))
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(spec.channel_mult))):
            for i in range(spec.num_res_blocks + 1):
                attends = level in spec.attention_levels
                block = build.block(channels + skips.pop(), mult * width, attends, finest=level == 0)
                channels = mult * width
                if level > 0 and i == spec.num_res_blocks:
                    block.append(Upsample(channels, build.layers))
                self.output_blocks.append(block)
        self.out = Stage(channels, build.layers, build.layers.conv2d(channels, spec.out_channels))
        self.res_blocks = res_blocks(self)
        embeddings, convolutions = self._shifting()
        self.fused.join(embeddings)
        self.fused.join(embeddings, "bias")
        self.fused.join(convolutions, "bias")

    def _shifting(self) -> tuple[list[Any], list[Any]]:
        """The linear layers of all ResBlocks to which the embedding goes, and the convolutions before them."""
        return [block.emb_layers[-1] for block in self.res_blocks], [block.in_layers[-1] for block in self.res_blocks]

    def fit(self, free: int | None, positions: int, itemsize: int) -> None:
        """Makes passes work on as much at once as `free` bytes allow, None where that is not known. `positions` is
        the number of values of a channel, in all frames and conditionings; each has `itemsize` bytes.

        Call it before a pass, outside of what is compiled. Without it, large maps are worked on in small parts.
        """
        self.budget.fit(free, positions * self.spec.model_channels, itemsize)

    def whole_bytes(self, positions: int, itemsize: int) -> int:
        """The most bytes that a pass needs where no map is worked on in parts; see `fit`."""
        return whole_bytes(positions * self.spec.model_channels, itemsize)

    def in_memory(self, x: Tensor, timesteps: Tensor, conditioning: Conditioning, run: Pass = PLAIN) -> Tensor:
        """The prediction, as a call of the network, working on as much at once as free memory allows, and on less where
        memory runs out. Raises UserError where even the smallest parts do not fit."""
        self.fit(free_bytes(x.device), len(conditioning.text) * x[0, 0].numel(), x.element_size())
        frames, height, width = x.shape[2:]
        cure = (
            f"There is not enough memory for a pass of {frames} frames of latents {width} wide and {height} high in "
            f"{str(x.dtype).removeprefix('torch.')}. Lower width, height or frames, load the model in fp16 or bf16, "
            "or use context windows for a long clip."
        )
        return until_it_fits(lambda: self(x, timesteps, conditioning, run), self.budget.halve, cure)

    def forward(self, x: Tensor, timesteps: Tensor, conditioning: Conditioning, run: Pass = PLAIN) -> Tensor:
        """The prediction, b c f h w, for latents `x`, b c f h w; any f, h and w >= 1.

        timesteps: b, or b f for a noise level of each frame; 0 .. 999.
        conditioning: see `Conditioning`. Several of the same latents may come together: `text` and `image` then hold
            those of all clips for the first, then for the second, and so does the result, (k b) c f h w. What precedes
            the first text is computed once.
        run: how this pass is computed.

        Raises UserError when the shapes do not fit this network.
        """
        self._check(x, conditioning)
        late = self._call(x, timesteps, conditioning, run)
        early_text = conditioning.early_text
        call = late if early_text is None else replace(late, text=_rows(early_text))
        x = to_frames(x if conditioning.concat is None else torch.cat([x, conditioning.concat], dim=1))
        if run.deep is None:
            h, skips = self._encode(x, call, len(self.input_blocks))
            here = call.entering("middle", 0, 1)
            h = here.changed("after_middle_block", self.middle_block(h, here))
        else:
            h, skips = run.deep.features, self._encode(x, call, run.deep.shallow)[1]
        return to_clips(self.out(self._decode(h, skips, late)), late.frames)

    def _call(self, x: Tensor, timesteps: Tensor, conditioning: Conditioning, run: Pass) -> Call:
        """What all blocks of a pass receive."""
        adapters, image = Adapters(run.acting), conditioning.image
        place = Place(timesteps, x.shape[2], run.evaluation, len(conditioning.text))
        for notice in adapters.at("on_pass", place):
            notice(x, conditioning)
        emb = self._embed(x, timesteps, conditioning)
        for change in adapters.at("on_embedding", place):
            emb = change(emb)
        emb = F.silu(emb)
        return Call(
            emb=emb,
            text=_rows(conditioning.text),
            image=None if image is None else _rows(image),
            rows=x.shape[0] * x.shape[2],
            copies=len(conditioning.text) // len(x),
            run=run,
            adapters=adapters,
            place=place,
            shifts=self._shifts(emb),
        )

    def _shifts(self, emb: Tensor) -> dict[nn.Module, tuple[Tensor, ...]]:
        """`Call.shifts`, empty where the weights of the ResBlocks are not joined."""
        embeddings, convolutions = self._shifting()
        joint = self.fused.joint_product(embeddings, emb)
        biases = None if joint is None else adjoining([convolution.bias for convolution in convolutions])
        if joint is None or biases is None:
            return {}
        pairs = zip(split_as(joint, embeddings), split_as(joint + biases, embeddings), strict=True)
        return dict(zip(self.res_blocks, pairs, strict=True))

    def _encode(self, x: Tensor, call: Call, count: int) -> tuple[Tensor, list[Tensor]]:
        """The first `count` encoder blocks -> their result, and the skip connections."""
        h = self.fused.suited(x)
        skips: list[Tensor] = []
        for index, block in enumerate(self.input_blocks[:count]):
            here = call.entering("input", index, len(self.input_blocks))
            h = block(h, here)
            if index == 0:
                h = self.init_attn(h, call.noted(stage="init", count=1))
            h = here.changed("after_encoder_block", h)
            skips.append(h)
            h = here.changed("after_skip", h)
        return h, skips

    def _decode(self, h: Tensor, skips: list[Tensor], call: Call) -> Tensor:
        """The last decoder blocks, one for each skip connection."""
        count = len(self.output_blocks)
        for index in range(count - len(skips), count):
            skip = skips.pop()
            here = call.entering("output", index, count, size=skips[-1].shape[-2:] if skips else None)
            for change in here.at("before_decoder_block"):
                h, skip = change(h, skip)
            h = torch.cat([h, repeated(skip, len(h))], dim=1)
            del skip
            block: Any = self.output_blocks[index]
            for number, layer in enumerate(block):  # here and not in the block, which would keep its input to the end
                h = layer(h, here.noted(layer=number))
        return h

    def _embed(self, x: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """b d, or (b f) d for timesteps of each frame."""
        width = self.spec.model_channels
        b, frames, dtype = x.shape[0], x.shape[2], x.dtype
        when = sinusoid(timesteps.flatten(), width).to(dtype)
        added = self._scales(conditioning.guidance, conditioning.motion, dtype)
        if added is not None:
            when = when + (added.repeat_interleave(frames, 0) if timesteps.ndim == 2 else added)
        emb: Tensor = self.time_embed(when)
        if self.fps_embedding is not None:
            fps = conditioning.fps
            fps = torch.full((b,), self.spec.default_fps, device=emb.device) if fps is None else fps
            if timesteps.ndim == 2:
                fps = fps.repeat_interleave(frames)
            emb = emb + self.fps_embedding(sinusoid(fps, width).to(dtype))
        return emb

    def _scales(self, guidance: Tensor | None, motion: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """b d, what guidance scales add to the timestep's sinusoid; with both kinds, one map of the two together."""
        spec = self.spec
        parts: list[Tensor] = []
        if guidance is not None and self.time_cond_proj is not None:
            parts.append(self.time_cond_proj(scale_sinusoid(guidance, spec.guidance_width).to(dtype)))
        if motion is not None and self.motion_cond_proj is not None and self.combine_proj is not None:
            parts.append(self.motion_cond_proj(scale_sinusoid(motion, spec.motion_width).to(dtype)))
            if len(parts) == 2:
                out: Tensor = self.combine_proj(torch.cat(parts, dim=1))
                return out
        return parts[0] if parts else None

    def _check(self, x: Tensor, conditioning: Conditioning) -> None:
        spec, text = self.spec, conditioning.text
        if x.ndim != 5 or x.shape[1] != spec.latent_channels:
            raise UserError(
                f"This network takes latents of shape (batch, {spec.latent_channels}, frames, height, width), but the "
                f"shape is {tuple(x.shape)}."
            )
        if text.shape[-1] != spec.context_dim:
            raise UserError(
                f"This network was trained with text embeddings of width {spec.context_dim}, but the width is "
                f"{text.shape[-1]}. Load the text encoder (CLIP) that belongs to this model."
            )
        if conditioning.image is not None and not spec.image_attention:
            raise UserError(
                "This is a text-to-video network: it has no attention over image tokens. "
                "Use an image-to-video model, or leave the image conditioning out."
            )
        self._check_concat(x, conditioning.concat)

    def _check_concat(self, x: Tensor, concat: Tensor | None) -> None:
        wanted = self.spec.concat_channels
        shape = (x.shape[0], wanted, *x.shape[2:])
        if wanted and concat is None:
            raise UserError(
                "This model needs the latent of an image beside the noised latent, but there is none. Give the image "
                "to start from, encoded by the model's own autoencoder."
            )
        if concat is not None and concat.shape != shape:
            expected = f"this model expects the shape {shape}" if wanted else "this model does not use one"
            raise UserError(f"The shape of the image's latent is {tuple(concat.shape)}, but {expected}.")


def res_blocks(network: nn.Module) -> list[ResBlock]:
    """All ResBlocks of a network, in its order."""
    return [layer for layer in network.modules() if isinstance(layer, ResBlock)]


def _rows(tokens: Tensor) -> Tensor:
    """b n d as it is; b f n d -> (b f) n d"""
    return tokens.flatten(0, 1) if tokens.ndim == 4 else tokens


class _Builder:
    """Makes the blocks of one network."""

    def __init__(self, spec: UNetSpec, layers: Layers) -> None:
        self.spec, self.layers = spec, layers

    def scale_projection(self, width: int) -> nn.Module | None:
        return self.layers.linear(width, self.spec.model_channels, bias=False) if width else None

    def res_block(self, c_in: int, c_out: int) -> ResBlock:
        return ResBlock(c_in, c_out, 4 * self.spec.model_channels, self.spec.temporal_conv, self.layers)

    def over_time(self, finest: bool) -> OverTime:
        spec = self.spec
        return OverTime(spec.temporal_length if spec.relative_position else None, spec.causal, finest)

    def first_attention(self) -> TemporalTransformer:
        """The transformer behind the first convolution; it has heads and a width of its own."""
        spec, heads = self.spec, INIT_ATTENTION_HEADS
        return TemporalTransformer(
            spec.model_channels,
            heads,
            spec.transformer_depth,
            self.layers,
            self.over_time(finest=True),
            inner=heads * spec.head_channels,
            conv_projection=True,
        )

    def block(self, c_in: int, c_out: int, attends: bool, finest: bool = False) -> Stack:
        """[ResBlock], or [ResBlock, SpatialTransformer, TemporalTransformer]"""
        spec, layers, heads = self.spec, self.layers, c_out // self.spec.head_channels
        block = Stack([self.res_block(c_in, c_out)])
        if attends:
            depth, image = spec.transformer_depth, spec.image_attention
            block.append(
                SpatialTransformer(c_out, heads, depth, spec.context_dim, layers, image=image, gate=spec.image_gate)
            )
            block.append(TemporalTransformer(c_out, heads, depth, layers, self.over_time(finest)))
        return block
