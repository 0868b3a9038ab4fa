"""Passes of the network in overlapping windows, which are averaged: MultiDiffusion (arXiv:2302.08113) over time."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..denoising.windows import FUSES, ContextWindows, Fuse, Order
from .method import Strided, about

FUSE_HELP = (
    "the weight of a frame in its window: pyramid rises towards the middle, overlap rises over the frames that two "
    "windows share, flat is equal"
)


@dataclass(frozen=True, kw_only=True)
class OverlappingWindows(Strided):
    """One clip in overlapping windows that begin elsewhere in each step; see `denoising.windows.ContextWindows`."""

    name = "windows"
    summary = "overlapping windows, averaged; any length in the memory of one window"
    use = "any length on a small card, where windows_fast shows its borders"
    memory = "one window"
    time = "2"
    eta = 0.0

    fuse: Fuse = field(default="pyramid", metadata=about(FUSE_HELP, choices=FUSES))
    order: Order = field(
        default="uniform",
        metadata=about(
            "where windows begin: uniform changes it from step to step, so that no border stays in its place; static "
            "does not",
            choices=("uniform", "static"),
        ),
    )

    def windows(self) -> ContextWindows:
        return ContextWindows(size=self.window, stride=self.stride, order=self.order, fuse=self.fuse)
