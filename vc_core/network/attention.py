"""Attention: one signature, a small table of backends that compute the same function.

    out = attention(q, k, v, heads, mask=None)

`q` is `b n (heads d)`, `k` and `v` are `b m (heads d)`, `mask` is added to the logits and broadcasts to
`b heads n m`; the result is `b n (heads d)`. Logits are scaled by d ** -0.5. A host may hand in a function of its own.
"""

from __future__ import annotations

import importlib.util
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError


class Attention(Protocol):
    """What every backend, and every function handed in by a host, looks like."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor: ...


def split_heads(x: Tensor, heads: int) -> Tensor:
    """b n (heads d) -> b heads n d"""
    b, n, width = x.shape
    return x.view(b, n, heads, width // heads).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """b heads n d -> b n (heads d)"""
    return x.transpose(1, 2).flatten(2)


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """torch's fused attention; it never holds the whole map where the device has a kernel for that."""
    q, k, v = (split_heads(x, heads) for x in (q, k, v))
    return join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


def plain_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """The definition, softmax(q k^T / sqrt(d) + mask) v, with the map in memory."""
    q, k, v = (split_heads(x, heads) for x in (q, k, v))
    logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if mask is not None:
        logits = logits + mask
    return join_heads(logits.softmax(dim=-1) @ v)


def xformers_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """xformers' memory-efficient attention; xformers is imported when this is called."""
    from xformers.ops import memory_efficient_attention

    def split(x: Tensor) -> Tensor:  # b n (heads d) -> b n heads d
        return x.view(*x.shape[:2], heads, x.shape[-1] // heads)

    if mask is not None:
        mask = mask.expand(q.shape[0], heads, q.shape[1], k.shape[1]).to(q.dtype)
    out: Tensor = memory_efficient_attention(split(q), split(k), split(v), attn_bias=mask)
    return out.flatten(2)


ATTENTION: dict[str, Attention] = {
    "sdpa": sdpa_attention,
    "plain": plain_attention,
    "xformers": xformers_attention,
}


def attention_backend(name: str) -> Attention:
    """The backend called `name`. Raises UserError for an unknown name, and for xformers where it is not installed."""
    if name not in ATTENTION:
        raise UserError(f"There is no attention backend {name!r}; choose one of {', '.join(ATTENTION)}.")
    if name == "xformers" and importlib.util.find_spec("xformers") is None:
        raise UserError("Attention by xformers was asked for, but xformers is not installed. Install it or use 'sdpa'.")
    return ATTENTION[name]


def causal_mask(frames: int, like: Tensor) -> Tensor:
    """f f: 0 where a frame may look (itself and earlier ones), -inf elsewhere."""
    blocked = torch.ones(frames, frames, dtype=torch.bool, device=like.device).triu(1)
    return torch.zeros(frames, frames, dtype=like.dtype, device=like.device).masked_fill(blocked, float("-inf"))


def near_mask(frames: int, reach: int, like: Tensor) -> Tensor:
    """f f: 0 where two frames are at most `reach` apart, -inf elsewhere."""
    place = torch.arange(frames, device=like.device)
    far = (place[:, None] - place[None]).abs() > reach
    return torch.zeros(frames, frames, dtype=like.dtype, device=like.device).masked_fill(far, float("-inf"))
