"""The attentions of the video UNet: over the pixels of a frame, over text and pictures, and over the frames of a pixel.

Attribute names are the published ones. Queries, keys and values are `n tokens (heads d)`. Over time, tokens are `n f d`
of n pixels, or where fused kernels can be used `b f p d`, a view of a clip in channels-last memory: in both the frames
are on axis 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..specs import Windows
from . import kernels
from .attention import Attention, causal_mask, join_heads, near_mask, split_heads
from .layers import Layers
from .spectral import blend_low


def apply(layer: nn.Module, tokens: Tensor) -> Tensor:
    """layer(tokens)"""
    out: Tensor = layer(tokens)
    return out


def triangle(length: int, like: Tensor) -> Tensor:
    """`Windows.weights`, made where `like` lies."""
    place = torch.arange(1, length + 1, dtype=like.dtype, device=like.device)
    return torch.minimum(place, place.flip(0))


class Projections(nn.Module):
    """The linear layers around an attention: to queries, keys and values, and from its result."""

    def __init__(
        self, dim: int, heads: int, layers: Layers, attention: Attention, context_dim: int | None = None
    ) -> None:
        super().__init__()
        self.heads, self.attention = heads, attention
        self.to_q = layers.linear(dim, dim, bias=False)
        self.to_k = layers.linear(context_dim or dim, dim, bias=False)
        self.to_v = layers.linear(context_dim or dim, dim, bias=False)
        self.to_out = nn.Sequential(layers.linear(dim, dim), nn.Identity())  # the Identity was a dropout


class SelfAttention(Projections):
    """Attention of tokens among themselves. n tokens d -> n tokens d"""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.to_out(self.attention(self.to_q(x), self.to_k(x), self.to_v(x), self.heads))
        return out


class CrossAttention(Projections):
    """Attention over text, and with `image` over image tokens with keys and values of their own, added to it; with
    `gate` times a learned factor.

    Keys and values are computed once for a clip: where `text` is b m d and the queries are (b f) n d, the queries of
    all frames of a clip stand in one row.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int,
        heads: int,
        layers: Layers,
        attention: Attention,
        image: bool,
        *,
        gate: bool = False,
    ) -> None:
        super().__init__(dim, heads, layers, attention, context_dim)
        self.alpha = nn.Parameter(torch.zeros((), **layers.where)) if gate else None
        self.to_k_ip = layers.linear(context_dim, dim, bias=False) if image else None
        self.to_v_ip = layers.linear(context_dim, dim, bias=False) if image else None

    def forward(
        self, x: Tensor, text: Tensor, image: Tensor | None = None, project: Callable[..., Tensor] = apply
    ) -> Tensor:
        """`project` may stand for layer(tokens), where a run knows the keys and values already."""
        q = self.to_q(x)
        h = self.attend(q, project(self.to_k, text), project(self.to_v, text))
        out: Tensor = self.to_out(self.add_image(h, q, image, project))
        return out

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attention: Attention | None = None) -> Tensor:
        """q (b f) n d over k, v that are b m d or (b f) m d -> (b f) n d"""
        rows = q.reshape(k.shape[0], -1, q.shape[-1])
        attention = self.attention if attention is None else attention
        return attention(rows, k, v, self.heads).reshape(q.shape)

    def add_image(
        self,
        h: Tensor,
        q: Tensor,
        image: Tensor | None,
        project: Callable[..., Tensor] = apply,
        attention: Attention | None = None,
    ) -> Tensor:
        """`h` plus the attention over image tokens; no tokens add nothing."""
        if self.to_k_ip is None or self.to_v_ip is None or image is None or image.shape[1] == 0:
            return h
        added = self.attend(q, project(self.to_k_ip, image), project(self.to_v_ip, image), attention)
        return h + (added if self.alpha is None else added * (self.alpha.to(added).tanh() + 1))


class RelativePositions(nn.Module):
    """A learned vector for each distance in frames from -reach to reach; larger distances take the last one.

    frames -> frames frames d: the vector for (query frame, key frame)
    """

    def __init__(self, reach: int, width: int, layers: Layers) -> None:
        super().__init__()
        self.reach = reach
        self.embeddings_table = nn.Parameter(torch.empty(2 * reach + 1, width, **layers.where))
        nn.init.xavier_uniform_(self.embeddings_table)

    def forward(self, frames: int, like: Tensor) -> Tensor:
        position = torch.arange(frames, device=like.device)
        distance = (position[None, :] - position[:, None]).clamp(-self.reach, self.reach)
        return self.embeddings_table.to(like)[distance + self.reach]

    def table(self, frames: int, like: Tensor) -> Tensor:
        """2 frames - 1 d: the vector for each distance, key frame less query frame, from 1 - frames on"""
        table, further = self.embeddings_table.to(like), frames - 1 - self.reach
        if further > 0:
            ends = [end.expand(further, -1) for end in (table[:1], table[-1:])]
            table = torch.cat([ends[0], table, ends[1]])
        elif further < 0:
            table = table[-further:further]
        return table


class TemporalAttention(SelfAttention):
    """Attention among the frames of one pixel, n f d -> n f d or b f p d -> b f p d, with relative positions where
    `reach` is given (arXiv:1803.02155): keys and values are shifted by a vector for the distance between the frames."""

    def __init__(
        self, dim: int, heads: int, layers: Layers, attention: Attention, reach: int | None, causal: bool
    ) -> None:
        super().__init__(dim, heads, layers, attention)
        self.budget = layers.budget
        self.causal = causal
        self.relative_position_k = RelativePositions(reach, dim // heads, layers) if reach else None
        self.relative_position_v = RelativePositions(reach, dim // heads, layers) if reach else None

    def forward(
        self,
        x: Tensor,
        temporal: bool = True,
        windows: Windows | None = None,
        grid: tuple[int, int] | None = None,
        attention: Attention | None = None,
    ) -> Tensor:
        """`grid` is the height and width that the pixels of x come from, where x holds whole frames. `attention` takes
        the place of the layer's own, for tokens n f d."""
        attention = self.attention if attention is None else attention
        if not temporal:
            h = self._attend_to_self(x)
        elif windows is None or x.shape[1] <= windows.size:
            h = self._attend(attention, self.to_q(x), self.to_k(x), self.to_v(x))
        elif windows.spectral:
            h = self._attend_near_and_far(x, windows.size // 2, grid, attention)
        else:
            h = self._attend_in_windows(self.to_q(x), self.to_k(x), self.to_v(x), windows, attention)
        out: Tensor = self.to_out(h)
        return out

    def _attend_near_and_far(self, x: Tensor, reach: int, grid: tuple[int, int] | None, attention: Attention) -> Tensor:
        """FreeLong: attention to frames at most `reach` away, with the low frequencies of attention to all. The mix
        is linear and the same in every channel, so it may stand before the projection and the residual."""
        mask = near_mask(x.shape[1], reach, x)
        if grid is None:
            return self._attend(attention, self.to_q(x), self.to_k(x), self.to_v(x), mask)
        near, far = torch.empty_like(x), torch.empty_like(x)
        axis = 0 if x.ndim == 3 else 2
        pixels = max(1, self.budget.values * x.shape[axis] // x.numel())
        for part, by_near, by_far in zip(*(y.split(pixels, axis) for y in (x, near, far)), strict=True):
            q, k, v = self.to_q(part), self.to_k(part), self.to_v(part)
            by_near.copy_(self._attend(attention, q, k, v, mask))
            by_far.copy_(self._attend(attention, q, k, v))
        slow, quick = (_on_grid(h, grid) for h in (far, near))
        blend_low(quick, slow, self.budget.values)
        return near

    def _attend_in_windows(self, q: Tensor, k: Tensor, v: Tensor, windows: Windows, attention: Attention) -> Tensor:
        """The average over the windows that a frame is in; a frame in none gets zeros."""
        frames = q.shape[1]
        spans = windows.spans(frames)
        over_frame = [1] * (v.ndim - 2)
        total, weight = torch.zeros_like(v), v.new_zeros(frames, *over_frame)
        for first, end in spans:
            share = triangle(end - first, v).view(-1, *over_frame)
            total[:, first:end] += share * self._attend(attention, *(y[:, first:end] for y in (q, k, v)))
            weight[first:end] += share
        return total / weight.clamp_min(1)

    def _attend(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Relative positions ask for maps of their own, which no `attention` computes."""
        frames = q.shape[1]
        if self.causal:
            mask = causal_mask(frames, q) if mask is None else mask + causal_mask(frames, q)
        to_k, to_v = self.relative_position_k, self.relative_position_v
        if q.ndim == 4 and kernels.attends(frames, q.shape[-1] // self.heads):
            by_key, by_value = (None if to is None else to.table(frames, q) for to in (to_k, to_v))
            return kernels.attend_over_frames(q, k, v, self.heads, mask=mask, k_positions=by_key, v_positions=by_value)
        if q.ndim == 4:
            pixels = (q.shape[0], q.shape[2])
            q, k, v = (y.transpose(1, 2).flatten(0, 1) for y in (q, k, v))  # (b p) f d
            return self._attend(attention, q, k, v, mask).unflatten(0, pixels).transpose(1, 2)
        if to_k is None or to_v is None:
            return attention(q, k, v, self.heads) if mask is None else attention(q, k, v, self.heads, mask)
        q, k, v = (split_heads(y, self.heads).flatten(0, 1) for y in (q, k, v))  # (n heads) f d
        q = q * q.shape[-1] ** -0.5  # before the product, which would overflow in half precision
        bias = torch.einsum("nqd,qkd->nqk", q, to_k(frames, q))
        logits = torch.baddbmm(bias if mask is None else bias + mask, q, k.transpose(1, 2))
        del bias  # of the maps (n heads) f f two are held at a time
        weights = logits.softmax(dim=-1)
        del logits
        out = torch.baddbmm(torch.einsum("nqk,qkd->nqd", weights, to_v(frames, v)), weights, v)
        return join_heads(out.unflatten(0, (-1, self.heads)))

    def _attend_to_self(self, x: Tensor) -> Tensor:
        """What is left when every frame sees itself alone: its value, at distance zero."""
        v: Tensor = self.to_v(x)
        if self.relative_position_v is not None:
            here = self.relative_position_v(1, v).flatten()  # d
            v = v + here.repeat(self.heads)
        return v


def _on_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(b h w) f d or b f (h w) d -> b f h w d"""
    return x.unflatten(2, grid) if x.ndim == 4 else x.unflatten(0, (-1, *grid)).permute(0, 3, 1, 2, 4)
