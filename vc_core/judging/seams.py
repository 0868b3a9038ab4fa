"""Seams: differences across the borders of windows and tiles, and from the last frame of a loop to its first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from ..parameters import Kind, about
from .metric import Clip, Metric
from .moment import Moment, difference

SMALLEST = 1e-6
"""What a difference is compared with at least."""


def relative(value: float, usual: float) -> float:
    """A difference relative to the usual one."""
    return value / max(usual, SMALLEST)


class LoopSeam(Metric):
    """The difference of the last and the first frame, relative to the median difference of neighboring frames."""

    name = "loop_seam"
    help = (
        "the difference between the last and the first frame, relative to the median difference of neighboring frames; "
        "about 1 for a seamless loop"
    )
    high = None
    better = "near 1"

    def at(self, moment: Moment) -> float:
        return moment.step

    def total(self, values: Sequence[float], clip: Clip) -> float:
        return relative(difference(clip.last, clip.first), median(values))


@dataclass(frozen=True, kw_only=True)
class WindowSeams(Metric):
    """The difference of frames across the borders of windows, relative to the median difference of neighbors."""

    name = "window_seams"
    help = (
        "the mean difference of frames across the borders of windows, relative to the median difference of neighboring "
        "frames; about 1 without seams"
    )
    high = None
    better = "near 1"
    needs = ("window_stride",)

    window_stride: int = field(
        default=0,
        metadata=about(
            "frames from the start of one window or clip to the next, for window_seams; 0 leaves that out",
            kind=Kind.INTEGER,
            low=0,
            high=100000,
        ),
    )

    @property
    def fewest(self) -> int:
        return self.window_stride + 1

    def at(self, moment: Moment) -> float:
        return moment.step

    def total(self, values: Sequence[float], clip: Clip) -> float:
        return across(values, self.window_stride)


def across(steps: Sequence[float], stride: int, start: int | None = None) -> float:
    """The mean of those differences of neighbors that cross a border, relative to the median of all. Borders are before
    every `stride`-th item, the first of them before item `start` (`stride` if not given)."""
    crossing = steps[(stride if start is None else start) - 1 :: stride]
    return relative(sum(crossing) / len(crossing), median(steps))


@dataclass(frozen=True, kw_only=True)
class TileSeams(Metric):
    """The difference of pixels across the borders of tiles, relative to the median difference of neighbors."""

    name = "tile_seams"
    help = (
        "the mean difference of rows and columns across the borders of tiles, relative to the median difference of "
        "neighboring ones; about 1 without seams"
    )
    high = None
    better = "near 1"
    reads = 1
    needs = ("tile_stride",)

    tile_stride: int = field(
        default=0,
        metadata=about(
            "pixels from the start of one tile to the next, in both directions, for tile_seams; 0 leaves that out",
            kind=Kind.INTEGER,
            low=0,
            high=100000,
        ),
    )

    def at(self, moment: Moment) -> float | None:
        image = moment.frame.image
        axes = [axis for axis in (0, 1) if image.shape[axis] > self.tile_stride]
        found = [across(_steps(image, axis), self.tile_stride) for axis in axes]
        return sum(found) / len(found) if found else None


def _steps(image: Tensor, axis: int) -> list[float]:
    """The mean absolute differences of neighboring rows (0) or columns (1) of h w 3."""
    found: list[float] = torch.diff(image, dim=axis).abs().mean(dim=(1 - axis, 2)).tolist()
    return found
