"""The decoder of ToonCrafter (arXiv:2405.17933): it decodes a clip at once and looks at the pictures at its two ends.

Every block also mixes neighbouring frames. Behind each level come the features that the encoder found in the two
pictures at that level: at the coarse levels every frame attends to both, at the fine ones they are added to the first
and the last frame. So lines come back that the latents lost. Axis 0 counts the frames f of one clip; attribute names
are the published ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..network.attention import sdpa_attention
from ..network.layers import Layers, Stage, to_clips, to_frames
from ..network.plan import gathered
from ..specs import AutoencoderSpec
from .blocks import EPS, Decoder, Level, ResnetBlock

HEADS, HEAD_CHANNELS = 8, 64
TIME_MIX = "time_mix_conv"
"""The last convolution over frames; its published name stands under that of the convolution before it."""
FEWEST = 6
"""Frames from which on the two in the middle are decoded a second time."""


class TimeStack(nn.Module):
    """Two convolutions over three neighbouring frames; the norms take their statistics from the whole clip.

    1 c f h w -> 1 c f h w, without the residual
    """

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.plan = layers.plan
        self.in_layers = Stage(channels, layers, layers.conv_over_frames(channels))
        self.out_layers = Stage(channels, layers, layers.conv_over_frames(channels), dropout=True)

    def forward(self, x: Tensor) -> Tensor:
        h, bias = self.plan.over_time((self.in_layers, self.out_layers), x)
        return h if bias is None else h + bias[..., None, None, None]


class VideoResnetBlock(ResnetBlock):
    """The block of pictures, then a share sigmoid(`mix_factor`) of what mixes the frames. f c h w -> f c_out h w"""

    def __init__(self, c_in: int, c_out: int, layers: Layers) -> None:
        super().__init__(c_in, c_out, layers)
        self.plan = layers.plan
        self.time_stack = TimeStack(c_out, layers)
        self.mix_factor = nn.Parameter(torch.zeros(1, **layers.where))

    def forward(self, x: Tensor) -> Tensor:
        clip = to_clips(self.plan.over_frames(super().forward, x), len(x))
        share = self.mix_factor.to(clip).sigmoid()
        return to_frames(torch.addcmul(clip, self.time_stack(clip), share))


class ReferenceAttention(nn.Module):
    """Every pixel of every frame attends to all pixels of both pictures; what it finds is added.

    f c h w, pictures 2 c h w -> f c h w
    """

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.fused = layers.fused
        inner = HEADS * HEAD_CHANNELS
        self.norm = layers.group_norm(channels, EPS)
        self.to_q = layers.linear(channels, inner, bias=False)
        self.to_k = layers.linear(channels, inner, bias=False)
        self.to_v = layers.linear(channels, inner, bias=False)
        self.to_out = nn.Sequential(layers.linear(inner, channels))

    def forward(self, x: Tensor, pictures: Tensor) -> Tensor:
        seen = pictures.flatten(2).transpose(1, 2).flatten(0, 1)[None]  # 1 (2 h w) c
        k, v = self.to_k(seen), self.to_v(seen)

        def one(frame: Tensor) -> Tensor:
            q = self.to_q(self.fused.group_norm(self.norm, frame).flatten(2).transpose(1, 2))
            found: Tensor = self.to_out(sdpa_attention(q, k, v, HEADS))
            return frame + found.transpose(1, 2).unflatten(2, frame.shape[2:])

        return gathered((one(frame) for frame in x.split(1)), len(x))


class Combiner(nn.Module):
    """Adds the pictures to the first and the last frame, in place. f c h w, pictures 2 c h w -> f c h w"""

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.conv = layers.conv2d(channels, channels, size=1)

    def forward(self, x: Tensor, pictures: Tensor) -> Tensor:
        first, last = self.conv(pictures)
        x[0] += first
        x[-1] += last
        return x


class ReferenceDecoder(Decoder):
    """f latent h w -> f 3 (8 h) (8 w), the frames of one clip.

    In memory at once are about five maps of the finest level for all frames. What sees one frame alone, or one pixel
    alone, runs in parts.
    """

    def __init__(self, spec: AutoencoderSpec, layers: Layers) -> None:
        super().__init__(spec, layers, VideoResnetBlock)
        self.plan = layers.plan
        widths = [spec.channels * mult for mult in spec.channel_mult]
        attending = spec.reference_levels or ()
        self.attn_refinement = nn.ModuleList(
            ReferenceAttention(width, layers) if level in attending else Combiner(width, layers)
            for level, width in enumerate(widths)
        )
        self.attn_refinement.append(Combiner(widths[0], layers))
        self.conv_out.add_module(TIME_MIX, layers.conv_over_frames(3))

    def clip(self, z: Tensor, references: Sequence[Tensor] | None = None) -> Tensor:
        """The frames of a clip as the authors decode it; `references` are the encoder's `levels` of two pictures.

        With references the two frames in the middle come from a second pass, over the clip without its second and its
        last frame but one.
        """
        frames: Tensor = self(z, references)
        count, middle = len(z), len(z) // 2
        if references is None or count < FEWEST:
            return frames
        kept = [frame for frame in range(count) if frame not in (1, count - 2)]
        frames[middle - 1 : middle + 1] = self(z[kept], references)[middle - 2 : middle]
        return frames

    def forward(self, z: Tensor, references: Sequence[Tensor] | None = None) -> Tensor:
        """One pass."""
        h = self.mid(self.conv_in(z))
        for number, level in reversed(list(enumerate(cast(Iterable[Level], self.up)))):
            for block in level.block:  # whose input can go when it is done
                h = block(h)
            if references is not None:
                h = self.attn_refinement[number](h, references[number])
            h = self.plan.over_frames(level.resampled, h) if number else h
        h = self.plan.over_frames(lambda part: self.fused.group_norm(self.norm_out, part, silu=True), h)
        if references is not None:
            h = self.attn_refinement[-1](h, references[-1])
        frames = self.plan.over_frames(self.conv_out, h)
        out: Tensor = self.conv_out.get_submodule(TIME_MIX)(to_clips(frames, len(frames)))
        return to_frames(out)
