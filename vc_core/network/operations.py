"""Layers whose fastest form on a CPU is not torch's own. Their parameters and names are torch's.

In float32, a matrix product through torch's `linear` reaches about half the rate of a convolution on processors for
which the linear algebra library was not tuned, so a large product runs as a convolution of 1 x 1. A convolution over
time alone, 3 x 1 x 1, runs on any device as one over two axes: frames, and all pixels of a frame in a row.
"""

from __future__ import annotations

from functools import cache, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PARTS = range(16, 49)
"""Into how many equal parts the rows of a product may be split: torch sends convolutions of 1 x 1 to the fast library
from a batch of 16 on."""

PIECES = 4
"""Into how many parts a norm divides a map where it needs a second one beside it."""

WORTH_IT = 2**23
"""Multiply-adds of the smallest product that is worth a convolution's set-up."""


class Linear(nn.Linear):
    """x W^T + b of `nn.Linear`. On a CPU in float32 it is computed as a convolution where the shape allows it."""

    def forward(self, input: Tensor) -> Tensor:
        parts = _parts(input, self.weight)
        if not parts:
            return F.linear(input, self.weight, self.bias)
        d_out, d_in = self.weight.shape
        rows = input.reshape(parts, -1, 1, d_in).permute(0, 3, 1, 2)  # parts d_in rows 1, in channels_last
        out = F.conv2d(rows, self.weight[:, :, None, None], self.bias)
        return out.permute(0, 2, 3, 1).reshape(*input.shape[:-1], d_out)


def _parts(x: Tensor, weight: Tensor) -> int:
    """Into how many parts the rows of x should be split for a convolution; 0 where a plain product is better."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype != torch.float32:
        return 0  # a compiler makes its own choice, for every number of rows at once
    if x.numel() * len(weight) < WORTH_IT:
        return 0
    rows = x.numel() // x.shape[-1]
    return next((parts for parts in PARTS if rows % parts == 0), 0)


class GroupNorm(nn.GroupNorm):
    """The norm of `nn.GroupNorm`. In channels-last memory on a CPU torch takes E[x^2] - E[x]^2 as the variance, which
    loses groups of a small spread; there it is taken around the mean."""

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or input.is_contiguous() or input.dtype != torch.float32:
            return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
        centred = input - self._over_pixels(self._of_groups(input.flatten(2).mean(-1)), input)
        variance = self._of_groups(self._squares(centred) / input[0, 0].numel())
        scale = self._over_pixels(self.weight * torch.rsqrt(variance + self.eps), input)
        bias = self._over_pixels(self.bias, input)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return torch.addcmul(bias, centred, scale)
        return torch.addcmul(bias, centred, scale, out=centred)

    @staticmethod
    def _squares(x: Tensor) -> Tensor:
        """n c, the sums of the squares, a few rows at a time: no map of them. A compiler needs none in any case."""
        if torch.compiler.is_compiling():
            return x.square().flatten(2).sum(-1)
        return reduce(torch.add, (part.square().flatten(2).sum(-1) for part in x.chunk(PIECES, dim=2)))

    def _of_groups(self, values: Tensor) -> Tensor:
        """n c -> n c, the mean of each group for its channels"""
        groups = values.view(values.shape[0], self.num_groups, -1)
        return groups.mean(-1).repeat_interleave(groups.shape[-1], dim=1)

    @staticmethod
    def _over_pixels(values: Tensor, x: Tensor) -> Tensor:
        """n c or c, shaped to be broadcast over x"""
        return values.view(*values.shape, *[1] * (x.ndim - 2))


class OverFrames:
    """Makes a Conv3d of 3 x 1 x 1, stride 1 and padding 1 over the frames, compute itself as a Conv2d."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None, *_: Any, **__: Any) -> Tensor:
        """b c f h w -> b c f h w. `_` are a host's arguments about padding, which is fixed here."""
        out = F.conv2d(input.flatten(3), weight[..., 0], bias, padding=(1, 0))
        return out.unflatten(3, input.shape[3:])


def linear_class(operations: Any) -> Any:
    """The linear layer of an operations namespace; `Linear` in place of torch's own."""
    return Linear if operations is nn else operations.Linear


def norm_class(operations: Any) -> Any:
    """The group norm of an operations namespace; `GroupNorm` in place of torch's own."""
    return GroupNorm if operations is nn else operations.GroupNorm


@cache
def over_frames(conv3d: Any) -> Any:
    """The Conv3d class of an operations namespace, computed over the frames alone."""
    return type(f"{conv3d.__name__}OverFrames", (OverFrames, conv3d), {})
