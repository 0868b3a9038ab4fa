"""FreeNoise (arXiv:2310.15169): temporal attention in windows, and rescheduled noise."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..specs import Windows
from .method import STRIDE, Strided, about


@dataclass(frozen=True, kw_only=True)
class FreeNoise(Strided):
    """One clip whose temporal attention runs in windows and whose first noise is rescheduled; see `specs.Windows`."""

    name = "freenoise"
    summary = "one steady scene of 32 to 128 frames, whose memory grows slowly with the frames"
    use = "one steady scene of 32 to 128 frames"
    memory = "grows slowly with the frames"
    time = "1"
    eta = 0.0

    stride: int = field(default=4, metadata=about(STRIDE, low=1, high=256))

    def windows(self) -> Windows:
        return Windows(size=self.window, stride=self.stride)
