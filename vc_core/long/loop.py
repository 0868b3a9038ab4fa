"""Windows on a ring, so that the video ends where it begins."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..denoising.windows import FUSES, ContextWindows, Fuse
from .method import Strided, about
from .windows import FUSE_HELP


@dataclass(frozen=True, kw_only=True)
class Loop(Strided):
    """One clip in overlapping windows that run over its end into its beginning."""

    name = "loop"
    summary = "windows on a ring, so that the clip ends where it begins"
    use = "a clip that ends where it begins"
    memory = "one window"
    time = "2"
    eta = 0.0

    fuse: Fuse = field(default="pyramid", metadata=about(FUSE_HELP, choices=FUSES))

    def windows(self) -> ContextWindows:
        return ContextWindows(size=self.window, stride=self.stride, order="looped", fuse=self.fuse)
