"""FreeLong (arXiv:2407.19918): attention to near frames, with the low frequencies of attention to all frames."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..specs import Windows
from .method import Strided, about


@dataclass(frozen=True, kw_only=True)
class FreeLong(Strided):
    """One clip whose temporal attention blends near frames with all frames; see `specs.Windows`."""

    name = "freelong"
    summary = "like freenoise, with attention to all frames as well, more even from frame to frame"
    use = "one steady scene of 32 to 128 frames, more even from frame to frame"
    memory = "grows slowly with the frames"
    time = "1 to 1.3"
    eta = 1.0

    stride: int = field(
        default=4,
        metadata=about(
            "frames in each group whose noise is reused in another order, 1 to the window's size", low=1, high=256
        ),
    )

    def windows(self) -> Windows:
        return Windows(size=self.window, stride=self.stride, spectral=True)
