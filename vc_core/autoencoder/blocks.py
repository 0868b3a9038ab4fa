"""The blocks of the autoencoder, which process images n c h w independently. Attribute names are the published ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..network.attention import sdpa_attention
from ..network.layers import Layers
from ..specs import AutoencoderSpec

EPS = 1e-6

FUSED = 256
"""The widest head for which every GPU has an attention kernel that does not store the attention map."""


class ResnetBlock(nn.Module):
    """n c h w -> n c_out h w"""

    def __init__(self, c_in: int, c_out: int, layers: Layers) -> None:
        super().__init__()
        self.fused = layers.fused
        self.norm1 = layers.group_norm(c_in, EPS)
        self.conv1 = layers.conv2d(c_in, c_out)
        self.norm2 = layers.group_norm(c_out, EPS)
        self.conv2 = layers.conv2d(c_out, c_out)
        self.nin_shortcut = layers.conv2d(c_in, c_out, size=1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h, bias = self.fused.convolution(self.conv1, self.fused.group_norm(self.norm1, x, silu=True))
        h, bias = self.fused.convolution(self.conv2, self.fused.group_norm(self.norm2, h, silu=True, add=bias))
        return self.fused.add(self.fused.pointwise(self.nin_shortcut, x), h, bias)


class AttentionBlock(nn.Module):
    """Self-attention over the pixels of one frame, one head. n c h w -> n c h w"""

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.plan, self.fused = layers.plan, layers.fused
        self.norm = layers.group_norm(channels, EPS)
        self.q = layers.conv2d(channels, channels, size=1)
        self.k = layers.conv2d(channels, channels, size=1)
        self.v = layers.conv2d(channels, channels, size=1)
        self.proj_out = layers.conv2d(channels, channels, size=1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = self.fused.group_norm(self.norm, x)
        maps = (self.fused.pointwise(project, y) for project in (self.q, self.k, self.v))
        q, k, v = (of_pixels.flatten(2).transpose(1, 2) for of_pixels in maps)  # n (h w) c
        out = sdpa_attention(q, k, v, heads=1) if x.device.type == "cpu" else self.in_blocks(q, k, v)
        return x + self.fused.pointwise(self.proj_out, out.transpose(1, 2).reshape(n, c, h, w))

    def in_blocks(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention over n (h w) c on a GPU. Its kernels need contiguous tokens, and for a wide head they may store the
        whole attention map, so queries are processed in blocks."""
        q, k, v = (tokens.contiguous() for tokens in (q, k, v))
        if q.shape[-1] <= FUSED:
            return sdpa_attention(q, k, v, heads=1)
        out, rows = torch.empty_like(q), max(1, self.plan.budget.values // (len(q) * k.shape[1]))
        for some, result in zip(q.split(rows, dim=1), out.split(rows, dim=1), strict=True):
            result.copy_(sdpa_attention(some, k, v, heads=1))
        return out


class Downsample(nn.Module):
    """Halves height and width; pads only on the right and at the bottom, as the published weights expect."""

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.conv = layers.conv2d(channels, channels, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Doubles height and width."""

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.conv = layers.conv2d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Middle(nn.Module):
    """The blocks at the coarsest resolution."""

    def __init__(self, channels: int, layers: Layers, kind: type[ResnetBlock] = ResnetBlock) -> None:
        super().__init__()
        self.block_1 = kind(channels, channels, layers)
        self.attn_1 = AttentionBlock(channels, layers)
        self.block_2 = kind(channels, channels, layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Level(nn.Module):
    """The blocks at one resolution, followed by `downsample`, `upsample` or neither."""

    def __init__(
        self, c_in: int, c_out: int, blocks: int, layers: Layers, kind: type[ResnetBlock] = ResnetBlock
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(kind(c_in if i == 0 else c_out, c_out, layers) for i in range(blocks))
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.resampled(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """The output of the blocks."""
        for block in self.block:
            x = block(x)
        return x

    def resampled(self, x: Tensor) -> Tensor:
        """x resampled to the next level."""
        for resample in (self.downsample, self.upsample):
            x = x if resample is None else resample(x)
        return x


class Encoder(nn.Module):
    """n 3 h w -> n (2 latent) h/f w/f"""

    def __init__(self, spec: AutoencoderSpec, layers: Layers) -> None:
        super().__init__()
        self.fused = layers.fused
        widths = [spec.channels * mult for mult in spec.channel_mult]
        self.conv_in = layers.conv2d(3, spec.channels)
        self.down = nn.ModuleList()
        c_in = spec.channels
        for i, width in enumerate(widths):
            level = Level(c_in, width, spec.num_res_blocks, layers)
            if i < len(widths) - 1:
                level.downsample = Downsample(width, layers)
            self.down.append(level)
            c_in = width
        self.mid = Middle(c_in, layers)
        self.norm_out = layers.group_norm(c_in, EPS)
        self.conv_out = layers.conv2d(c_in, 2 * spec.latent_channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        out: Tensor = self.conv_out(self.fused.group_norm(self.norm_out, self.mid(h), silu=True))
        return out

    def levels(self, x: Tensor) -> list[Tensor]:
        """The features of all levels, from the finest to the coarsest, followed by the output of the first
        convolution."""
        first = h = self.conv_in(x)
        features = []
        for level in cast(Iterable[Level], self.down):
            features.append(level.features(h))
            h = level.resampled(features[-1])
        return [*features, first]


class Decoder(nn.Module):
    """n latent h w -> n 3 (f h) (f w). `up` is indexed from the finest level and runs from the coarsest."""

    def __init__(self, spec: AutoencoderSpec, layers: Layers, kind: type[ResnetBlock] = ResnetBlock) -> None:
        super().__init__()
        self.fused = layers.fused
        widths = [spec.channels * mult for mult in spec.channel_mult]
        c_in = widths[-1]
        self.conv_in = layers.conv2d(spec.latent_channels, c_in)
        self.mid = Middle(c_in, layers, kind)
        levels = []
        for i, width in reversed(list(enumerate(widths))):
            level = Level(c_in, width, spec.num_res_blocks + 1, layers, kind)
            if i > 0:
                level.upsample = Upsample(width, layers)
            levels.append(level)
            c_in = width
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = layers.group_norm(c_in, EPS)
        self.conv_out = layers.conv2d(c_in, 3)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in cast(list[Level], reversed(self.up)):
            for block in level.block:  # a loop frees each block's input early
                h = block(h)
            h = level.resampled(h)
        out: Tensor = self.conv_out(self.fused.group_norm(self.norm_out, h, silu=True))
        return out
