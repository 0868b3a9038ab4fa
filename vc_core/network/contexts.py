"""Keys and values of texts and pictures, kept from pass to pass: they are the same in every step of a run."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .attentions import CrossAttention, apply
from .hooks import Hooks

MOST_BYTES = 2**28
"""What one run may keep. In fp32 the published networks have 8 MB for a text, and 26 MB for 16 tokens of a picture for
each of 16 frames."""


class KeptContexts(Hooks):
    """For passes of one network with the same conditionings, whose tensors and weights must not change meanwhile."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most, self.bytes = most, 0
        self.kept: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def cross_attention(self, attention: CrossAttention, x: Tensor, text: Tensor, image: Tensor | None) -> Tensor:
        out: Tensor = attention(x, text, image, self._projected)
        return out

    def _projected(self, layer: nn.Module, tokens: Tensor) -> Tensor:
        """layer(tokens), computed once. The tokens are kept as well, so that no others come to lie in their place."""
        key = (id(layer), tokens.data_ptr(), tokens.shape, tokens.stride(), tokens.dtype, tokens.device)
        if key not in self.kept:
            made = apply(layer, tokens)
            if self.bytes + made.nbytes > self.most:
                return made
            self.bytes += made.nbytes
            self.kept[key] = (tokens, made)
        return self.kept[key][1]
