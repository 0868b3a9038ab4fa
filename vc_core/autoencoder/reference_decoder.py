"""ToonCrafter's decoder (arXiv:2405.17933), which decodes a whole clip with the images at its two ends as references.

Every block also mixes neighbouring frames. After each level, the encoder's features of the two images at that level are
used: at the coarse levels every frame attends to both, at the fine levels they are added to the first and the last
frame. This restores lines that the latents have lost. Axis 0 is the frames f of one clip; attribute names are the
published ones.
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
"""The last convolution over frames; in published files it is a child of the preceding convolution."""
FEWEST = 6
"""Minimum number of frames for a second decoding of the two middle frames."""


class TimeStack(nn.Module):
    """Two convolutions over three neighbouring frames; the norms use the statistics of the whole clip.

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
    """The image block, plus sigmoid(`mix_factor`) times the temporal residual. f c h w -> f c_out h w"""

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
    """Cross-attention from every pixel of every frame to all pixels of both reference images, with a residual.

    f c h w, images 2 c h w -> f c h w
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

    def forward(self, x: Tensor, images: Tensor) -> Tensor:
        tokens = images.flatten(2).transpose(1, 2).flatten(0, 1)[None]  # 1 (2 h w) c
        k, v = self.to_k(tokens), self.to_v(tokens)

        def attend(frame: Tensor) -> Tensor:
            q = self.to_q(self.fused.group_norm(self.norm, frame).flatten(2).transpose(1, 2))
            out: Tensor = self.to_out(sdpa_attention(q, k, v, HEADS))
            return frame + out.transpose(1, 2).unflatten(2, frame.shape[2:])

        return gathered((attend(frame) for frame in x.split(1)), len(x))


class Combiner(nn.Module):
    """Adds the reference images to the first and the last frame, in place. f c h w, images 2 c h w -> f c h w"""

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.conv = layers.conv2d(channels, channels, size=1)

    def forward(self, x: Tensor, images: Tensor) -> Tensor:
        first, last = self.conv(images)
        x[0] += first
        x[-1] += last
        return x


class ReferenceDecoder(Decoder):
    """f latent h w -> f 3 (8 h) (8 w), the frames of one clip.

    The peak memory is about five feature maps of the finest level for all frames. Layers that process frames or pixels
    independently run in chunks.
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
        """Decodes a clip as the authors do; `references` are the encoder's `levels` of the two images.

        With references, the two middle frames come from a second pass over the clip without its second and its
        second-to-last frame.
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
            for block in level.block:  # a loop frees each block's input early
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
