"""Attention among the frames of each pixel. q, k and v are read where they lie, each value once.

Two kernels compute it. One multiplies on matrix units: its rows are the frames of some pixels of one head, and it keeps
of the products of all rows those of the same pixel. The other takes one query frame after the other against keys and
values in registers: in float32, and for the relative positions of longer clips.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import INTERPRETED, launch, power_of_two

SHORT = 16
"""Frames up to which relative positions are multiplied on matrix units, which costs a product for each query frame."""

LOG2_E = 1.4426950408889634

UNMATCHED = (torch.float32, torch.bfloat16) if INTERPRETED else (torch.float32,)
"""Types whose products are not exact on matrix units, or that the interpreter does not multiply."""


@triton.jit
def _position_logits(
    queries: tl.tensor,
    vectors: tl.tensor,
    known: tl.tensor,
    frame: tl.tensor,
    frames: tl.constexpr,
    d: tl.constexpr,
    most: tl.constexpr,
    pixels: tl.constexpr,
) -> tl.tensor:
    """The products of each row's query with the vectors for its frame and every key frame, repeated for every pixel."""
    added = tl.zeros([pixels * most, most], tl.float32)
    for i in range(frames):
        keys = tl.load(vectors + i * frames * d, mask=known, other=0.0)
        added = tl.where((frame == i)[:, None], tl.dot(queries, tl.trans(keys)), added)
    added = tl.broadcast_to(added[:, None, :], [pixels * most, pixels, most])
    return tl.reshape(added, [pixels * most, pixels * most])


@triton.jit
def _with_positions(
    result: tl.tensor,
    weights: tl.tensor,
    vectors: tl.tensor,
    known: tl.tensor,
    frame: tl.tensor,
    frames: tl.constexpr,
    d: tl.constexpr,
    most: tl.constexpr,
    pixels: tl.constexpr,
) -> tl.tensor:
    """`result` and the weighted sum of the vectors for each row's frame; weights of other pixels are zero."""
    weights = tl.sum(tl.reshape(weights, [pixels * most, pixels, most]), 1)
    for i in range(frames):
        values = tl.load(vectors + i * frames * d, mask=known, other=0.0)
        own = tl.where((frame == i)[:, None], weights, 0.0)
        result = tl.dot(own.to(values.dtype), values, result)
    return result


@triton.jit(do_not_specialize=["p", "heads", "blocks"])
def _by_matrices(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    out: tl.tensor,
    mask: tl.tensor,
    k_positions: tl.tensor,
    v_positions: tl.tensor,
    q_b: tl.tensor,
    q_f: tl.tensor,
    q_p: tl.tensor,
    k_b: tl.tensor,
    k_f: tl.tensor,
    k_p: tl.tensor,
    v_b: tl.tensor,
    v_f: tl.tensor,
    v_p: tl.tensor,
    p: tl.tensor,
    heads: tl.tensor,
    blocks: tl.tensor,
    scale: tl.tensor,
    frames: tl.constexpr,
    d: tl.constexpr,
    width: tl.constexpr,
    most: tl.constexpr,
    pixels: tl.constexpr,
    has_mask: tl.constexpr,
    has_positions: tl.constexpr,
) -> None:
    """Rows are (pixel, frame), `most` >= frames of them for each pixel."""
    head = tl.program_id(0) % heads
    block = tl.program_id(0) // heads % blocks
    b = (tl.program_id(0) // heads // blocks).to(tl.int64)
    row = tl.arange(0, pixels * most)
    own = row // most
    frame = row % most
    pixel = block * pixels + own
    channel = tl.arange(0, width)
    rows = (frame < frames) & (pixel < p)
    inside = rows[:, None] & (channel < d)[None, :]
    column = (head * d + channel)[None, :]
    f, at = frame.to(tl.int64), pixel.to(tl.int64)
    queries = tl.load(q + b * q_b + (f * q_f + at * q_p)[:, None] + column, mask=inside, other=0.0)
    keys = tl.load(k + b * k_b + (f * k_f + at * k_p)[:, None] + column, mask=inside, other=0.0)
    values = tl.load(v + b * v_b + (f * v_f + at * v_p)[:, None] + column, mask=inside, other=0.0)
    logits = tl.dot(queries, tl.trans(keys))
    key = tl.arange(0, most)
    place = key[:, None] * d + channel[None, :]
    known = (key < frames)[:, None] & (channel < d)[None, :]
    if has_positions:
        logits += _position_logits(queries, k_positions + place, known, frame, frames, d, most, pixels)
    logits *= scale
    if has_mask:
        look = (frame[:, None] < frames) & (frame[None, :] < frames)
        shift = tl.load(mask + frame[:, None] * frames + frame[None, :], mask=look, other=0.0)
        logits += shift.to(tl.float32) * 1.4426950408889634
    logits = tl.where((own[:, None] == own[None, :]) & (frame < frames)[None, :], logits, float("-inf"))
    weights = tl.exp2(logits - tl.max(logits, 1)[:, None])
    total = tl.sum(weights, 1)
    result = tl.dot(weights.to(values.dtype), values)
    if has_positions:
        result = _with_positions(result, weights, v_positions + place, known, frame, frames, d, most, pixels)
    result = result / total[:, None]
    place_out = ((b * frames + f) * p + at)[:, None] * (heads * d) + column
    tl.store(out + place_out, result.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["p", "heads", "blocks"])
def _by_frames(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    out: tl.tensor,
    mask: tl.tensor,
    k_positions: tl.tensor,
    v_positions: tl.tensor,
    q_b: tl.tensor,
    q_f: tl.tensor,
    q_p: tl.tensor,
    k_b: tl.tensor,
    k_f: tl.tensor,
    k_p: tl.tensor,
    v_b: tl.tensor,
    v_f: tl.tensor,
    v_p: tl.tensor,
    p: tl.tensor,
    heads: tl.tensor,
    blocks: tl.tensor,
    scale: tl.tensor,
    frames: tl.constexpr,
    d: tl.constexpr,
    width: tl.constexpr,
    most: tl.constexpr,
    pixels: tl.constexpr,
    has_mask: tl.constexpr,
    has_positions: tl.constexpr,
) -> None:
    """Keys and values of some pixels, all frames, stay in registers."""
    head = tl.program_id(0) % heads
    block = tl.program_id(0) // heads % blocks
    b = (tl.program_id(0) // heads // blocks).to(tl.int64)
    pixel = block * pixels + tl.arange(0, pixels)
    at = pixel.to(tl.int64)
    key = tl.arange(0, most)
    f = key.to(tl.int64)
    channel = tl.arange(0, width)
    column = head * d + channel
    ahead = (pixel < p)[:, None] & (channel < d)[None, :]
    known = (key < frames)[:, None] & (channel < d)[None, :]
    inside = (pixel < p)[:, None, None] & known[None, :, :]
    far = column[None, None, :]
    keys = tl.load(k + b * k_b + at[:, None, None] * k_p + f[None, :, None] * k_f + far, mask=inside, other=0.0).to(
        tl.float32
    )
    values = tl.load(v + b * v_b + at[:, None, None] * v_p + f[None, :, None] * v_f + far, mask=inside, other=0.0).to(
        tl.float32
    )
    place = key[:, None] * d + channel[None, :]
    for i in range(frames):
        query = tl.load(q + b * q_b + i * q_f + at[:, None] * q_p + column[None, :], mask=ahead, other=0.0)
        query = query.to(tl.float32) * scale
        if has_positions:
            vectors = tl.load(k_positions + i * frames * d + place, mask=known, other=0.0).to(tl.float32)
            logits = tl.sum((keys + vectors[None, :, :]) * query[:, None, :], 2)
        else:
            logits = tl.sum(keys * query[:, None, :], 2)
        if has_mask:
            shift = tl.load(mask + i * frames + key, mask=key < frames, other=0.0).to(tl.float32)
            logits += shift[None, :] * 1.4426950408889634
        logits = tl.where((key < frames)[None, :], logits, float("-inf"))
        weights = tl.exp2(logits - tl.max(logits, 1)[:, None])
        weights = weights / tl.sum(weights, 1)[:, None]
        if has_positions:
            vectors = tl.load(v_positions + i * frames * d + place, mask=known, other=0.0).to(tl.float32)
            result = tl.sum((values + vectors[None, :, :]) * weights[:, :, None], 1)
        else:
            result = tl.sum(values * weights[:, :, None], 1)
        place_out = ((b * frames + i) * p + at)[:, None] * (heads * d) + column[None, :]
        tl.store(out + place_out, result.to(out.dtype.element_ty), mask=ahead)


class Plan(NamedTuple):
    """How the attention is cut into programs."""

    by_matrices: bool
    """On matrix units, or one query frame after the other."""
    width: int
    """Of a head, as a power of two."""
    frames: int
    """As a power of two."""
    pixels: int
    """Of a program."""
    warps: int


@cache
def plan(frames: int, d: int, by_matrices: bool) -> Plan:
    """The cut for this many frames and channels of a head: 64 rows on matrix units, or else 64 values of keys and 64 of
    values in the registers of a thread."""
    most, width = power_of_two(frames), power_of_two(d)
    if by_matrices:
        most = max(16, most)
        return Plan(True, max(16, width), most, max(1, 64 // most), 8 if most > 64 else 4)
    return Plan(False, width, most, max(1, 2048 // (most * width)), max(1, most * width // 2048))


def attend_over_frames(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None,
    k_positions: Tensor | None,
    v_positions: Tensor | None,
    cut: Plan | None = None,
) -> Tensor:
    """See `kernels.attend_over_frames`."""
    q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
    b, frames, p, c = q.shape
    d = c // heads
    out = q.new_empty((b, frames, p, c))
    positions = k_positions is not None and v_positions is not None
    cut = cut or plan(frames, d, q.dtype not in UNMATCHED and (frames <= SHORT or not positions))
    blocks = -(-p // cut.pixels)
    strides = q.stride()[:3] + k.stride()[:3] + v.stride()[:3]
    extras = (q if x is None else x.contiguous() for x in (mask, k_positions, v_positions))
    launch(
        _by_matrices if cut.by_matrices else _by_frames,
        b * blocks * heads,
        cut.warps,
        (q, k, v, out, *extras),
        (
            *strides,
            p,
            heads,
            blocks,
            d**-0.5 * LOG2_E,
            frames,
            d,
            cut.width,
            cut.frames,
            cut.pixels,
            mask is not None,
            positions,
        ),
    )
    return out
