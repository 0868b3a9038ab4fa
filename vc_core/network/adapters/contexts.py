"""Keys and values of texts and images, kept from pass to pass: they are the same in every step of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..adapter import Adapter, Place, Recording

MOST_BYTES = 2**28
"""What one run may keep. In fp32 the published networks need 8 MB for a text, and 26 MB for 16 image tokens for each
of 16 frames."""


class KeptContexts(Adapter):
    """For passes of one network with the same conditionings, whose tensors and weights must not change meanwhile."""

    recording = Recording.OMITTED
    reads_place = False

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most, self.bytes = most, 0
        self.kept: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def project_context(
        self, at: Place, project: Callable[[nn.Module, Tensor], Tensor], layer: nn.Module, tokens: Tensor
    ) -> Tensor:
        """layer(tokens), computed once. The tokens are kept as well, so that no others can have their address."""
        key = (id(layer), tokens.data_ptr(), tokens.shape, tokens.stride(), tokens.dtype, tokens.device)
        if key not in self.kept:
            projected = project(layer, tokens)
            if self.bytes + projected.nbytes > self.most:
                return projected
            self.bytes += projected.nbytes
            self.kept[key] = (tokens, projected)
        return self.kept[key][1]
