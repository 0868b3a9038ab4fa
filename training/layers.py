"""Layers and attention that compute the same as torch's but train faster on a CPU.

The backward pass of torch's GroupNorm is not vectorised for 16-bit channels-last tensors, and its fused attention is
optimised for long sequences. Small video networks would spend most of their time in these two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vc_core.network.attention import join_heads, split_heads


class _GroupNorm(torch.autograd.Function):
    """Group normalisation with whole-tensor operations; statistics in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        n, c = x.shape[:2]
        places = tuple(range(2, x.ndim))
        size = x[0, 0].numel() * (c // groups)

        def per_channel(values: Tensor) -> Tensor:
            return values.repeat_interleave(c // groups, dim=1)

        mean = x.sum(places, dtype=torch.float32).view(n, groups, -1).sum(2) / size
        square = (x * x).sum(places, dtype=torch.float32).view(n, groups, -1).sum(2) / size
        inverse = ((square - mean * mean).clamp_min(0) + eps).rsqrt()
        mean, inverse = per_channel(mean), per_channel(inverse)
        gain = inverse * weight.float()
        shift = bias.float() - mean * gain
        broadcast = (n, c, *(1 for _ in places))
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.groups, ctx.size = groups, size
        return torch.addcmul(shift.view(broadcast).to(x.dtype), x, gain.view(broadcast).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight, mean, inverse = ctx.saved_tensors
        n, c = x.shape[:2]
        places = tuple(range(2, x.ndim))
        broadcast = (n, c, *(1 for _ in places))

        def per_group(values: Tensor) -> Tensor:
            shared = (values * weight.float()).view(n, ctx.groups, -1).sum(2) / ctx.size
            return shared.repeat_interleave(c // ctx.groups, dim=1)

        total = grad.sum(places, dtype=torch.float32)
        along = ((grad * x).sum(places, dtype=torch.float32) - mean * total) * inverse
        slope = inverse.square() * per_group(along)
        terms = (slope * mean - inverse * per_group(total), inverse * weight.float(), -slope)
        constant, gain, slope = (term.view(broadcast).to(x.dtype) for term in terms)
        out = torch.addcmul(torch.addcmul(constant, grad, gain), x, slope)
        return out, along.sum(0).to(weight.dtype), total.sum(0).to(weight.dtype), None, None


class GroupNorm(nn.GroupNorm):
    """Like torch's; n c ... -> n c ..."""

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = _GroupNorm.apply(input, self.weight, self.bias, self.num_groups, self.eps)
        return out


class FastOperations:
    """The layer classes used in training."""

    Conv1d = nn.Conv1d
    Conv2d = nn.Conv2d
    Conv3d = nn.Conv3d
    Linear = nn.Linear
    LayerNorm = nn.LayerNorm
    GroupNorm = GroupNorm


def short_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Plain attention in float32, fast for many short sequences."""
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = (split_heads(x.float(), heads) for x in (q, k, v))
        n, _, tokens, width = q.shape
        logits = torch.bmm((q * width**-0.5).reshape(n * heads, tokens, width), k.transpose(2, 3).flatten(0, 1))
        if mask is not None:
            logits = (logits.view(n, heads, tokens, -1) + mask).flatten(0, 1)
        return join_heads(torch.bmm(logits.softmax(-1), v.flatten(0, 1)).view(n, heads, tokens, width))
