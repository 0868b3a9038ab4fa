"""Attention layers that are weakened in one branch of guidance: perturbed (arXiv:2403.17377), or skipped."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...conditions import Evaluation
from ..adapter import Adapter, Attend, Place, Recording, Site
from .motion import TEMPORAL

Way = Literal["off", "perturbed", "skipped"]
WAYS: tuple[Way, ...] = ("off", "perturbed", "skipped")


@dataclass(frozen=True, kw_only=True)
class Weakening:
    """What is weakened. spatial, temporal: how, in attention over the pixels of a frame and over the frames of a pixel.
    blocks: the published names of the blocks.

    Perturbed, every token attends to itself alone; skipped, the layer adds nothing.
    """

    spatial: Way
    temporal: Way
    blocks: tuple[str, ...]

    def at(self, place: Place) -> Way:
        """How the attention at a place is weakened."""
        if place.transformer.split(".transformer_blocks")[0].rpartition(".")[0] not in self.blocks:
            return "off"
        if place.attention == "spatial_self":
            return self.spatial
        return self.temporal if place.attention in TEMPORAL else "off"


class WeakenedLayers(Adapter):
    """Acts only in branches of guidance that are marked by the name of its control, in `Branch.without`."""

    recording = Recording.INCLUDED

    def __init__(self, mark: str, weakening: Weakening) -> None:
        self.mark, self.weakening = mark, weakening

    @property
    def recorded_as(self) -> Hashable:
        return super().recorded_as, self.weakening

    def acts(self, evaluation: Evaluation) -> bool:
        return self.mark in evaluation.without

    def uses(self, site: Site, at: Place) -> bool:
        way = self.weakening.at(at)
        if site == "around_attention":
            return way == "skipped"
        over_time = site == "attention_weights"
        return way == "perturbed" and over_time == (at.attention in TEMPORAL)

    def around_attention(self, at: Place, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def attention(
        self, at: Place, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return v

    def attention_weights(self, at: Place, weights: Tensor) -> Tensor:
        itself = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
        return itself.expand_as(weights)
