"""Windows over time."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UserError


@dataclass(frozen=True, kw_only=True)
class Windows:
    """FreeNoise's windows over time (arXiv:2310.15169), which let a network of few frames make long clips.

    Temporal attention runs inside windows of `size` frames that begin every `stride` frames, and what they give is
    averaged with triangular weights. A last window, flush with the end, covers the frames that the stride would leave
    over; without `cover_rest` those get nothing, as in the published code. A clip of `size` frames or fewer is one
    window: plain attention.

    `spectral` is FreeLong (arXiv:2407.19918) instead: every frame attends to those up to half a window away, and in the
    layers below the full size the low frequencies of the result are those of attention over the whole clip. `stride`
    then counts for the noise alone.
    """

    size: int = 16
    stride: int = 4
    cover_rest: bool = True
    spectral: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or not 1 <= self.stride <= self.size:
            raise UserError(
                f"Windows of {self.size} frames every {self.stride} were asked for; the size should be 1 or more, and "
                "the stride from 1 to the size, so that no frame is left out."
            )

    def spans(self, frames: int) -> list[tuple[int, int]]:
        """(first frame, frame after the last) of each window over a clip, in order."""
        starts = list(range(0, max(frames - self.size, 0) + 1, self.stride))
        if self.cover_rest and starts[-1] + self.size < frames:
            starts.append(frames - self.size)
        return [(start, min(start + self.size, frames)) for start in starts]

    def weights(self, length: int) -> list[float]:
        """The weight of each frame of a window: 1, 2, ... up to the middle and down again."""
        return [float(min(i + 1, length - i)) for i in range(length)]
