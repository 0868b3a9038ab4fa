"""The convolutional parts of the video UNet. Spatial layers see every frame by itself, `(b f) c h w`; temporal ones see
whole clips, `b c f h w`. Attribute names are the published ones, misspelling included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fused import Fused, Weights
from .operations import linear_class, norm_class, over_frames
from .parts import Budget, gathered

NORM_EPS = 1e-5


class Layers:
    """Makes the layers of one network: the classes of an operations namespace (default `torch.nn`), all with the same
    device, dtype and number of norm groups. `budget` is what they work on at once, `fused` how they are computed; that
    takes `weights` from operations other than torch's, see `network.fused`."""

    def __init__(
        self,
        operations: ModuleType | Any = nn,
        groups: int = 32,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        weights: Weights | None = None,
    ) -> None:
        self.operations, self.groups = operations, groups
        self.where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.budget = Budget()
        self.fused = Fused(operations, weights)

    def linear(self, d_in: int, d_out: int, bias: bool = True) -> nn.Module:
        layer: nn.Module = linear_class(self.operations)(d_in, d_out, bias=bias, **self.where)
        return layer

    def conv1d(self, c_in: int, c_out: int) -> nn.Module:
        layer: nn.Module = self.operations.Conv1d(c_in, c_out, 1, **self.where)
        return layer

    def conv2d(self, c_in: int, c_out: int, size: int = 3, stride: int = 1, padding: int | None = None) -> nn.Module:
        padding = size // 2 if padding is None else padding
        layer: nn.Module = self.operations.Conv2d(c_in, c_out, size, stride=stride, padding=padding, **self.where)
        return layer

    def conv_over_frames(self, channels: int) -> nn.Module:
        """A convolution over three neighbouring frames, pixel by pixel."""
        layer: nn.Module = over_frames(self.operations.Conv3d)(
            channels, channels, (3, 1, 1), padding=(1, 0, 0), **self.where
        )
        return layer

    def group_norm(self, channels: int, eps: float = NORM_EPS) -> nn.Module:
        layer: nn.Module = norm_class(self.operations)(self.groups, channels, eps=eps, **self.where)
        return layer

    def layer_norm(self, width: int) -> nn.Module:
        layer: nn.Module = self.operations.LayerNorm(width, eps=NORM_EPS, **self.where)
        return layer


def to_clips(x: Tensor, frames: int) -> Tensor:
    """(b f) c h w -> b c f h w, a view"""
    return x.unflatten(0, (-1, frames)).transpose(1, 2)


def to_frames(x: Tensor) -> Tensor:
    """b c f h w -> (b f) c h w"""
    return x.transpose(1, 2).flatten(0, 1)


def repeated(x: Tensor, rows: int) -> Tensor:
    """x, over and over until it has so many rows."""
    return x if len(x) == rows else torch.cat([x] * (rows // len(x)))


def sinusoid(values: Tensor, width: int) -> Tensor:
    """n -> n width: cosines, then sines, of `values` at geometric frequencies from 1 down to 1/10000
    (arXiv:1706.03762, with the halves in the order that the published weights expect). float32."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=values.device) / half)
    angles = values.float()[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def scale_sinusoid(values: Tensor, width: int) -> Tensor:
    """n -> n width: sines, then cosines, of 1000 times a guidance scale (arXiv:2310.04378). float32, as the arguments
    are so large that their rounding is part of what the weights were trained with."""
    half = width // 2
    step = torch.full((), 10000.0, device=values.device).log() / (half - 1)
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=values.device) * -step)
    angles = (values.float() * 1000.0)[:, None] * frequencies[None]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def embedding_mlp(d_in: int, d_out: int, layers: Layers) -> nn.Sequential:
    """The map from a sinusoid to the embedding that every ResBlock receives."""
    return nn.Sequential(layers.linear(d_in, d_out), nn.SiLU(), layers.linear(d_out, d_out))


class Stage(nn.Sequential):
    """A norm, SiLU and a convolution. Published names count a SiLU as a layer, which the norm computes here, and with
    `dropout` another one behind it."""

    def __init__(self, channels: int, layers: Layers, convolution: nn.Module, *, dropout: bool = False) -> None:
        unused = [nn.Identity() for _ in range(1 + dropout)]
        super().__init__(layers.group_norm(channels), *unused, convolution)
        self.fused = layers.fused

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self[-1](self.fused.group_norm(self[0], x, silu=True))
        return out

    def deferred(self, x: Tensor, add: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Its result for x + add, m c, and the bias that is left to add to it, see `Fused.convolution`."""
        return self.fused.convolution(self[-1], self.fused.group_norm(self[0], x, silu=True, add=add))

    def in_parts(self, x: Tensor, budget: Budget) -> Tensor:
        """As `forward`, for a convolution that sees every pixel by itself. Behind the norm, which has the statistics of
        the whole clip, the map is changed in place."""
        norm, convolution, whole = self[0], self[-1], self.fused(x)
        x = self.fused.group_norm(norm, x, silu=whole)
        for part in budget.pixel_spans(x):
            part.copy_(convolution(part if whole else F.silu(part, inplace=True)))
        return x


def over_time(x: Tensor, stages: Sequence[Stage], budget: Budget) -> tuple[Tensor, Tensor | None]:
    """b c f h w through stages of convolutions over frames, and the bias that is left to add."""
    bias = None
    for stage in stages:
        x, bias = (stage.in_parts(x, budget), None) if budget.is_large(x) else stage.deferred(x, bias)
    return x, bias


class TemporalConv(nn.Module):
    """Four convolutions over time with a residual; the norms take their statistics from the whole clip.

    b c f h w -> b c f h w
    """

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.budget, self.fused = layers.budget, layers.fused
        self.conv1 = Stage(channels, layers, layers.conv_over_frames(channels))
        self.conv2 = self._later(channels, layers)
        self.conv3 = self._later(channels, layers)
        self.conv4 = self._later(channels, layers)

    @staticmethod
    def _later(channels: int, layers: Layers) -> Stage:
        return Stage(channels, layers, layers.conv_over_frames(channels), dropout=True)

    def forward(self, x: Tensor) -> Tensor:
        h, bias = over_time(x, (self.conv1, self.conv2, self.conv3, self.conv4), self.budget)
        return h.add_(x) if self.budget.is_large(x) else self.fused.add(x, h, bias)


class ResBlock(nn.Module):
    """Two convolutions with the embedding added between them, a residual, then optionally the temporal convolution.

    (b f) c_in h w -> (b f) c_out h w
    """

    def __init__(self, c_in: int, c_out: int, emb_width: int, temporal_conv: bool, layers: Layers) -> None:
        super().__init__()
        self.budget, self.fused = layers.budget, layers.fused
        self.in_layers = Stage(c_in, layers, layers.conv2d(c_in, c_out))
        self.emb_layers = nn.Sequential(nn.Identity(), layers.linear(emb_width, c_out))  # a SiLU in the published names
        self.out_layers = Stage(c_out, layers, layers.conv2d(c_out, c_out), dropout=True)
        self.skip_connection = layers.conv2d(c_in, c_out, size=1) if c_in != c_out else nn.Identity()
        self.temopral_conv = TemporalConv(c_out, layers) if temporal_conv else None

    def forward(self, x: Tensor, emb: Tensor, frames: int) -> Tensor:
        """`emb` is the SiLU of b d, or of (b f) d where every frame has its own timestep."""
        e = self.emb_layers(emb)
        if self.budget.is_large(x):
            e = e.repeat_interleave(len(x) // len(e), dim=0)
            h = gathered((self._in_space(x[rows], e[rows]) for _, rows in self.budget.frame_spans(x)), len(x))
        else:
            h = self._in_space(x, e)
        if self.temopral_conv is not None:
            h = to_frames(self.temopral_conv(to_clips(h, frames)))
        return h

    def _in_space(self, x: Tensor, e: Tensor) -> Tensor:
        h, bias = self.in_layers.deferred(x)
        h, bias = self.out_layers.deferred(h, e if bias is None else e + bias)
        return self.fused.add(self.fused.pointwise(self.skip_connection, x), h, bias)


class Downsample(nn.Module):
    """Halves height and width, rounding up. n c h w -> n c ceil(h/2) ceil(w/2)"""

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.budget = layers.budget
        self.op = layers.conv2d(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.budget.over_frames(self.op, x)


class Upsample(nn.Module):
    """Enlarges to the size of the skip connection that follows: twice as large, or one less where that was odd."""

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.budget = layers.budget
        self.conv = layers.conv2d(channels, channels)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        return self.budget.over_frames(lambda part: self.conv(F.interpolate(part, size=size, mode="nearest")), x)
