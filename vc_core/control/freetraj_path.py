"""Paths of boxes: keyframes or points become a box for each frame, and a box becomes cells of a feature map.

Positions and sizes are fractions of the image's height and width, in float64. A box may leave the image.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from .tracks import FARTHEST

LAST_FRAME = 10_000
"""The highest frame of a keyframe; there is a box for each frame up to it."""


@dataclass(frozen=True)
class Keyframe:
    """Where a box is in one frame, counted from 0."""

    frame: int
    top: float
    bottom: float
    left: float
    right: float

    @property
    def sides(self) -> tuple[float, float, float, float]:
        """top, bottom, left, right"""
        return self.top, self.bottom, self.left, self.right


@dataclass(frozen=True)
class Cells:
    """A box on a feature map: its first row and column, which may lie outside of the map, and its size in cells."""

    top: int
    left: int
    height: int
    width: int

    def seen(self, height: int, width: int) -> tuple[slice, slice]:
        """The rows and columns of it that lie on a map of this size; empty slices where none do."""
        rows = slice(min(max(self.top, 0), height), min(max(self.top + self.height, 0), height))
        return rows, slice(min(max(self.left, 0), width), min(max(self.left + self.width, 0), width))

    def part(self, height: int, width: int) -> tuple[slice, slice]:
        """The same rows and columns, counted from the corner of the box."""
        rows, columns = self.seen(height, width)
        return (
            slice(rows.start - self.top, rows.stop - self.top),
            slice(columns.start - self.left, columns.stop - self.left),
        )


@dataclass(frozen=True)
class Path:
    """A box of one size that moves: the position (top, left) of its corner in each frame."""

    corners: tuple[tuple[float, float], ...]
    height: float
    width: float

    def cells(self, height: int, width: int) -> list[Cells]:
        """The box of each frame on a map of this size. Fractions of a cell are cut off, separately for the corner and
        for the size, which is one cell at least."""
        size = max(1, int(self.height * height)), max(1, int(self.width * width))
        return [Cells(math.floor(top * height), math.floor(left * width), *size) for top, left in self.corners]


def path_of_keyframes(keyframes: Sequence[Keyframe], frames: int) -> Path:
    """The path of a clip of `frames` frames; the size of the box is that of the first keyframe."""
    first = keyframes[0]
    rows = sides_of_frames(keyframes, frames)
    corners = tuple((top, left) for top, _, left, _ in rows[:frames])
    return Path(corners, first.bottom - first.top, first.right - first.left)


def sides_of_frames(keyframes: Sequence[Keyframe], frames: int) -> list[tuple[float, ...]]:
    """top, bottom, left and right of the box in each frame: linear between keyframes. Before the first one the movement
    between its first two frames goes on backwards, after the last one that between its last two frames."""
    known: list[tuple[float, ...]] = [keyframes[0].sides]
    for one, other in itertools.pairwise(keyframes):
        span = other.frame - one.frame
        for number in range(1, span + 1):
            pairs = zip(one.sides, other.sides, strict=True)
            known.append(tuple(number * ((end - start) / span) + start for start, end in pairs))
    moves = len(known) > 1
    while moves and len(known) + keyframes[0].frame < frames:
        known.append(_beyond(known[-2], known[-1]))
    for _ in range(keyframes[0].frame):
        known.insert(0, _beyond(known[1], known[0]) if moves else known[0])
    return known + [known[-1]] * (frames - len(known))


def _beyond(before: Sequence[float], last: Sequence[float]) -> tuple[float, ...]:
    """One more step of the same length."""
    return tuple(end + (end - start) for start, end in zip(before, last, strict=True))


def path_of_centres(centres: Sequence[tuple[float, float]], size: tuple[float, float], frames: int) -> Path:
    """The path of a box of a size (height, width) whose centre (y, x) passes points, which are spread evenly over a
    clip of `frames` frames."""
    height, width = size
    corners = []
    for frame in range(frames):
        place = frame * (len(centres) - 1) / max(1, frames - 1)
        index = min(int(place), max(0, len(centres) - 2))
        one, other = centres[index], centres[min(index + 1, len(centres) - 1)]
        y, x = (start + (place - index) * (end - start) for start, end in zip(one, other, strict=True))
        corners.append((y - height / 2, x - width / 2))
    return Path(tuple(corners), height, width)


def check_keyframes(keyframes: Sequence[Keyframe]) -> None:
    """Raises UserError for keyframes that give no path."""
    if not keyframes:
        raise UserError("FreeTraj was given no keyframe of a box. Give at least one: frame, top, bottom, left, right.")
    _check_frames(keyframes)
    first = keyframes[0]
    if not all(abs(side) <= FARTHEST for one in keyframes for side in one.sides):
        raise UserError(
            f"A side of a keyframe of FreeTraj is not a finite number of at most {FARTHEST:g}. Give fractions of the "
            "image, such as 0.25."
        )
    size = first.bottom - first.top, first.right - first.left
    if not all(0 < side <= 1 for side in size):
        raise UserError(
            f"The box of FreeTraj is {size[0]:g} of the image high and {size[1]:g} wide; both should be more than 0 "
            "and at most 1. Give the first keyframe as frame, top, bottom, left, right, in fractions of the image, "
            "with top less than bottom and left less than right."
        )


def object_map(paths: Sequence[Path], height: int, width: int) -> Tensor:
    """f h w, uint8: 0 outside of all boxes, n inside that of object n, from 1; later objects cover earlier ones."""
    found = torch.zeros(len(paths[0].corners), height, width, dtype=torch.uint8)
    for number, path in enumerate(paths, start=1):
        for frame, cells in zip(found, path.cells(height, width), strict=True):
            frame[cells.seen(height, width)] = number
    return found


def _check_frames(keyframes: Sequence[Keyframe]) -> None:
    """Raises UserError for frames that are not in order, or not of a clip."""
    for one, other in itertools.pairwise(keyframes):
        if other.frame <= one.frame:
            raise UserError(
                f"A keyframe of FreeTraj is at frame {other.frame}, but the one before it at frame {one.frame}. Give "
                "keyframes in the order of their frames, and one for a frame."
            )
    for each in (keyframes[0], keyframes[-1]):
        if not 0 <= each.frame <= LAST_FRAME:
            raise UserError(
                f"A keyframe of FreeTraj is at frame {each.frame}. Frames are counted from 0, up to {LAST_FRAME}."
            )
