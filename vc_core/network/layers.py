"""The convolutional parts of the video UNet. Spatial layers see every frame alone, `(b f) c h w`; temporal ones see
whole clips, `b c f h w`. Attribute names are the published ones, misspelling included."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adapter import wrapped
from .attention import Attention, sdpa_attention
from .call import Call
from .fused import Fused, Weights
from .operations import linear_class, norm_class, over_frames
from .plan import Plan

NORM_EPS = 1e-5


class Layers:
    """Makes the layers of one network: the classes of an operations namespace (default `torch.nn`), all with the same
    device, dtype, number of norm groups and attention function. `plan` applies them to feature maps, `fused` computes
    them, with `weights` for operations other than torch's, see `network.fused`."""

    def __init__(
        self,
        operations: ModuleType | Any = nn,
        groups: int = 32,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        weights: Weights | None = None,
        attention: Attention = sdpa_attention,
    ) -> None:
        self.operations, self.groups, self.attention = operations, groups, attention
        self.where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.fused = Fused(operations, weights)
        self.plan = Plan(self.fused)

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
        self.fused, self._last = layers.fused, str(len(unused) + 1)

    @property
    def norm(self) -> Any:
        return self._modules["0"]

    @property
    def convolution(self) -> Any:
        return self._modules[self._last]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.convolution(self.fused.group_norm(self.norm, x, silu=True))
        return out

    def deferred(
        self, x: Tensor, add: Tensor | None = None, convolve: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Its result for x + add, m c, and the bias that is left to add to it, see `Fused.convolution`. `convolve`
        takes the place of the convolution."""
        h = self.fused.group_norm(self.norm, x, silu=True, add=add)
        return self.fused.convolution(self.convolution, h) if convolve is None else (convolve(h), None)


def dilated(convolution: Any, x: Tensor, dilation: int = 1, spread: Tensor | None = None) -> Tensor:
    """convolution(x) with dilated 3x3 kernels, and padding for the same size. Its own settings stay as they are.
    spread: 25 9, makes 5x5 kernels of them, row by row."""
    if dilation != 1 or spread is not None:
        reach = dilation if spread is None else 2 * dilation
        convolution = copy.copy(convolution)  # shares the weights
        convolution.dilation, convolution.padding = (dilation, dilation), (reach, reach)
        if spread is not None:  # where a host has cast and patched the weights
            settings = {"stride": convolution.stride, "padding": reach, "dilation": dilation}
            convolution._conv_forward = partial(_spread_convolution, spread, settings)
    out: Tensor = convolution(x)
    return out


def _spread_convolution(
    spread: Tensor, settings: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """A convolution by 5x5 kernels, computed from 3x3 ones in float32."""
    kernels = (weight.flatten(2).float() @ spread.to(weight.device, torch.float32).T).unflatten(2, (5, 5))
    return F.conv2d(x, kernels.to(weight.dtype), bias, **settings)


def adapted(convolution: nn.Module, name: str, call: Call, x: Tensor) -> Callable[[Tensor], Tensor] | None:
    """A convolution of x as adapters compute it; None where none of them does."""
    wrappers = call.at("convolution", convolution=name, grid=tuple(x.shape[-2:]))
    return wrapped(partial(dilated, convolution), wrappers) if wrappers else None


class TemporalConv(nn.Module):
    """Four convolutions over time with a residual; the norms take their statistics from the whole clip.

    b c f h w -> b c f h w
    """

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.plan = layers.plan
        self.conv1 = Stage(channels, layers, layers.conv_over_frames(channels))
        self.conv2 = self._later(channels, layers)
        self.conv3 = self._later(channels, layers)
        self.conv4 = self._later(channels, layers)

    @staticmethod
    def _later(channels: int, layers: Layers) -> Stage:
        return Stage(channels, layers, layers.conv_over_frames(channels), dropout=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.plan.add_over_time((self.conv1, self.conv2, self.conv3, self.conv4), x)


class ResBlock(nn.Module):
    """Two convolutions with the embedding added between them, a residual, then optionally the temporal convolution.

    (b f) c_in h w -> (b f) c_out h w
    """

    def __init__(self, c_in: int, c_out: int, emb_width: int, temporal_conv: bool, layers: Layers) -> None:
        super().__init__()
        self.plan, self.fused = layers.plan, layers.fused
        self.in_layers = Stage(c_in, layers, layers.conv2d(c_in, c_out))
        self.emb_layers = nn.Sequential(nn.Identity(), layers.linear(emb_width, c_out))  # a SiLU in the published names
        self.out_layers = Stage(c_out, layers, layers.conv2d(c_out, c_out), dropout=True)
        self.skip_connection = layers.conv2d(c_in, c_out, size=1) if c_in != c_out else nn.Identity()
        self.temopral_conv = TemporalConv(c_out, layers) if temporal_conv else None

    def forward(self, x: Tensor, call: Call) -> Tensor:
        shifts = call.shifts.get(self) or (self.emb_layers(call.for_clips(call.emb, x)),)
        if len(shifts) == 2:
            shifts = tuple(call.for_clips(shift, x) for shift in shifts)
        h = self.plan.over_frames(partial(self._in_space, call), x, *shifts)
        if self.temopral_conv is not None:
            h = to_frames(self.temopral_conv(to_clips(h, call.frames)))
        return h

    def _in_space(self, call: Call, x: Tensor, e: Tensor, biased: Tensor | None = None) -> Tensor:
        """Both convolutions and the residual. `e`, m c, is the embedding for each of m equal parts of the rows, and
        `biased` with the first convolution's bias added where that is known."""
        h, bias = self.in_layers.deferred(x, None, adapted(self.in_layers.convolution, "in_layers", call, x))
        if bias is not None:
            e = e + bias if biased is None else biased
        h, bias = self.out_layers.deferred(h, e, adapted(self.out_layers.convolution, "out_layers", call, h))
        return self.fused.add(self.fused.pointwise(self.skip_connection, x), h, bias)


class Downsample(nn.Module):
    """Halves height and width, rounding up. (b f) c h w -> (b f) c ceil(h/2) ceil(w/2)"""

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.plan = layers.plan
        self.op = layers.conv2d(channels, channels, stride=2)

    def forward(self, x: Tensor, call: Call) -> Tensor:
        return self.plan.over_frames(adapted(self.op, "op", call, x) or self.op, x)


class Upsample(nn.Module):
    """Enlarges to the size of the skip connection that follows: twice as large, or one less where that was odd."""

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        self.plan = layers.plan
        self.conv = layers.conv2d(channels, channels)

    def forward(self, x: Tensor, call: Call) -> Tensor:
        return self.plan.over_frames(partial(self._enlarged, call), x)

    def _enlarged(self, call: Call, x: Tensor) -> Tensor:
        x = F.interpolate(x, size=call.size, mode="nearest")
        out: Tensor = (adapted(self.conv, "conv", call, x) or self.conv)(x)
        return out
