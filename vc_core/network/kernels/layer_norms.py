"""Layer norm over tokens, alone or of a sum."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import launch, power_of_two


@triton.jit(do_not_specialize=["rows"])
def _layer_norm(
    x: tl.tensor,
    h: tl.tensor,
    total: tl.tensor,
    out: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    later: tl.tensor,
    eps: tl.tensor,
    rows: tl.tensor,
    d: tl.tensor,
    tile: tl.constexpr,
    width: tl.constexpr,
    has_add: tl.constexpr,
    has_later: tl.constexpr,
) -> None:
    """rows d -> rows d; with `h` also the sum, plus `later` where it is given."""
    first = tl.program_id(0) * tile
    channel = tl.arange(0, width)
    inside = channel < d
    row = tl.arange(0, tile)
    offsets = first.to(tl.int64) * d + row[:, None] * d + channel[None, :]
    mask = (first + row < rows)[:, None] & inside[None, :]
    y = tl.load(x + offsets, mask=mask, other=0.0)
    if has_add:
        y = (y.to(tl.float32) + tl.load(h + offsets, mask=mask, other=0.0).to(tl.float32)).to(y.dtype)
        kept = y
        if has_later:
            added = tl.load(later + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
            kept = (y.to(tl.float32) + added).to(y.dtype)
        tl.store(total + offsets, kept, mask=mask)
    y = y.to(tl.float32)
    y = tl.where(inside[None, :], y - (tl.sum(y, 1) / d)[:, None], 0.0)
    y *= tl.rsqrt(tl.sum(y * y, 1) / d + eps)[:, None]
    scale = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    shift = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    tl.store(out + offsets, (y * scale + shift).to(out.dtype.element_ty), mask=mask)


class Rows(NamedTuple):
    """How a layer norm is cut into programs."""

    tile: int
    """Rows of a program."""
    width: int
    warps: int


@cache
def layer_plan(d: int) -> Rows:
    """The cut for rows of d: a warp holds up to 2048 values, and the sums of its own rows need no barrier."""
    width = power_of_two(d)
    return Rows(max(1, 2048 // width), width, min(8, max(1, width // 2048)))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, cut: Rows | None = None) -> Tensor:
    """See `kernels.layer_norm`."""
    x = x.contiguous()
    return _normed((x, x, x), (weight, bias, weight), eps, cut, (False, False))


def add_layer_norm(
    x: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    later: Tensor | None = None,
    cut: Rows | None = None,
) -> tuple[Tensor, Tensor]:
    """See `kernels.add_layer_norm`."""
    x, h = x.contiguous(), h.contiguous()
    total = torch.empty_like(x)
    vectors = (weight, bias, weight if later is None else later)
    return total, _normed((x, h, total), vectors, eps, cut, (True, later is not None))


def _normed(
    maps: tuple[Tensor, Tensor, Tensor],
    vectors: tuple[Tensor, Tensor, Tensor],
    eps: float,
    cut: Rows | None,
    given: tuple[bool, bool],
) -> Tensor:
    """`maps` are x, h and where their sum goes; `vectors` weight, bias and `later`; `given` tells whether h and `later`
    count."""
    x, h, total = maps
    out = torch.empty_like(x)
    d = x.shape[-1]
    rows = x.numel() // d
    cut = cut or layer_plan(d)
    launch(
        _layer_norm,
        -(-rows // cut.tile),
        cut.warps,
        (x, h, total, out, *vectors),
        (eps, rows, d, cut.tile, cut.width, *given),
    )
    return out
