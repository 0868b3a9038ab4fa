"""Overlapping windows that each have their own noise: temporal co-denoising, Gen-L-Video (arXiv:2305.18264)."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..denoising.windows import FUSES, ContextWindows, Fuse
from .method import Strided, about
from .windows import FUSE_HELP


@dataclass(frozen=True, kw_only=True)
class CoDenoising(Strided):
    """One clip in overlapping windows at fixed places; noise is not rescheduled, so distant frames differ."""

    name = "co_denoise"
    summary = "overlapping windows with their own noise, for a scene that changes over time"
    use = "a scene that changes over time, above all with several prompts"
    memory = "one window"
    time = "2"
    eta = 0.0

    fuse: Fuse = field(default="flat", metadata=about(FUSE_HELP, choices=FUSES))

    def windows(self) -> ContextWindows:
        return ContextWindows(size=self.window, stride=self.stride, order="static", fuse=self.fuse, reuse=False)
