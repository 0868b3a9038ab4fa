"""Tracks: where points of an image go, frame after frame, as nodes and files give them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ..errors import UserError
from ..json_text import parse

Point = tuple[float, float]
"""x, y in pixels, from the upper left corner."""
Track = list[Point]
FARTHEST = 1e9
"""Pixels from the corner that a point may have. What is calculated with points of any distance ends at infinity."""

FORMS = (
    'points "10, 20; 30, 40" or one on each line, with an empty line between tracks; or JSON, a list of points '
    '{"x": 10, "y": 20} or [10, 20], or several such lists'
)

TRACKS_HELP = (
    "where objects go, in pixels: the JSON of a track node, which lists points with x and y or several such lists, or "
    "lines with x and y and an empty line between tracks"
)


def tracks_of(text: str) -> list[Track]:
    """The tracks in a text: JSON as ComfyUI's track nodes and KJNodes write it, or points x, y that are typed. Raises
    UserError for anything else."""
    stripped = text.strip()
    if not stripped.startswith("["):
        return _from_lines(stripped)
    try:
        found = parse(stripped.replace("'", '"'))
    except ValueError as error:
        raise UserError(f"The tracks are not JSON ({error}). Give {FORMS}.") from error
    if found and isinstance(found[0], list) and not _is_pair(found[0]):
        return [[_point(point) for point in _track(track)] for track in found]
    return [[_point(point) for point in found]]


def _from_lines(text: str) -> list[Track]:
    tracks = []
    for part in re.split(r"\n\s*\n", text):
        points = [_point(re.split(r"[,\s]+", point.strip())) for point in re.split("[;\n]", part) if point.strip()]
        if points:
            tracks.append(points)
    return tracks


def _track(found: Any) -> list[Any]:
    if not isinstance(found, list):
        raise UserError(f"{str(found)[:60]!r} is not a track, a list of points. Give {FORMS}.")
    return found


def _is_pair(found: list[Any]) -> bool:
    return len(found) == 2 and all(isinstance(number, int | float) for number in found)


def _point(found: Any) -> Point:
    try:
        x, y = (found["x"], found["y"]) if isinstance(found, dict) else found
        point = float(x), float(y)
        if isinstance(found, str) or not all(abs(value) <= FARTHEST for value in point):
            raise ValueError
        return point
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(f"{str(found)[:60]!r} is not a point of a track. Give {FORMS}.") from error


def for_frames(track: Track, frames: int) -> Track:
    """A point for each frame, at whole pixels. Of more points, those at equal distances and the last one; between
    fewer, points on straight lines, one more in the first intervals; a single point stays where it is."""
    whole = [(float(int(x)), float(int(y))) for x, y in track]
    if len(whole) < 2:
        return whole * frames
    if len(whole) >= frames:
        return [*whole[:: len(whole) // frames][: frames - 1], whole[-1]]
    each, more = divmod(frames - len(whole), len(whole) - 1)
    found: Track = []
    for number, (start, end) in enumerate(pairwise(whole)):
        steps = each + (number < more) + 1
        found += [_between(start, end, step / steps) for step in range(steps)]
    return [*found, whole[-1]]


def _between(start: Point, end: Point, share: float) -> Point:
    return tuple(float(int(a + (b - a) * share)) for a, b in zip(start, end, strict=True))  # type: ignore[return-value]


def every(track: Track, frames: int) -> Track:
    """Of more points than frames, those at equal distances, from the first one on."""
    return track[:: len(track) // frames][:frames] if len(track) > frames else track


def on_canvas(tracks: Sequence[Track], *, canvas: int, width: int) -> list[Track]:
    """Tracks that were drawn on an image `canvas` pixels wide, at whole pixels of one `width` wide."""
    return [[(float(int(width * x / canvas)), float(int(width * y / canvas))) for x, y in track] for track in tracks]
