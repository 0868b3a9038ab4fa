"""Windows side by side that shift from step to step, at little more than the time of short clips."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..denoising.windows import FUSES, ContextWindows, Fuse
from .method import OneClip, Windowed, about
from .windows import FUSE_HELP


@dataclass(frozen=True, kw_only=True)
class ShiftedWindows(OneClip, Windowed):
    """One clip in windows side by side, which begin elsewhere in each step and overlap in the last two."""

    name = "windows_fast"
    summary = "windows side by side, shifted from step to step; any length in the memory of one window"
    use = "any length on a small card"
    memory = "one window"
    time = "1.1 to 1.5"
    eta = 0.0

    fuse: Fuse = field(default="pyramid", metadata=about(FUSE_HELP, choices=FUSES))

    def windows(self) -> ContextWindows:
        return ContextWindows(size=self.window, stride=self.window, order="shifted", fuse=self.fuse)
