"""The pose encoder of CameraCtrl (arXiv:2404.02101) and CamI2V (arXiv:2410.15957): maps of camera rays become features
for each level of the UNet. Attribute names are the published ones.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import Attention, sdpa_attention
from ..feed_forward import FeedForward
from ..layers import Layers, to_clips, to_frames

DOWNSCALE = 8
"""Pixels along one side of a pixel of the finest features."""

RAY = 6
"""Numbers of a ray's Plücker coordinates."""

HEADS = 8


class PositionsOverTime(nn.Module):
    """The table 1 f d of sines (even channels) and cosines (odd ones) that is added to the tokens of f frames."""

    def __init__(self, frames: int, width: int, layers: Layers) -> None:
        super().__init__()
        self.register_buffer("pe", position_table(frames, width).to(**layers.where))


def position_table(frames: int, width: int) -> Tensor:
    """1 f d, at geometric frequencies from 1 down to 1/10000 (arXiv:1706.03762)."""
    angles = torch.arange(frames)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[None]


class FrameAttention(nn.Module):
    """The frames of a pixel attend to each other: n f d -> n f d."""

    def __init__(self, width: int, frames: int, layers: Layers) -> None:
        super().__init__()
        self.attention = layers.attention
        self.to_q = layers.linear(width, width, bias=False)
        self.to_k = layers.linear(width, width, bias=False)
        self.to_v = layers.linear(width, width, bias=False)
        self.to_out = nn.Sequential(layers.linear(width, width))
        self.pos_encoder = PositionsOverTime(frames, width, layers)

    def forward(self, x: Tensor) -> Tensor:
        pe: Any = self.pos_encoder.pe
        x = x + pe[:, : x.shape[1]].to(x)
        out: Tensor = self.to_out(self.attention(self.to_q(x), self.to_k(x), self.to_v(x), HEADS))
        return out


class PoseTransformer(nn.Module):
    """An attention over frames and a feed-forward, each on normed tokens and added to the stream: n f d -> n f d."""

    def __init__(self, width: int, frames: int, layers: Layers) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList([FrameAttention(width, frames, layers)])
        self.norms = nn.ModuleList([layers.layer_norm(width)])
        self.ff = FeedForward(width, layers)
        self.ff_norm = layers.layer_norm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention_blocks[0](self.norms[0](x))
        out: Tensor = self.ff(self.ff_norm(x), x)
        return out


class PoseConvolutions(nn.Module):
    """x + two convolutions of x, with half the size and other channels before them where a level begins."""

    def __init__(self, c_in: int, c_out: int, down: bool, layers: Layers) -> None:
        super().__init__()
        self.down = down
        self.in_conv = layers.conv2d(c_in, c_out, size=1) if c_in != c_out else None
        self.block1 = layers.conv2d(c_out, c_out)
        self.block2 = layers.conv2d(c_out, c_out, size=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.down:
            x = F.avg_pool2d(x, 2)
        if self.in_conv is not None:
            x = self.in_conv(x)
        out: Tensor = x + self.block2(F.relu(self.block1(x)))
        return out


class PoseEncoder(nn.Module):
    """Maps of rays b 6 f h w -> features, one map b c f h/8 w/8, then /16, /32 and /64, for each level.

    channels: of each level. units: blocks of a level. frames: the most frames that it takes. operations, attention,
    where: the classes of the layers, the attention function, and device and dtype.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (320, 640, 1280, 1280),
        units: int = 2,
        frames: int = 16,
        *,
        operations: Any = nn,
        attention: Attention = sdpa_attention,
        **where: Any,
    ) -> None:
        super().__init__()
        layers = Layers(operations, attention=attention, **where)
        self.channels, self.frames = channels, frames
        self.encoder_conv_in = layers.conv2d(RAY * DOWNSCALE**2, channels[0])
        self.encoder_down_conv_blocks = nn.ModuleList()
        self.encoder_down_attention_blocks = nn.ModuleList()
        before = channels[0]
        for level, width in enumerate(channels):
            starts = [(before if unit == 0 else width, level > 0 and unit == 0) for unit in range(units)]
            self.encoder_down_conv_blocks.append(
                nn.ModuleList(PoseConvolutions(c_in, width, down, layers) for c_in, down in starts)
            )
            self.encoder_down_attention_blocks.append(
                nn.ModuleList(PoseTransformer(width, frames, layers) for _ in range(units))
            )
            before = width

    def forward(self, rays: Tensor) -> list[Tensor]:
        frames = rays.shape[2]
        x = self.encoder_conv_in(F.pixel_unshuffle(to_frames(rays), DOWNSCALE))
        features = []
        for level, blocks in enumerate(self.encoder_down_conv_blocks):
            transformers: Any = self.encoder_down_attention_blocks[level]
            convolutions: Any = blocks
            for convolve, transform in zip(convolutions, transformers, strict=True):
                x = _over_time(transform, convolve(x), frames)
            features.append(to_clips(x, frames))
        return features


def _over_time(layer: nn.Module, x: Tensor, frames: int) -> Tensor:
    """(b f) c h w -> the same, by a layer over the frames of each pixel."""
    clips = x.unflatten(0, (-1, frames)).permute(0, 3, 4, 1, 2)  # b h w f c
    out: Tensor = layer(clips.flatten(0, 2)).view(clips.shape)
    return out.permute(0, 3, 4, 1, 2).flatten(0, 1)
