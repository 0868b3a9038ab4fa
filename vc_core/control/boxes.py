"""Boxes over time, as people type them and as files and nodes give them, become paths."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..json_text import parse
from .freetraj_path import Keyframe, Path, check_keyframes, path_of_centres, path_of_keyframes
from .tracks import FARTHEST, tracks_of

FORMS = (
    'lines "frame, top, bottom, left, right" in fractions of the image, of which later ones may be "frame, top, left", '
    'with an empty line between objects; a JSON list of boxes {"x": 0, "y": 0, "width": 64, "height": 64} in pixels; '
    'or tracks of the centers, a JSON list of points {"x": 10, "y": 20} in pixels'
)
SIDES = ("x", "y", "width", "height")

Box = Mapping[str, float]
"""x, y, width, height"""


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """What boxes are drawn on. frames: of the clip. width, height: in pixels, for boxes and points in pixels. box: the
    height and width, as fractions, of a box around points."""

    frames: int
    width: float
    height: float
    box: tuple[float, float]


def paths_of(text: str, canvas: Canvas) -> list[Path]:
    """The path of each object in a text. Raises UserError for anything but the forms above."""
    stripped = text.strip()
    if not stripped.startswith(("[", "{")):
        blocks = [part for part in re.split(r"\n\s*\n", stripped) if part.strip()]
        return [path_of_keyframes(_keyframes(block), canvas.frames) for block in blocks]
    try:
        found = parse(stripped)
    except ValueError as error:
        raise UserError(f"The boxes of FreeTraj are not JSON ({error}). Give {FORMS}.") from error
    boxes = _boxes_of(found)
    if boxes is None:
        return [_around(track, canvas) for track in tracks_of(stripped) if track]
    return [_through(track, canvas) for track in boxes]


def _keyframes(block: str) -> list[Keyframe]:
    """The keyframes of one object, a line each."""
    found: list[Keyframe] = []
    for line in block.splitlines():
        if line.strip():
            found.append(_keyframe(line, found[0] if found else None))
    check_keyframes(found)
    return found


def _keyframe(line: str, first: Keyframe | None) -> Keyframe:
    numbers = _numbers(line)
    allowed = (5,) if first is None else (3, 5)
    if len(numbers) not in allowed or numbers[0] != int(numbers[0]):
        raise UserError(f"{line.strip()[:60]!r} is not a keyframe of a box. Give {FORMS}.")
    frame, *sides = numbers
    if first is not None and len(sides) == 2:
        top, left = sides
        sides = [top, top + first.bottom - first.top, left, left + first.right - first.left]
    return Keyframe(int(frame), *sides)


def _numbers(line: str) -> list[float]:
    """The numbers of a line; none where anything else is in it, or no frame."""
    try:
        found = [float(number) for number in re.split(r"[,;\s]+", line.strip().rstrip(","))]
    except ValueError:
        return []
    return found if math.isfinite(found[0]) else []


def _boxes_of(found: Any) -> list[list[Box]] | None:
    """The boxes of each object, in the order of time: of a box, of a list with one for each moment, or of a list of
    lists with those of all objects at each moment. None where these are no boxes."""
    if isinstance(found, Mapping):
        return [[_box(found)]]
    moments = [moment for moment in map(_together, found) if moment]
    if not moments or not _is_box(moments[0][0]):
        return None
    count = min(map(len, moments))
    return [[_box(moment[number]) for moment in moments] for number in range(count)]


def _together(found: Any) -> list[Any]:
    """What is given for one moment, of one object or of several."""
    return found if isinstance(found, list) else [found]


def _is_box(found: Any) -> bool:
    return isinstance(found, Mapping) and "width" in found


def _box(found: Any) -> Box:
    try:
        box = {side: float(found[side]) for side in SIDES}
        if not all(abs(value) <= FARTHEST for value in box.values()):
            raise ValueError
        return box
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(f"{str(found)[:60]!r} is not a box. Give {FORMS}.") from error


def _through(boxes: Sequence[Box], canvas: Canvas) -> Path:
    """The path through boxes in pixels; its box has the size of the first one."""
    size = boxes[0]["height"] / canvas.height, boxes[0]["width"] / canvas.width
    _check_size(size)
    centres = [
        ((box["y"] + box["height"] / 2) / canvas.height, (box["x"] + box["width"] / 2) / canvas.width) for box in boxes
    ]
    return path_of_centres(centres, size, canvas.frames)


def _around(track: Sequence[tuple[float, float]], canvas: Canvas) -> Path:
    """The path of a box around points x, y in pixels."""
    _check_size(canvas.box)
    return path_of_centres([(y / canvas.height, x / canvas.width) for x, y in track], canvas.box, canvas.frames)


def _check_size(size: tuple[float, float]) -> None:
    if not all(0 < side <= 1 for side in size):
        raise UserError(
            f"The box of FreeTraj is {size[0]:g} of the image high and {size[1]:g} wide; both should be more than 0 "
            "and at most 1. Give a box that fits into the image, and as canvas the width of the image that it was "
            "drawn on."
        )
