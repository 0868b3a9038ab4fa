"""The gate of the feed-forward layers, and sums: each value is read and written once, 16 bytes at a time."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import launch

TILE = (8, 256)
"""Rows and channels of a tile of the gate and of sums with a bias."""
FLAT = 2048
"""Values of a tile of sums without a bias."""


@triton.jit(do_not_specialize=["rows", "blocks"])
def _geglu(
    x: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    d: tl.tensor,
    blocks: tl.tensor,
    tile: tl.constexpr,
    width: tl.constexpr,
) -> None:
    """rows 2d -> rows d. With a = |z|, gelu(z) = max(z, 0) - a / 2 * erfc(a / sqrt(2)), and erfc is a polynomial in
    t = 1 / (1 + 0.3275911 a / sqrt(2)) times exp(-a^2 / 2), right to 1.5e-7 (Abramowitz and Stegun, 7.1.26)."""
    first = tl.program_id(0) // blocks * tile
    channel = tl.program_id(0) % blocks * width + tl.arange(0, width)
    row = tl.arange(0, tile)
    mask = (first + row < rows)[:, None] & (channel < d)[None, :]
    start = first.to(tl.int64) * d
    offsets = row[:, None] * d * 2 + channel[None, :]
    value = tl.load(x + start * 2 + offsets, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(x + start * 2 + d + offsets, mask=mask, other=0.0).to(tl.float32)
    size = tl.abs(gate)
    root = tl.rsqrt(1.0 + 0.23164189 * size)
    t = root * root
    tail = t * (0.127414796 + t * (-0.142248368 + t * (0.7107068705 + t * (-0.7265760135 + t * 0.5307027145))))
    y = value * (tl.maximum(gate, 0.0) - size * tail * tl.exp2(gate * gate * -0.7213475204444817))
    tl.store(out + start + row[:, None] * d + channel[None, :], y.to(out.dtype.element_ty), mask=mask)


def geglu(x: Tensor, tile: tuple[int, int] = TILE) -> Tensor:
    """See `kernels.geglu`."""
    x = x.contiguous()
    d = x.shape[-1] // 2
    out = x.new_empty((*x.shape[:-1], d))
    rows = x.numel() // (2 * d)
    blocks = -(-d // tile[1])
    launch(_geglu, blocks * -(-rows // tile[0]), 4, (x, out), (rows, d, blocks, *tile))
    return out


@triton.jit
def _add(x: tl.tensor, h: tl.tensor, out: tl.tensor, values: tl.tensor, tile: tl.constexpr) -> None:
    """values -> values"""
    start = tl.program_id(0).to(tl.int64) * tile
    offsets = tl.arange(0, tile)
    mask = start + offsets < values
    y = tl.load(x + start + offsets, mask=mask).to(tl.float32) + tl.load(h + start + offsets, mask=mask).to(tl.float32)
    tl.store(out + start + offsets, y.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "blocks"])
def _add_with_bias(
    x: tl.tensor,
    h: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    c: tl.tensor,
    blocks: tl.tensor,
    tile: tl.constexpr,
    width: tl.constexpr,
) -> None:
    """rows c -> rows c"""
    first = tl.program_id(0) // blocks * tile
    channel = tl.program_id(0) % blocks * width + tl.arange(0, width)
    row = tl.arange(0, tile)
    inside = channel < c
    mask = (first + row < rows)[:, None] & inside[None, :]
    start = first.to(tl.int64) * c
    offsets = row[:, None] * c + channel[None, :]
    y = tl.load(x + start + offsets, mask=mask).to(tl.float32) + tl.load(h + start + offsets, mask=mask).to(tl.float32)
    y += tl.load(bias + channel, mask=inside).to(tl.float32)[None, :]
    tl.store(out + start + offsets, y.to(out.dtype.element_ty), mask=mask)


def add(x: Tensor, h: Tensor, bias: Tensor | None) -> Tensor:
    """See `kernels.add`."""
    out = torch.empty_like(x)
    values = x.numel()
    if out.stride() != x.stride() or h.stride() != x.stride():  # copied where one of them is a view with other strides
        x, h = (torch.empty_like(out).copy_(y) for y in (x, h))
    if bias is None:
        launch(_add, -(-values // FLAT), 4, (x, h, out), (values, FLAT))
        return out
    c = len(bias)
    rows, blocks = values // c, -(-c // TILE[1])
    launch(_add_with_bias, blocks * -(-rows // TILE[0]), 4, (x, h, bias, out), (rows, c, blocks, *TILE))
    return out
