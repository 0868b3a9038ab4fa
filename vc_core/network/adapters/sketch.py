"""ToonCrafter's sketch guidance (arXiv:2405.17933): a ControlNet (arXiv:2302.05543) that sees every frame alone.

The encoder half of the UNet without anything over time reads the noised latents, the text and the image tokens, and the
sketch of each frame. What it finds is added to the skip connections and to the result of the middle block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...conditions import SINGLE, Conditioning
from ...errors import UserError
from ...specs.sketch import SketchEncoderSpec
from ..adapter import Adapter, Adapters, Place
from ..attention import Attention, sdpa_attention
from ..call import PLAIN, Call, repeated
from ..layers import Downsample, Layers, ResBlock, embedding_mlp, sinusoid, to_frames
from ..transformers import SpatialTransformer
from ..unet import FirstConvolution, Stack

HALVING = (2, 4, 6)
"""The convolutions over the sketch, from 0, that halve its size."""


class SketchEncoder(nn.Module):
    """Noised latents and sketches -> residuals of the video UNet. Names are the published ones.

    `operations`, `attention`, `device`, `dtype`: as for `VideoUNet`.
    """

    def __init__(
        self,
        spec: SketchEncoderSpec,
        *,
        operations: ModuleType | Any = nn,
        attention: Attention = sdpa_attention,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        groups = math.gcd(spec.norm_groups, spec.model_channels)
        self.layers = layers = Layers(operations, groups, device, dtype, attention=attention)
        self.fused = layers.fused
        width = spec.model_channels
        self.time_embed = embedding_mlp(width, 4 * width, layers)
        self.input_hint_block = _hint_block(spec, layers)
        self.input_blocks = nn.ModuleList([FirstConvolution([layers.conv2d(spec.in_channels, width)])])
        ends = [width]
        for level, factor in enumerate(spec.channel_mult):
            if level:
                self.input_blocks.append(Stack([Downsample(ends[-1], layers)]))
                ends.append(ends[-1])
            for _ in range(spec.num_res_blocks):
                attends = level in spec.attention_levels
                self.input_blocks.append(self._block(ends[-1], factor * width, attends))
                ends.append(factor * width)
        self.middle_block = self._block(ends[-1], ends[-1], attends=True)
        self.middle_block.append(self._res_block(ends[-1], ends[-1]))
        self.zero_convs = nn.ModuleList(nn.ModuleList([layers.conv2d(end, end, size=1)]) for end in ends)
        self.middle_block_out = nn.ModuleList([layers.conv2d(ends[-1], ends[-1], size=1)])

    def _res_block(self, before: int, after: int) -> ResBlock:
        return ResBlock(before, after, 4 * self.spec.model_channels, False, self.layers)

    def _block(self, before: int, after: int, attends: bool) -> Stack:
        block = Stack([self._res_block(before, after)])
        if attends:
            heads = max(1, after // self.spec.head_channels)
            block.append(SpatialTransformer(after, heads, 1, self.spec.context_dim, self.layers))
        return block

    def hints(self, sketches: Tensor) -> Tensor:
        """Sketches f 1 (8 h) (8 w) in 0..1, lines white on black -> their features, f c h w."""
        out: Tensor = self.input_hint_block(sketches)
        return out

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, hints: Tensor) -> list[Tensor]:
        """The residuals, n c h w each: one for each encoder block of the UNet, then that of its middle block.

        x: n c h w, noised latents of n = b f frames, the frames of a clip together. timesteps: b, or n.
        context: b m d, or n m d; all tokens of the text and of the image, which every frame attends to alike.
        hints: n c h w, see `hints`.
        """
        emb = self.time_embed(sinusoid(timesteps.flatten(), self.spec.model_channels).to(x.dtype))
        call = Call(
            emb=F.silu(emb),
            text=context,
            image=None,
            rows=len(x),
            copies=1,
            run=PLAIN,
            adapters=Adapters(),
            place=Place(timesteps, len(x) // len(timesteps), SINGLE),
        )
        h = self.input_blocks[0](self.fused.suited(x), call) + hints
        found = [self._out(0, h)]
        for index, block in enumerate(self.input_blocks[1:], 1):
            h = block(h, call)
            found.append(self._out(index, h))
        middle: Any = self.middle_block_out[0]
        return [*found, middle(self.middle_block(h, call))]

    def _out(self, index: int, h: Tensor) -> Tensor:
        convolutions: Any = self.zero_convs[index]
        out: Tensor = convolutions[0](h)
        return out


def _hint_block(spec: SketchEncoderSpec, layers: Layers) -> nn.Sequential:
    """Convolutions with a SiLU behind each but the last."""
    widths = (spec.hint_channels, *spec.hint_widths, spec.model_channels)
    modules: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths)):
        modules += [layers.conv2d(before, after, stride=2 if number in HALVING else 1), nn.SiLU()]
    return nn.Sequential(*modules[:-1])


class SketchResiduals(Adapter):
    """Guides the frames of a clip by sketches.

    encoder: ToonCrafter's sketch encoder. sketches: f 1 H W in 0..1 at the size of the video, lines white on black.
    strengths: for each frame, the factor of its residuals, 0 or more; a frame of strength 0 is not guided, and costs
        nothing. The authors of the published guidance take 0.6.

    The encoder runs once for each pass, for all conditionings that share it, each with its own text and image tokens.
    Raises UserError for sketches and strengths that do not fit each other.
    """

    owner = "sketch"

    def __init__(self, encoder: SketchEncoder, sketches: Tensor, strengths: Sequence[float]) -> None:
        if sketches.ndim != 4 or sketches.shape[1] != encoder.spec.hint_channels:
            raise UserError(
                f"Sketches should have the shape (frames, {encoder.spec.hint_channels}, height, width), but the shape "
                f"is {tuple(sketches.shape)}."
            )
        if len(strengths) != len(sketches):
            raise UserError(f"{len(strengths)} strengths were given for {len(sketches)} frames; give one for each.")
        self.encoder, self.sketches, self.strengths = encoder, sketches, tuple(strengths)
        self.known: dict[int, Tensor] = {}  # the features of a frame's sketch
        self.residuals: list[Tensor] = []
        self.count = 0

    def on_pass(self, at: Place, x: Tensor, conditioning: Conditioning) -> None:
        """Finds the residuals of this pass."""
        frames = self._frames(at)
        guided = [place for place, frame in enumerate(frames) if self.strengths[frame] > 0]
        self.residuals = []
        if not guided:
            return
        hints = torch.cat([self._hint(frames[place], x) for place in guided])
        copies = len(conditioning.text) // len(x)
        latents = to_frames(x[:, :, guided])
        timesteps = at.timesteps[:, guided] if at.timesteps.ndim == 2 else at.timesteps
        found = self.encoder(
            repeated(latents, copies * len(latents)),
            repeated(timesteps, copies * len(timesteps)),
            all_tokens(conditioning, guided).to(x),
            repeated(hints, copies * len(latents)),
        )
        strengths = x.new_tensor([self.strengths[frames[place]] for place in guided])
        self.residuals = [_in_clip(one, strengths, guided, at.frames) for one in found]
        self.count = len(found) - 1

    def _frames(self, at: Place) -> Sequence[int]:
        """The frames, from 0, of the whole clip that this pass is about."""
        window = at.evaluation.window
        if window is not None:
            return window
        if at.frames != len(self.strengths):
            raise UserError(
                f"There are sketches for a clip of {len(self.strengths)} frames, but this clip has {at.frames}. Give "
                "one for each frame."
            )
        return range(at.frames)

    def _hint(self, frame: int, like: Tensor) -> Tensor:
        """The features of a frame's sketch, 1 c h w, which are the same in every pass."""
        known = self.known.get(frame)
        if known is None or known.device != like.device or known.dtype != like.dtype:
            known = self.known[frame] = self.encoder.hints(self.sketches[frame : frame + 1].to(like))
        return known

    def after_middle_block(self, at: Place, h: Tensor) -> Tensor:
        return h + self.residuals[-1].to(h) if self.residuals else h

    def before_decoder_block(self, at: Place, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        if not self.residuals:
            return h, skip
        residual = self.residuals[self.count - 1 - at.index]
        return h, repeated(skip, len(residual)) + residual.to(skip)


def all_tokens(conditioning: Conditioning, frames: Sequence[int]) -> Tensor:
    """What every frame attends to, k m d of k conditionings: text and image tokens, those of all frames together; with
    a text for each frame (k a) m d, of the a given frames."""
    text, image = conditioning.text, conditioning.image
    each = text.ndim == 4
    text = text[:, list(frames)] if each else text  # k a m d, or k m d
    if image is not None:
        shared = image.flatten(1, 2) if image.ndim == 4 else image
        shared = shared[:, None].expand(-1, len(frames), -1, -1) if each else shared
        text = torch.cat([text, shared], dim=-2)
    return text.flatten(0, 1) if each else text


def _in_clip(residual: Tensor, strengths: Tensor, guided: Sequence[int], frames: int) -> Tensor:
    """Residuals of some frames, (k a) c h w, times their strengths, among all frames: (k f) c h w."""
    scaled = residual.unflatten(0, (-1, len(guided))) * strengths[:, None, None, None]
    if len(guided) == frames:
        return scaled.flatten(0, 1)
    out = scaled.new_zeros(len(scaled), frames, *scaled.shape[2:])
    out[:, list(guided)] = scaled
    return out.flatten(0, 1)
