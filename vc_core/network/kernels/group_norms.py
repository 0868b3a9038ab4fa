"""Group norm over maps with channels last.

A map is n p c: p pixels of all frames that share statistics, c channels. Statistics are sums of deviations from a value
of the data itself, joined by Chan's formula, so that a mean far from zero costs no digits.

Blocks of whole groups, `units` vectors of channels wide, are read as lanes: lane l takes the vector l % units of row
l // units, so that any width fills the lanes whole.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import launch, power_of_two

WHOLE = 131072
"""Values of a block of groups up to which one program computes statistics and result: it reads its pixels twice."""

PART = 8192
"""Values of a block of groups in one part of a split, at least."""

SPLITS = 32
"""Into how many parts the pixels of a map are split at most for their statistics."""


@triton.jit
def _lane_sums(
    x: tl.tensor,
    c: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    units: tl.tensor,
    lanes: tl.constexpr,
    vector: tl.constexpr,
) -> tl.tensor:
    """Of rows `first` to `end` of a block: the count, mean and sum of squared deviations of each lane's values. They
    are deviations from the lane's first value."""
    lane = tl.arange(0, lanes)
    step = lanes // units
    row = first + lane // units
    last = tl.where(lane < step * units, end, 0)  # none for lanes that are too many
    offsets = (lane // units * c + lane % units * vector)[:, None] + tl.arange(0, vector)[None, :]
    x += first.to(tl.int64) * c
    start = tl.load(x + offsets, mask=(row < last)[:, None], other=0.0)
    near = start.to(tl.float32)
    total = tl.zeros([lanes, vector], tl.float32)
    squares = tl.zeros([lanes, vector], tl.float32)
    done = step
    while first + done < end:
        at = x + done.to(tl.int64) * c + offsets
        one = tl.load(at, mask=(row + done < last)[:, None], other=start)
        two = tl.load(at + step * c, mask=(row + done + step < last)[:, None], other=start)
        d = one.to(tl.float32) - near
        total += d
        squares += d * d
        d = two.to(tl.float32) - near
        total += d
        squares += d * d
        done += 2 * step
    count = tl.maximum(last - row + step - 1, 0) // step
    count = count.to(tl.float32)[:, None]
    over = 1.0 / tl.maximum(count, 1.0)
    return count, near + total * over, tl.maximum(squares - total * total * over, 0.0)


@triton.jit
def _joined(here: tl.tensor, count: tl.tensor, mean: tl.tensor, square: tl.tensor, values: tl.tensor) -> tl.tensor:
    """The mean and the sum of squared deviations of all values of the lanes that are `here`."""
    share = tl.where(here, count, 0.0)
    middle = tl.sum(share * mean) / values
    d = mean - middle
    return middle, tl.sum(share * d * d + tl.where(here, square, 0.0))


@triton.jit(do_not_specialize=["p", "c_units", "units", "blocks", "per_add", "rows", "splits", "size"])
def _group_statistics(
    x: tl.tensor,
    add: tl.tensor,
    statistics: tl.tensor,
    p: tl.tensor,
    c_units: tl.tensor,
    units: tl.tensor,
    blocks: tl.tensor,
    per_add: tl.tensor,
    rows: tl.tensor,
    splits: tl.tensor,
    size: tl.tensor,
    per_block: tl.constexpr,
    lanes: tl.constexpr,
    vector: tl.constexpr,
    has_add: tl.constexpr,
) -> None:
    """n p c -> n groups splits 2: the mean and the sum of squared deviations of each part of `rows` pixels."""
    split = tl.program_id(0) % splits
    block = tl.program_id(0) // splits % blocks
    n = tl.program_id(0) // splits // blocks
    c = c_units * vector
    start = block * units * vector
    first = split * rows
    end = tl.minimum(first + rows, p)
    count, mean, square = _lane_sums(x + n.to(tl.int64) * p * c + start, c, first, end, units, lanes, vector)
    channel = (tl.arange(0, lanes) % units * vector)[:, None] + tl.arange(0, vector)[None, :]
    if has_add:
        mean += tl.load(add + n // per_add * c + start + channel).to(tl.float32)
    values = (end - first).to(tl.float32) * size
    for g in tl.static_range(per_block):
        here = (channel >= g * size) & (channel < (g + 1) * size)
        middle, spread = _joined(here, count, mean, square, values)
        place = (((n * blocks + block) * per_block + g) * splits + split) * 2
        tl.store(statistics + place, middle)
        tl.store(statistics + place + 1, spread)


@triton.jit(do_not_specialize=["p", "c_units", "blocks", "per_add", "rows", "splits", "size", "groups"])
def _group_apply(
    x: tl.tensor,
    out: tl.tensor,
    add: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    statistics: tl.tensor,
    eps: tl.tensor,
    p: tl.tensor,
    c_units: tl.tensor,
    blocks: tl.tensor,
    per_add: tl.tensor,
    rows: tl.tensor,
    splits: tl.tensor,
    size: tl.tensor,
    groups: tl.tensor,
    steps: tl.constexpr,
    tile: tl.constexpr,
    width: tl.constexpr,
    most: tl.constexpr,
    vector: tl.constexpr,
    has_add: tl.constexpr,
    silu: tl.constexpr,
) -> None:
    """The result of a block of steps * tile pixels and `width` channels, from the statistics of all splits."""
    block = tl.program_id(0) % blocks
    parts = tl.cdiv(p, steps * tile)
    part = tl.program_id(0) // blocks % parts
    n = tl.program_id(0) // blocks // parts
    c = c_units * vector
    channel = block * width + tl.arange(0, width)
    inside = channel < c
    split = tl.arange(0, most)
    known = inside[:, None] & (split < splits)[None, :]
    place = ((n * groups + channel // size) * splits * 2)[:, None] + split[None, :] * 2
    values = (tl.minimum(tl.maximum(p - split * rows, 0), rows) * size).to(tl.float32)[None, :]
    mean = tl.load(statistics + place, mask=known, other=0.0)
    total = p.to(tl.float32) * size
    middle = tl.sum(tl.where(known, mean * values, 0.0), 1) / total
    d = mean - middle[:, None]
    spread = tl.load(statistics + place + 1, mask=known, other=0.0) + tl.where(known, d * d * values, 0.0)
    scale = tl.rsqrt(tl.sum(spread, 1) / total + eps)
    scale *= tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    if has_add:
        middle -= tl.load(add + n // per_add * c + channel, mask=inside, other=0.0).to(tl.float32)
    start = n.to(tl.int64) * p * c
    row = tl.arange(0, tile)
    offsets = row[:, None] * c + channel[None, :]
    for i in range(steps):
        first = (part * steps + i) * tile
        mask = (first + row < p)[:, None] & inside[None, :]
        at = start + first.to(tl.int64) * c
        y = tl.load(x + at + offsets, mask=mask, other=0.0).to(tl.float32)
        y = (y - middle[None, :]) * scale[None, :] + shift[None, :]
        if silu:
            y = y / (1.0 + tl.exp(-y))
        tl.store(out + at + offsets, y.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["p", "c_units", "units", "blocks", "per_add", "size"])
def _group_whole(
    x: tl.tensor,
    out: tl.tensor,
    add: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    eps: tl.tensor,
    p: tl.tensor,
    c_units: tl.tensor,
    units: tl.tensor,
    blocks: tl.tensor,
    per_add: tl.tensor,
    size: tl.tensor,
    per_block: tl.constexpr,
    lanes: tl.constexpr,
    vector: tl.constexpr,
    has_add: tl.constexpr,
    silu: tl.constexpr,
) -> None:
    """The result of a block of whole groups of one row of n."""
    block = tl.program_id(0) % blocks
    n = tl.program_id(0) // blocks
    c = c_units * vector
    start = block * units * vector
    base = n.to(tl.int64) * p * c + start
    first = p * 0
    count, mean, square = _lane_sums(x + base, c, first, p, units, lanes, vector)
    lane = tl.arange(0, lanes)
    channel = (lane % units * vector)[:, None] + tl.arange(0, vector)[None, :]
    shift = tl.load(bias + start + channel).to(tl.float32)
    scale = tl.load(weight + start + channel).to(tl.float32)
    if has_add:
        added = tl.load(add + n // per_add * c + start + channel).to(tl.float32)
        mean += added
    centre = tl.zeros([lanes, vector], tl.float32)
    values = p.to(tl.float32) * size
    for g in tl.static_range(per_block):
        here = (channel >= g * size) & (channel < (g + 1) * size)
        middle, spread = _joined(here, count, mean, square, values)
        centre = tl.where(here, middle, centre)
        scale = tl.where(here, scale * tl.rsqrt(spread / values + eps), scale)
    if has_add:
        centre -= added
    step = lanes // units
    row = lane // units
    offsets = row[:, None] * c + channel
    while first < p:
        mask = ((row < step) & (first + row < p))[:, None]
        at = base + first.to(tl.int64) * c
        y = tl.load(x + at + offsets, mask=mask, other=0.0).to(tl.float32)
        y = (y - centre) * scale + shift
        if silu:
            y = y / (1.0 + tl.exp(-y))
        tl.store(out + at + offsets, y.to(out.dtype.element_ty), mask=mask)
        first += step


class Plan(NamedTuple):
    """How a group norm is cut into programs."""

    units: int
    """Vectors of channels in a block of whole groups."""
    blocks: int
    per_block: int
    """Groups in a block."""
    vector: int
    """Channels of a vector."""
    lanes: int
    warps: int
    splits: int
    """Parts of the pixels for the statistics; 0: one program computes all."""
    rows: int
    """Pixels of a part."""
    steps: int
    """Tiles of pixels that a program of the second launch takes."""

    @property
    def block(self) -> tuple[int, int, int]:
        """What kernels that sum by lanes are compiled for."""
        return self.per_block, self.lanes, self.vector

    @property
    def tile(self) -> tuple[int, int, int, int, int]:
        """What the second launch is compiled for."""
        return self.steps, TILE, WIDTH, SPLITS, self.vector


TILE, WIDTH = 64, 64


@cache
def plan(n: int, p: int, c: int, groups: int, processors: int) -> Plan:
    """The cut for n p c. Blocks are whole vectors of 8 channels where groups allow that, and at most 4 groups where
    those are narrow, so that there are programs for every multiprocessor."""
    size = c // groups
    per_block = 8 // math.gcd(8, size)
    per_block = per_block if groups % per_block == 0 else 1
    wide = per_block * size
    vector = math.gcd(8, wide)
    blocks = groups // per_block
    values = p * wide
    if values <= WHOLE:
        warps = 4 if values <= 8192 else 8 if values <= 32768 else 16
        splits = rows = steps = 0
    else:
        warps = 8
        splits = min(SPLITS, max(1, -(-4 * processors // (n * blocks))), -(-values // PART))
        rows = -(-p // splits)
        splits = -(-p // rows)
        programs = n * -(-c // WIDTH) * -(-p // TILE)
        steps = power_of_two(max(1, min(8, programs // (8 * processors))))
    lanes = max(64 * warps, power_of_two(wide // vector))
    return Plan(wide // vector, blocks, per_block, vector, lanes, warps, splits, rows, steps)


@cache
def multiprocessors(index: int | None) -> int:
    """How many multiprocessors a device has; few in the interpreter, whose programs run one after the other."""
    return 2 if index is None else int(torch.cuda.get_device_properties(index).multi_processor_count)


def channels_last(x: Tensor) -> Tensor:
    """n c *spatial, copied only where its channels are not last in memory."""
    axes = x.dim()
    if axes == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x
    if axes == 5 and x.is_contiguous(memory_format=torch.channels_last_3d):
        return x
    last = x.movedim(1, -1)
    return x if last.is_contiguous() else last.contiguous().movedim(-1, 1)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    add: Tensor | None,
    cut: Plan | None = None,
) -> Tensor:
    """See `kernels.group_norm`."""
    x = channels_last(x)
    out = torch.empty_like(x)
    n, c = x.shape[:2]
    p = x.numel() // (n * c)
    size = c // groups
    cut = cut or plan(n, p, c, groups, multiprocessors(x.device.index))
    c_units = c // cut.vector
    has_add = add is not None
    per_add, add = (n, x) if add is None else (n // len(add), add.contiguous())
    if not cut.splits:
        launch(
            _group_whole,
            n * cut.blocks,
            cut.warps,
            (x, out, add, weight, bias),
            (eps, p, c_units, cut.units, cut.blocks, per_add, size, *cut.block, has_add, silu),
        )
        return out
    statistics = torch.empty(n * groups * cut.splits * 2, dtype=torch.float32, device=x.device)
    launch(
        _group_statistics,
        n * cut.blocks * cut.splits,
        cut.warps,
        (x, add, statistics),
        (p, c_units, cut.units, cut.blocks, per_add, cut.rows, cut.splits, size, *cut.block, has_add),
    )
    blocks = -(-c // WIDTH)
    launch(
        _group_apply,
        n * blocks * -(-p // (cut.steps * TILE)),
        8,
        (x, out, add, weight, bias, statistics),
        (eps, p, c_units, blocks, per_add, cut.rows, cut.splits, size, groups, *cut.tile, has_add, silu),
    )
    return out
