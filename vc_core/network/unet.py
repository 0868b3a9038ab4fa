"""The video UNet of VideoCrafter (arXiv:2310.19512, arXiv:2401.09047).

A UNet over the pixels of each frame, with a transformer over time behind every transformer over space, and in the later
models a convolution over time in every ResBlock. One class for every layout; `UNetSpec` tells them apart, and a branch
of the forward pass is decided by which submodule exists. Attribute names are the published ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..specs import UNetSpec, Windows
from .attention import Attention, sdpa_attention
from .fused import Weights
from .hooks import NO_HOOKS, Hooks
from .layers import (
    Downsample,
    Layers,
    ResBlock,
    Stage,
    Upsample,
    embedding_mlp,
    repeated,
    scale_sinusoid,
    sinusoid,
    to_clips,
    to_frames,
)
from .memory import free_bytes, until_it_fits
from .parts import whole_bytes
from .transformers import SpatialTransformer, TemporalTransformer

INIT_ATTENTION_HEADS = 8


@dataclass(frozen=True, eq=False)
class Call:
    """What every block of one forward pass receives."""

    emb: Tensor  # b d, or (b f) d, behind a SiLU
    text: Tensor  # b n d, or (b f) n d; of all conditionings
    image: Tensor | None  # b m d, or (b f) m d; of all conditionings
    frames: int
    hooks: Hooks
    temporal: bool
    windows: Windows | None = None
    rows: int = 0  # b f
    copies: int = 1  # conditionings for each clip

    def emb_of(self, h: Tensor) -> Tensor:
        """The embedding for the clips in h, which are one for each conditioning from the first text on."""
        return self.emb if h.shape[0] == self.rows else repeated(self.emb, self.copies * len(self.emb))


@dataclass(eq=False)
class Deep:
    """The deep features of one pass, for others that resemble it (arXiv:2312.00858).

    shallow: how many of the first input blocks and of the last output blocks run in every pass, 1 or more.
    features: (b f) c h w, what the first of those output blocks receives; None asks for a whole pass, which fills it.
    """

    shallow: int
    features: Tensor | None = None


class Stack(nn.ModuleList):
    """The layers of one block in turn, each given what its kind needs. (b f) c h w -> (b f) c h w"""

    def forward(self, x: Tensor | list[Tensor], call: Call, size: torch.Size | None = None) -> Tensor:
        """`size` is that of the next skip connection, for a block that ends in an Upsample. A list of one map is
        emptied, so that the map can go as soon as the first layer has read it."""
        h = x.pop() if isinstance(x, list) else x
        del x
        for layer in self:
            if isinstance(layer, ResBlock):
                h = layer(h, call.emb_of(h), call.frames)
            elif isinstance(layer, SpatialTransformer):
                h = layer(h, call.text, call.image, call.hooks, call.copies * call.rows)
            elif isinstance(layer, TemporalTransformer):
                h = layer(h, call.frames, call.temporal, call.windows, call.hooks.attention)
            elif isinstance(layer, Upsample):
                h = layer(h, size)
            else:
                h = layer(h)
        return h


class VideoUNet(nn.Module):
    """noised latents, timestep, conditions -> prediction (of the noise, or of v)

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
        build = _Builder(spec, Layers(operations, spec.norm_groups, device, dtype, weights), attention)
        self.budget, self.fused = build.layers.budget, build.layers.fused
        width = spec.model_channels
        self.time_embed = embedding_mlp(width, 4 * width, build.layers)
        self.fps_embedding = embedding_mlp(width, 4 * width, build.layers) if spec.fps_condition else None
        self.time_cond_proj = build.scale_projection(spec.guidance_width)
        self.motion_cond_proj = build.scale_projection(spec.motion_width)
        self.combine_proj = build.scale_projection(2 * width if spec.motion_width else 0)
        self.input_blocks = nn.ModuleList([Stack([build.layers.conv2d(spec.in_channels, width)])])
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

    def fit(self, free: int | None, positions: int, itemsize: int) -> None:
        """Makes passes work on as much at once as `free` bytes allow, None where that is not known. `positions` are
        the values of a channel, of all frames and conditionings; each has `itemsize` bytes.

        Call it before a pass, outside of what is compiled. Without it, large maps are worked on in small parts.
        """
        self.budget.fit(free, positions * self.spec.model_channels, itemsize)

    def whole_bytes(self, positions: int, itemsize: int) -> int:
        """Bytes that a pass takes at the most where nothing is done in parts; see `fit`."""
        return whole_bytes(positions * self.spec.model_channels, itemsize)

    def in_memory(self, x: Tensor, timesteps: Tensor, text: Tensor, *given: Any, **options: Any) -> Tensor:
        """The prediction, as a call of the network, with as much at once as free memory allows, and with less where it
        runs out. Raises UserError where it still does."""
        self.fit(free_bytes(x.device), len(text) * x[0, 0].numel(), x.element_size())
        frames, height, width = x.shape[2:]
        cure = (
            f"The memory is not enough for a pass of {frames} frames of latents {width} wide and {height} high in "
            f"{str(x.dtype).removeprefix('torch.')}. Lower width, height or frames, load the model in fp16 or bf16, "
            "or use context windows for a long clip."
        )
        return until_it_fits(lambda: self(x, timesteps, text, *given, **options), self.budget.halve, cure)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        text: Tensor,
        image: Tensor | None = None,
        fps: Tensor | None = None,
        *,
        hooks: Hooks = NO_HOOKS,
        temporal: bool = True,
        concat: Tensor | None = None,
        guidance: Tensor | None = None,
        motion: Tensor | None = None,
        windows: Windows | None = None,
        early_text: Tensor | None = None,
        deep: Deep | None = None,
    ) -> Tensor:
        """The prediction, b c f h w, for latents `x`, b c f h w; any f, h and w >= 1.

        Several conditionings of the same latents may come together: `text` and `image` then hold those of all clips for
        the first conditioning, then for the second, and so does the result, (k b) c f h w. What comes before the first
        text is computed once.

        timesteps: b, or b f for a noise level of each frame; 0 .. 999.
        text: b n d, or b f n d for a prompt of each frame.
        image: image tokens, b m d or b f m d; used by networks with `image_attention`.
        fps: b, the frames per second that the motion should have (or the frame stride, as the model was trained);
            None takes the spec's default.
        temporal: False makes every frame attend to itself alone in temporal attention.
        concat: b c f h w, the clean latent that networks with `concat_channels` read beside `x`.
        guidance, motion: b, guidance scales for networks that have an embedding of them; None adds nothing.
        windows: temporal attention in windows, for clips longer than the network was trained on.
        early_text: as `text`, in its place in the input blocks and the middle block.
        deep: takes the features of the deeper blocks, or where it holds some, stands for those blocks.

        Raises UserError when the shapes do not fit this network.
        """
        self._check(x, text, image)
        self._check_concat(x, concat)
        emb = hooks.embedding(self._embed(timesteps, fps, (guidance, motion), x))
        early_text = text if early_text is None else early_text
        image = image.flatten(0, 1) if image is not None and image.ndim == 4 else image
        size = (x.shape[0] * x.shape[2], len(text) // len(x))
        late = Call(F.silu(emb), _rows(text), image, x.shape[2], hooks, temporal, windows, *size)
        call = replace(late, text=_rows(early_text))
        kept = None if deep is None else deep.features
        run = len(self.input_blocks) if deep is None or kept is None else deep.shallow

        h, skips = self._down(self._frames(x, concat), call, run)
        if kept is None:
            hooks.enter("middle", 0)
            h = hooks.after_middle(self.middle_block(h, call))
        else:
            h = kept
        return to_clips(self.out(self._up(h, skips, late, deep)), x.shape[2])

    def _down(self, h: Tensor, call: Call, run: int) -> tuple[Tensor, list[Tensor]]:
        """The first `run` input blocks -> their result, and what they keep for the skip connections."""
        skips: list[Tensor] = []
        for index, block in enumerate(self.input_blocks[:run]):
            call.hooks.enter("input", index)
            h = block(h, call)
            if index == 0:
                h = self.init_attn(h, call)
            h, skip = call.hooks.after_input(h)
            skips.append(skip)
        return h, skips

    def _up(self, h: Tensor, skips: list[Tensor], call: Call, deep: Deep | None) -> Tensor:
        """The last output blocks, one for each skip connection."""
        first = len(self.output_blocks) - len(skips)
        for index, block in list(enumerate(self.output_blocks))[first:]:
            call.hooks.enter("output", index)
            if deep is not None and len(skips) == deep.shallow:
                deep.features = h
            h, skip = call.hooks.before_output(h, skips.pop())
            joined = [torch.cat([h, repeated(skip, len(h))], dim=1)]
            del h, skip
            h = block(joined, call, size=skips[-1].shape[-2:] if skips else None)
        return h

    def _frames(self, x: Tensor, concat: Tensor | None) -> Tensor:
        """The frames that the first convolution reads, (b f) c h w."""
        h = to_frames(x if concat is None else torch.cat([x, concat], dim=1))
        return self.fused.suited(h)

    def _embed(
        self, timesteps: Tensor, fps: Tensor | None, scales: tuple[Tensor | None, Tensor | None], x: Tensor
    ) -> Tensor:
        """b d, or (b f) d for timesteps of each frame."""
        width = self.spec.model_channels
        b, frames, dtype = x.shape[0], x.shape[2], x.dtype
        when = sinusoid(timesteps.flatten(), width).to(dtype)
        added = self._scales(*scales, dtype)
        if added is not None:
            when = when + (added.repeat_interleave(frames, 0) if timesteps.ndim == 2 else added)
        emb: Tensor = self.time_embed(when)
        if self.fps_embedding is not None:
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

    def _check_concat(self, x: Tensor, concat: Tensor | None) -> None:
        wanted = self.spec.concat_channels
        shape = (x.shape[0], wanted, *x.shape[2:])
        if wanted and concat is None:
            raise UserError(
                "This network reads a picture's latent beside the noised one, and was given none. Give the picture "
                "to start from, encoded by the model's own autoencoder."
            )
        if concat is not None and concat.shape != shape:
            takes = f"should have the shape {shape}" if wanted else "has no place in this network, which takes none"
            raise UserError(f"The picture's latent is {tuple(concat.shape)}; it {takes}.")

    def _check(self, x: Tensor, text: Tensor, image: Tensor | None) -> None:
        spec = self.spec
        if x.ndim != 5 or x.shape[1] != spec.latent_channels:
            raise UserError(
                f"This network takes latents of shape (batch, {spec.latent_channels}, frames, height, width); "
                f"it was given {tuple(x.shape)}."
            )
        if text.shape[-1] != spec.context_dim:
            raise UserError(
                f"This network was trained with text embeddings of width {spec.context_dim}; it was given width "
                f"{text.shape[-1]}. Load the text encoder (CLIP) that belongs to this model."
            )
        if image is not None and not spec.image_attention:
            raise UserError(
                "This is a text-to-video network: it has no attention over image tokens. "
                "Use an image-to-video model, or leave the image conditioning out."
            )


def _rows(text: Tensor) -> Tensor:
    """b n d as it is; b f n d -> (b f) n d"""
    return text.flatten(0, 1) if text.ndim == 4 else text


class _Builder:
    """Makes the blocks of one network."""

    def __init__(self, spec: UNetSpec, layers: Layers, attention: Attention) -> None:
        self.spec, self.layers, self.attention = spec, layers, attention
        self.reach = spec.temporal_length if spec.relative_position else None

    def scale_projection(self, width: int) -> nn.Module | None:
        return self.layers.linear(width, self.spec.model_channels, bias=False) if width else None

    def res_block(self, c_in: int, c_out: int) -> ResBlock:
        return ResBlock(c_in, c_out, 4 * self.spec.model_channels, self.spec.temporal_conv, self.layers)

    def first_attention(self) -> TemporalTransformer:
        """What stands behind the first convolution; it has heads and a width of its own."""
        spec, heads = self.spec, INIT_ATTENTION_HEADS
        return TemporalTransformer(
            *(spec.model_channels, heads, spec.transformer_depth, self.layers, self.attention),
            inner=heads * spec.head_channels,
            conv_projection=True,
            reach=self.reach,
            causal=spec.causal,
            finest=True,
        )

    def block(self, c_in: int, c_out: int, attends: bool, finest: bool = False) -> Stack:
        """[ResBlock], or [ResBlock, SpatialTransformer, TemporalTransformer]"""
        spec, layers = self.spec, self.layers
        block = Stack([self.res_block(c_in, c_out)])
        if attends:
            heads, depth = c_out // spec.head_channels, spec.transformer_depth
            block.append(
                SpatialTransformer(
                    *(c_out, heads, depth, spec.context_dim, spec.image_attention, layers, self.attention),
                    gate=spec.image_gate,
                )
            )
            block.append(
                TemporalTransformer(
                    *(c_out, heads, depth, layers, self.attention),
                    reach=self.reach,
                    causal=spec.causal,
                    finest=finest,
                )
            )
        return block
