"""Group norms with or without SiLU, and the gated GELU of feed-forwards, each as one kernel forward and one backward,
for training on a GPU. They read maps where channels come last. As operations of torch they pass over a map many times.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vc_core.network.kernels.launching import launch

VALUES = 2048
"""Values of a block."""


@triton.jit
def _statistics(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    means: tl.tensor,
    scales: tl.tensor,
    length: tl.constexpr,
    groups: tl.tensor,
    eps: tl.tensor,
    width: tl.constexpr,
    rows: tl.constexpr,
    silu: tl.constexpr,
) -> None:
    """The norm of one group of `width` channels over `length` pixels."""
    program = tl.program_id(0)
    part, group = (program // groups).to(tl.int64), program % groups
    channel = tl.arange(0, width)[None, :]
    row = tl.arange(0, rows)[:, None]
    step = groups * width
    start = part * length * step + group * width
    total = tl.zeros([rows, width], tl.float32)
    for first in range(0, length, rows):
        inside = (row + first < length) & (channel < width)
        total += tl.load(x + start + (row + first) * step + channel, mask=inside, other=0.0).to(tl.float32)
    count = length * width
    mean = tl.sum(tl.sum(total, 1), 0) / count
    total = tl.zeros([rows, width], tl.float32)
    for first in range(0, length, rows):
        inside = (row + first < length) & (channel < width)
        value = tl.load(x + start + (row + first) * step + channel, mask=inside, other=0.0).to(tl.float32)
        value = tl.where(inside, value - mean, 0.0)
        total += value * value
    scale = 1.0 / tl.sqrt(tl.sum(tl.sum(total, 1), 0) / count + eps)
    w = tl.load(weight + group * width + channel).to(tl.float32)
    b = tl.load(bias + group * width + channel).to(tl.float32)
    for first in range(0, length, rows):
        inside = (row + first < length) & (channel < width)
        at = start + (row + first) * step + channel
        value = (tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - mean) * scale * w + b
        if silu:
            value = value / (1.0 + tl.exp(-value))
        tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)
    tl.store(means + program, mean)
    tl.store(scales + program, scale)


@triton.jit
def _norm_gradients(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    grad: tl.tensor,
    means: tl.tensor,
    scales: tl.tensor,
    out: tl.tensor,
    sums: tl.tensor,
    length: tl.constexpr,
    groups: tl.tensor,
    width: tl.constexpr,
    rows: tl.constexpr,
    silu: tl.constexpr,
) -> None:
    """The gradients of x, and in `sums`, parts 2 channels, those of weight and bias."""
    program = tl.program_id(0)
    part, group = (program // groups).to(tl.int64), program % groups
    channel = tl.arange(0, width)[None, :]
    row = tl.arange(0, rows)[:, None]
    step = groups * width
    start = part * length * step + group * width
    mean, scale = tl.load(means + program), tl.load(scales + program)
    w = tl.load(weight + group * width + channel).to(tl.float32)
    b = tl.load(bias + group * width + channel).to(tl.float32)
    of_weight = tl.zeros([rows, width], tl.float32)
    of_bias = tl.zeros([rows, width], tl.float32)
    for first in range(0, length, rows):
        inside = (row + first < length) & (channel < width)
        at = start + (row + first) * step + channel
        normed = (tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - mean) * scale
        slope = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        if silu:
            value = normed * w + b
            share = 1.0 / (1.0 + tl.exp(-value))
            slope = slope * share * (1.0 + value * (1.0 - share))
        of_weight += slope * normed
        of_bias += slope
    weight_sum, bias_sum = tl.sum(of_weight, 0)[None, :], tl.sum(of_bias, 0)[None, :]
    place = sums + part * 2 * step + group * width + channel
    tl.store(place, weight_sum)
    tl.store(place + step, bias_sum)
    count = length * width
    first_moment = tl.sum(tl.sum(bias_sum * w, 1), 0) / count
    second_moment = tl.sum(tl.sum(weight_sum * w, 1), 0) / count
    for first in range(0, length, rows):
        inside = (row + first < length) & (channel < width)
        at = start + (row + first) * step + channel
        normed = (tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - mean) * scale
        slope = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        if silu:
            value = normed * w + b
            share = 1.0 / (1.0 + tl.exp(-value))
            slope = slope * share * (1.0 + value * (1.0 - share))
        slope = (slope * w - first_moment - normed * second_moment) * scale
        tl.store(out + at, slope.to(out.dtype.element_ty), mask=inside)


class _Norm(torch.autograd.Function):
    """x n l c, contiguous, with statistics over l and the channels of a group."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        n, length, c = x.shape
        width, out = c // groups, torch.empty_like(x)
        means, scales = torch.empty(2, n * groups, dtype=torch.float32, device=x.device).unbind(0)
        sizes = (width, max(16, VALUES // width), silu)
        launch(_statistics, n * groups, 4, (x, weight, bias, out, means, scales), (length, groups, eps, *sizes))
        ctx.save_for_backward(x, weight, bias, means, scales)
        ctx.numbers = (length, groups, *sizes)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, means, scales = ctx.saved_tensors
        out = torch.empty_like(x)
        sums = torch.empty(len(x), 2, x.shape[-1], dtype=torch.float32, device=x.device)
        tensors = (x, weight, bias, grad.contiguous(), means, scales, out, sums)
        launch(_norm_gradients, len(means), 4, tensors, ctx.numbers)
        of_weight, of_bias = sums.sum(0).to(weight.dtype).unbind(0)
        return out, of_weight, of_bias, None, None, None


def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, rows: int = 1, silu: bool = False
) -> Tensor:
    """The norm of maps m h w c, with statistics of `rows` maps together, and SiLU behind it if wanted. The channels of
    a group must be a power of two."""
    flat = x.contiguous().view(len(x) // rows, -1, x.shape[-1])
    out: Tensor = _Norm.apply(flat, weight, bias, groups, eps, silu)
    return out.view(x.shape)


@triton.jit
def _gate(x: tl.tensor, out: tl.tensor, total: tl.tensor, half: tl.tensor, values: tl.constexpr) -> None:
    at = tl.program_id(0).to(tl.int64) * values + tl.arange(0, values)
    inside = at < total
    place = at // half * (2 * half) + at % half
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(x + place + half, mask=inside, other=0.0).to(tl.float32)
    below = 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(out + at, (value * gate * below).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gate_gradients(
    x: tl.tensor, grad: tl.tensor, out: tl.tensor, total: tl.tensor, half: tl.tensor, values: tl.constexpr
) -> None:
    at = tl.program_id(0).to(tl.int64) * values + tl.arange(0, values)
    inside = at < total
    place = at // half * (2 * half) + at % half
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(x + place + half, mask=inside, other=0.0).to(tl.float32)
    slope = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
    below = 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    density = 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
    tl.store(out + place, (slope * gate * below).to(out.dtype.element_ty), mask=inside)
    tl.store(out + place + half, (slope * value * (below + gate * density)).to(out.dtype.element_ty), mask=inside)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        out = x.new_empty((*x.shape[:-1], half))
        launch(_gate, triton.cdiv(out.numel(), VALUES), 4, (x, out), (out.numel(), half, VALUES))
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        out, half = torch.empty_like(x), x.shape[-1] // 2
        numbers = (grad.numel(), half, VALUES)
        launch(_gate_gradients, triton.cdiv(grad.numel(), VALUES), 4, (x, grad.contiguous(), out), numbers)
        return out


def gated(x: Tensor) -> Tensor:
    """... 2d -> ... d: the first half times the GELU of the second."""
    out: Tensor = _Gated.apply(x.contiguous())
    return out
