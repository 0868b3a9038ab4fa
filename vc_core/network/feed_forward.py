"""The feed-forward layer of a transformer block: each token by itself."""

from __future__ import annotations

import torch
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
    """n tokens d -> n tokens d, four times as wide inside, added to a stream. Without gradients, in parts that bound
    its memory; compiled, as a whole."""

    def __init__(self, dim: int, layers: Layers) -> None:
        super().__init__()
        self.budget, self.fused = layers.budget, layers.fused
        self.net = nn.Sequential(GEGLU(dim, 4 * dim, layers), nn.Identity(), layers.linear(4 * dim, dim))

    def forward(self, x: Tensor, stream: Tensor) -> Tensor:
        """The result for x plus `stream`, which may be overwritten."""
        rows = self.budget.tokens(x, self.fused(x))
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.shape[:-1].numel() <= rows:
            whole: Tensor = self.net(x)
            return stream + whole
        stream = stream.contiguous()
        for part, result in zip(x.flatten(0, -2).split(rows), stream.flatten(0, -2).split(rows), strict=True):
            result.add_(self.net(part))
        return stream
