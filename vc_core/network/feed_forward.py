"""The feed-forward layer of a transformer block, which sees each token alone."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from . import kernels
from .layers import Layers


class GEGLU(nn.Module):
    """x -> value * gelu(gate), both linear in x (arXiv:2002.05202), with the exact error function."""

    def __init__(self, d_in: int, d_out: int, layers: Layers) -> None:
        super().__init__()
        self.fused = layers.fused
        self.proj = layers.linear(d_in, 2 * d_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        if self.fused(x):
            return kernels.geglu(x)
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """n tokens d -> n tokens d, four times as wide inside, added to a stream."""

    def __init__(self, dim: int, layers: Layers) -> None:
        super().__init__()
        self.plan, self.fused = layers.plan, layers.fused
        self.net = nn.Sequential(GEGLU(dim, 4 * dim, layers), nn.Identity(), layers.linear(4 * dim, dim))

    def forward(self, x: Tensor, stream: Tensor, *, biased: bool = False) -> Tensor:
        """stream + net(x); `stream` may be overwritten. With `biased` it holds the last bias already, and the last
        product adds to it on its own."""
        if not biased:
            return self.plan.add_over_tokens(self.net, x, stream)
        first: Any = self.net[0]
        last: Any = self.net[-1]
        weight = last.weight.t()
        return self.plan.accumulate_over_tokens(lambda part, result: result.addmm_(first(part), weight), x, stream)

    def accumulates(self, x: Tensor) -> bool:
        """Whether the stream should come `biased`: with fused kernels and torch's own layers."""
        return self.fused.own and self.fused(x)

    @property
    def last_bias(self) -> Tensor:
        """d, the bias of the last layer."""
        last: Any = self.net[-1]
        bias: Tensor = last.bias
        return bias
