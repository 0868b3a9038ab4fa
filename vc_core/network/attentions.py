"""The attentions of the video UNet: over the pixels of a frame, over text and images, and over the frames of a pixel.

Attribute names are the published ones. Queries, keys and values are `n tokens (heads d)`. Over time, tokens are `n f d`
of n pixels, or where fused kernels can be used `b f p d`, a view of a clip in channels-last memory: in both the frames
are on axis 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..specs import Windows
from . import kernels
from .adapter import Attend, AttentionName, Site, wrapped
from .attention import causal_mask, join_heads, near_mask, split_heads
from .call import Call
from .layers import Layers
from .spectral import blend_low


def apply(layer: nn.Module, tokens: Tensor) -> Tensor:
    """layer(tokens)"""
    out: Tensor = layer(tokens)
    return out


Change = Callable[[Tensor], Tensor]
"""What an adapter makes of logits or weights."""

Inputs = Callable[[], tuple[Tensor, Tensor, Tensor]]
"""Returns queries, keys and values, n tokens d."""


ON_FRAMES: tuple[Site, ...] = ("attention", "attention_logits", "attention_weights", "attention_backend")
"""The sites inside an attention. Over frames, adapters there receive the frames of each pixel in a row."""


def triangle(length: int, like: Tensor) -> Tensor:
    """`Windows.weights`, on the device of `like`."""
    place = torch.arange(1, length + 1, dtype=like.dtype, device=like.device)
    return torch.minimum(place, place.flip(0))


def attention_place(name: AttentionName, width: int, heads: int) -> dict[str, Any]:
    """What `adapter.Place` says of an attention."""
    return {"attention": name, "heads": heads, "head_channels": width // heads}


class AttentionLayer(nn.Module, ABC):
    """The linear layers around an attention: to queries, keys and values, and from its result."""

    def __init__(
        self, dim: int, heads: int, layers: Layers, name: AttentionName, context_dim: int | None = None
    ) -> None:
        super().__init__()
        self.heads, self.backend, self.fused = heads, layers.attention, layers.fused
        self.place = attention_place(name, dim, heads)
        self.to_q = layers.linear(dim, dim, bias=False)
        self.to_k = layers.linear(context_dim or dim, dim, bias=False)
        self.to_v = layers.linear(context_dim or dim, dim, bias=False)
        self.to_out = nn.Sequential(layers.linear(dim, dim), nn.Identity())  # the Identity was a dropout
        if context_dim is None:
            layers.fused.join([self.to_q, self.to_k, self.to_v])

    def forward(self, x: Tensor, call: Call) -> Tensor:
        """Normed tokens -> what is added to the stream, n tokens d."""
        return call.around("around_attention", partial(self._layer, call), **self.place)(x)

    def _layer(self, call: Call, x: Tensor) -> Tensor:
        out: Tensor = self.to_out(self.attended(x, call))
        return out

    @abstractmethod
    def attended(self, x: Tensor, call: Call) -> Tensor:
        """The attention's result, before the last linear layer."""

    def projected(self, x: Tensor, context: Tensor, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of x, keys and values of the context."""
        tokens = (x, context, context)
        for change in call.at("attention_inputs", **self.place):
            tokens = change(*tokens)
        if tokens[0] is tokens[1] is tokens[2]:
            q, k, v = self.fused.products([self.to_q, self.to_k, self.to_v], tokens[0])
            return q, k, v
        project = self.project(call)
        return self.to_q(tokens[0]), project(self.to_k, tokens[1]), project(self.to_v, tokens[2])

    def project(self, call: Call) -> Callable[[nn.Module, Tensor], Tensor]:
        """What applies a linear layer to the tokens of the context."""
        return apply

    def attend(self, q: Tensor, k: Tensor, v: Tensor, call: Call, mask: Tensor | None = None) -> Tensor:
        """The attention itself, as adapters compute it."""
        return wrapped(self.function(call, self.place), call.at("attention", **self.place))(q, k, v, mask)

    def function(self, call: Call, place: dict[str, Any]) -> Attend:
        """The plain function of an attention."""
        backend = self.backend
        for choose in call.at("attention_backend", **place):
            backend = choose(backend)

        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
            return backend(q, k, v, self.heads) if mask is None else backend(q, k, v, self.heads, mask)

        return attend


class SelfAttention(AttentionLayer):
    """Attention of the tokens of a frame among themselves. n tokens d -> n tokens d"""

    def __init__(self, dim: int, heads: int, layers: Layers) -> None:
        super().__init__(dim, heads, layers, "spatial_self")

    def attended(self, x: Tensor, call: Call) -> Tensor:
        return self.attend(*self.projected(x, x, call), call)


class CrossAttention(AttentionLayer):
    """Attention over text, and with `image` over image tokens with keys and values of their own, added to it; with
    `gate` times a learned factor.

    Keys and values are computed once for a clip: where the text is b m d and the queries are (b f) n d, the queries of
    all frames of a clip form one row.
    """

    def __init__(
        self, dim: int, context_dim: int, heads: int, layers: Layers, *, image: bool = False, gate: bool = False
    ) -> None:
        super().__init__(dim, heads, layers, "text", context_dim)
        self.alpha = nn.Parameter(torch.zeros((), **layers.where)) if gate else None
        self.to_k_ip = layers.linear(context_dim, dim, bias=False) if image else None
        self.to_v_ip = layers.linear(context_dim, dim, bias=False) if image else None

    def project(self, call: Call) -> Callable[[nn.Module, Tensor], Tensor]:
        return call.around("project_context", apply, **self.place)

    def attended(self, x: Tensor, call: Call) -> Tensor:
        q, k, v = self.projected(x, call.text, call)
        h = self._attend_per_clip(q, k, v, call, self.place, len(x) // len(k))
        if self.to_k_ip is None or self.to_v_ip is None or call.image is None or call.image.shape[1] == 0:
            return h
        project = self.project(call)
        k, v = project(self.to_k_ip, call.image), project(self.to_v_ip, call.image)
        place = {**self.place, "attention": "image"}
        added = self._attend_per_clip(q, k, v, call, place, len(x) // len(k))
        return h + (added if self.alpha is None else added * (self.alpha.to(added).tanh() + 1))

    def _attend_per_clip(
        self, q: Tensor, k: Tensor, v: Tensor, call: Call, place: dict[str, Any], frames: int
    ) -> Tensor:
        """q (b f) n d over k, v that are b m d with `frames` f, or (b f) m d with 1. Adapters receive keys and values
        with a row for each row of q; what they pass on unchanged is computed as without them."""
        function, wrappers = self.function(call, place), call.at("attention", **place)
        if frames == 1:
            return wrapped(function, wrappers)(q, k, v, None)

        def per_clip(q: Tensor) -> Tensor:
            return function(q.reshape(k.shape[0], -1, q.shape[-1]), k, v, None).reshape(q.shape)

        if not wrappers:
            return per_clip(q)
        each_k, each_v = k.repeat_interleave(frames, dim=0), v.repeat_interleave(frames, dim=0)

        def inner(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
            unchanged = keys is each_k and values is each_v and mask is None
            return per_clip(q) if unchanged else function(q, keys, values, mask)

        return wrapped(inner, wrappers)(q, each_k, each_v, None)


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


@dataclass(frozen=True)
class OverTime:
    """How frames attend to each other in a layer.

    reach: the distance at which relative positions are clamped (arXiv:1803.02155); None for none.
    causal: frames attend to earlier ones only.
    finest: at the full size of the latents, where FreeLong attends to near frames only, as published.
    """

    reach: int | None = None
    causal: bool = False
    finest: bool = False


class TemporalAttention(AttentionLayer):
    """Attention among the frames of one pixel, n f d -> n f d or b f p d -> b f p d. With relative positions, keys and
    values are shifted by a vector for the distance between the frames."""

    def __init__(self, dim: int, heads: int, layers: Layers, name: AttentionName, over_time: OverTime) -> None:
        super().__init__(dim, heads, layers, name)
        self.plan = layers.plan
        self.over_time = over_time
        reach = over_time.reach
        self.relative_position_k = RelativePositions(reach, dim // heads, layers) if reach else None
        self.relative_position_v = RelativePositions(reach, dim // heads, layers) if reach else None
        self.place["positions"] = self.relative_position_k

    def function(self, call: Call, place: dict[str, Any]) -> Attend:
        changes = call.at("attention_weights", **place)
        return partial(self._by_weights, changes) if changes else super().function(call, place)

    def attended(self, x: Tensor, call: Call) -> Tensor:
        windows = call.run.windows
        if not call.run.evaluation.temporal:
            return self._attended_alone(x)
        if windows is not None and x.shape[1] > windows.size:
            if windows.spectral:
                return self._attended_near_and_far(x, windows.size // 2, call)
            return self._attended_in_windows(x, windows, call)
        return self._over_frames(partial(self.projected, x, x, call), call)

    def _attended_alone(self, x: Tensor) -> Tensor:
        """What is left when every frame attends to itself alone: its value, at distance zero."""
        v: Tensor = self.to_v(x)
        if self.relative_position_v is not None:
            here = self.relative_position_v(1, v).flatten()  # d
            v = v + here.repeat(self.heads)
        return v

    def _attended_near_and_far(self, x: Tensor, reach: int, call: Call) -> Tensor:
        """FreeLong: attention to frames at most `reach` away, with the low frequencies of attention to all. The mix
        is linear and the same in every channel, so it may come before the projection and the residual."""
        mask = near_mask(x.shape[1], reach, x)
        if self.over_time.finest:
            return self._over_frames(partial(self.projected, x, x, call), call, mask)

        def near_then_far(part: Tensor) -> Iterator[Tensor]:
            inputs = self.projected(part, part, call)
            yield self._over_frames(lambda: inputs, call, mask)
            yield self._over_frames(lambda: inputs, call)

        near, far = self.plan.pairs_over_pixels(near_then_far, x)
        self.plan.over_channels(blend_low, _on_grid(near, call.place.grid), _on_grid(far, call.place.grid))
        return near

    def _attended_in_windows(self, x: Tensor, windows: Windows, call: Call) -> Tensor:
        """The average over the windows that a frame is in; a frame in none gets zeros."""
        q, k, v = self.projected(x, x, call)
        frames = q.shape[1]
        over_frame = [1] * (v.ndim - 2)
        total, weight = torch.zeros_like(v), v.new_zeros(frames, *over_frame)
        adapted = not call.adapters.by_site.keys().isdisjoint(ON_FRAMES)
        for first, end in windows.spans(frames):
            share, span = triangle(end - first, v).view(-1, *over_frame), slice(first, end)
            here = call.within(span=span) if adapted else call
            total[:, span] += share * self._over_frames(partial(_of_span, q, k, v, span), here)
            weight[first:end] += share
        return total / weight.clamp_min(1)

    def _over_frames(self, inputs: Inputs, call: Call, mask: Tensor | None = None) -> Tensor:
        """The attention itself, of the frames on axis 1. It asks for its inputs, so that nothing else holds them: with
        relative positions they are replaced by a copy for each head."""
        q, k, v = inputs()
        frames = q.shape[1]
        mask = self._masked(mask, frames, q)
        if q.ndim == 4 and kernels.attends(frames, q.shape[-1] // self.heads):
            return self._by_kernel(q, k, v, mask)
        pixels = (q.shape[0], q.shape[2]) if q.ndim == 4 else None
        if pixels is not None:
            q, k, v = (y.transpose(1, 2).flatten(0, 1) for y in (q, k, v))  # (b p) f d
        if self.relative_position_k is None:
            h = self.attend(q, k, v, call, mask)
        elif wrappers := call.at("attention", **self.place):
            h = wrapped(partial(self._with_positions, call), wrappers)(q, k, v, mask)
        else:
            q, k, v = self._by_head(q, k, v)
            q = scaled(q)
            h = self._by_distance(q, k, v, mask, call)
        return h if pixels is None else h.unflatten(0, pixels).transpose(1, 2)

    def _masked(self, mask: Tensor | None, frames: int, like: Tensor) -> Tensor | None:
        """The mask f f that is added to logits, with the later frames where attention is causal."""
        if not self.over_time.causal:
            return mask
        return causal_mask(frames, like) if mask is None else mask + causal_mask(frames, like)

    def _by_kernel(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The attention of b f p d."""
        positions = (self.relative_position_k, self.relative_position_v)
        by_key, by_value = (None if one is None else one.table(q.shape[1], q) for one in positions)
        return kernels.attend_over_frames(q, k, v, self.heads, mask=mask, k_positions=by_key, v_positions=by_value)

    def _with_positions(self, call: Call, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """The attention of n f d with relative positions."""
        q, k, v = self._by_head(q, k, v)
        return self._by_distance(scaled(q), k, v, mask, call)

    def _by_head(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """n f (heads d) -> (n heads) f d"""
        q, k, v = (split_heads(y, self.heads).flatten(0, 1) for y in (q, k, v))
        return q, k, v

    def _by_weights(
        self, changes: Sequence[Change], q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """The attention of n f d with its weights as adapters return them."""
        q, k, v = (split_heads(y, self.heads) for y in (q, k, v))
        logits = scaled(q) @ k.transpose(-1, -2)
        weights = (logits if mask is None else logits + mask).softmax(dim=-1).flatten(0, 1)
        for change in changes:
            weights = change(weights)
        return join_heads(weights.unflatten(0, (-1, self.heads)) @ v)

    def _by_distance(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, call: Call) -> Tensor:
        """softmax(q (k + r)^T) (v + s) for scaled q, where r and s depend on the distance between two frames: (n
        heads) f d -> n f (heads d). Of the maps (n heads) f f, two are held at a time."""
        to_k, to_v = self.relative_position_k, self.relative_position_v
        assert to_k is not None
        assert to_v is not None
        frames = q.shape[1]
        bias = torch.einsum("nqd,qkd->nqk", q, to_k(frames, q))
        if changes := call.at("attention_logits", **self.place):
            logits = _changed(changes, torch.baddbmm(bias, q, k.transpose(1, 2)), mask)
        else:
            logits = torch.baddbmm(bias if mask is None else bias + mask, q, k.transpose(1, 2))
        del bias
        weights = logits.softmax(dim=-1)
        del logits
        for reweigh in call.at("attention_weights", **self.place):
            weights = reweigh(weights)
        out = torch.baddbmm(torch.einsum("nqk,qkd->nqd", weights, to_v(frames, v)), weights, v)
        return join_heads(out.unflatten(0, (-1, self.heads)))


def scaled(q: Tensor) -> Tensor:
    """Queries n f d of one head, scaled before the product, which would overflow in half precision."""
    return q * q.shape[-1] ** -0.5


def _changed(changes: Sequence[Change], logits: Tensor, mask: Tensor | None) -> Tensor:
    """The logits as adapters return them, plus the mask."""
    for change in changes:
        logits = change(logits)
    return logits if mask is None else logits + mask


def _of_span(q: Tensor, k: Tensor, v: Tensor, span: slice) -> tuple[Tensor, Tensor, Tensor]:
    return q[:, span], k[:, span], v[:, span]


def _on_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(b h w) f d or b f (h w) d -> b f h w d"""
    return x.unflatten(2, grid) if x.ndim == 4 else x.unflatten(0, (-1, *grid)).permute(0, 3, 1, 2, 4)
