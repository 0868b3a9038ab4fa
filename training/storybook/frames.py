"""Attention among the frames of each pixel, with relative positions, for training on a GPU: a kernel forward and one
backward, which read queries, keys and values where one product has left them. torch's own products of so many small
matrices take several times as long.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vc_core.network.kernels.frames import _position_logits, _table, attend_over_frames
from vc_core.network.kernels.launching import launch

PIXELS = 4
"""Pixels of a block, all frames of which lie on the rows of one product."""
ROUNDS = 8
"""Blocks of a program."""
COPIES = 64
"""Sums of the tables' gradients, so that few programs add to the same one."""


@triton.jit
def _by_distance(pairs: tl.tensor, frame: tl.tensor, frames: tl.constexpr, pixels: tl.constexpr) -> tl.tensor:
    """Values of pairs of frames, zero for different pixels, sorted by their distance: rows 2 frames"""
    own = tl.sum(tl.reshape(pairs, [pixels * frames, pixels, frames]), 1)
    key = tl.arange(0, 2 * frames)[None, :] + frame[:, None] - (frames - 1)
    near = tl.gather(own, tl.minimum(tl.maximum(key, 0), frames - 1), 1)
    return tl.where((key >= 0) & (key < frames), near, 0.0)


@triton.jit
def _gradients(
    qkv: tl.tensor,
    grad: tl.tensor,
    out: tl.tensor,
    k_positions: tl.tensor,
    v_positions: tl.tensor,
    sums: tl.tensor,
    p: tl.tensor,
    heads: tl.tensor,
    blocks: tl.tensor,
    total: tl.tensor,
    scale: tl.tensor,
    frames: tl.constexpr,
    d: tl.constexpr,
    pixels: tl.constexpr,
    rounds: tl.constexpr,
    copies: tl.constexpr,
) -> None:
    """Rows are (pixel, frame). `qkv` and `out` are b f p (3 heads d), `grad` is b f p (heads d)."""
    program = tl.program_id(0)
    row = tl.arange(0, pixels * frames)
    own, frame = row // frames, row % frames
    channel = tl.arange(0, d)
    by_key = _table(k_positions, frames, d, frames, channel)
    by_value = _table(v_positions, frames, d, frames, channel)
    key_sum = tl.zeros([2 * frames, d], tl.float32)
    value_sum = tl.zeros([2 * frames, d], tl.float32)
    same = own[:, None] == own[None, :]
    for turn in range(rounds):
        index = program * rounds + turn
        head = index % heads
        pixel = index // heads % blocks * pixels + own
        b = (index // heads // blocks).to(tl.int64)
        inside = ((pixel < p) & (index < total))[:, None] & (channel < d)[None, :]
        place = (b * frames + frame) * p + pixel
        width = heads * d
        at = (place * 3 * width)[:, None] + (head * d + channel)[None, :]
        queries = tl.load(qkv + at, mask=inside, other=0.0)
        keys = tl.load(qkv + at + width, mask=inside, other=0.0)
        values = tl.load(qkv + at + 2 * width, mask=inside, other=0.0)
        given = tl.load(grad + (place * width)[:, None] + (head * d + channel)[None, :], mask=inside, other=0.0)
        logits = tl.dot(queries, tl.trans(keys))
        logits += _position_logits(queries, by_key, frame, frames, frames, pixels)
        logits = tl.where(same, logits * (scale * 1.4426950408889634), float("-inf"))
        weights = tl.exp2(logits - tl.max(logits, 1)[:, None])
        weights = weights / tl.sum(weights, 1)[:, None]
        slope = tl.dot(given, tl.trans(values))
        slope += _position_logits(given, by_value, frame, frames, frames, pixels)
        slope = weights * (slope - tl.sum(weights * slope, 1)[:, None]) * scale
        near = _by_distance(slope, frame, frames, pixels).to(queries.dtype)
        weights_near = _by_distance(weights, frame, frames, pixels).to(queries.dtype)
        slope = slope.to(queries.dtype)
        d_queries = tl.dot(slope, keys, tl.dot(near, by_key))
        d_keys = tl.dot(tl.trans(slope), queries)
        d_values = tl.dot(tl.trans(weights.to(given.dtype)), given)
        key_sum = tl.dot(tl.trans(near), queries, key_sum)
        value_sum = tl.dot(tl.trans(weights_near), given, value_sum)
        tl.store(out + at, d_queries.to(out.dtype.element_ty), mask=inside)
        tl.store(out + at + width, d_keys.to(out.dtype.element_ty), mask=inside)
        tl.store(out + at + 2 * width, d_values.to(out.dtype.element_ty), mask=inside)
    base = sums + program % copies * (4 * frames * d)
    cell = tl.arange(0, 2 * frames)[:, None] * d + channel[None, :]
    tl.atomic_add(base + cell, key_sum)
    tl.atomic_add(base + 2 * frames * d + cell, value_sum)


@torch.library.custom_op("storybook::over_frames", mutates_args=())
def over_frames(qkv: Tensor, by_key: Tensor, by_value: Tensor, heads: int) -> Tensor:
    """softmax(q (k + r)^T / sqrt(d)) (v + s) for qkv b f p (3 heads d) -> b f p (heads d); by_key and by_value hold r
    and s for the distances from 1 - f on, 2f - 1 d, and perhaps a row of zeros."""
    q, k, v = qkv.chunk(3, dim=-1)
    return attend_over_frames(q, k, v, heads, None, by_key, by_value)


@over_frames.register_fake
def _(qkv: Tensor, by_key: Tensor, by_value: Tensor, heads: int) -> Tensor:
    return qkv.new_empty((*qkv.shape[:-1], qkv.shape[-1] // 3))


@torch.library.custom_op("storybook::over_frames_gradients", mutates_args=())
def gradients(grad: Tensor, qkv: Tensor, by_key: Tensor, by_value: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of qkv, by_key and by_value."""
    b, frames, p, width = qkv.shape
    d, out = width // 3 // heads, torch.empty_like(qkv)
    sums = torch.zeros(COPIES, 2, 2 * frames, d, dtype=torch.float32, device=qkv.device)
    blocks = -(-p // PIXELS)
    total = b * blocks * heads
    launch(
        _gradients,
        -(-total // ROUNDS),
        4,
        (qkv, grad.contiguous(), out, by_key.contiguous(), by_value.contiguous(), sums),
        (p, heads, blocks, total, d**-0.5, frames, d, PIXELS, ROUNDS, COPIES),
    )
    of_key, of_value = sums.sum(0).to(by_key.dtype)[:, : len(by_key)].unbind(0)
    return out, of_key.clone(), of_value.clone()


@gradients.register_fake
def _(grad: Tensor, qkv: Tensor, by_key: Tensor, by_value: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(qkv), torch.empty_like(by_key), torch.empty_like(by_value)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.heads = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*gradients(grad, *ctx.saved_tensors, ctx.heads), None)


over_frames.register_autograd(_backward, setup_context=_save)
