"""Detects colour, shape and motion of the object in a clip of the synthetic world, by classical image processing.

Pixels are classified by the world's palette. The object is the largest connected component in an object's colour, its
shape the template with the best overlap at equal area and centre, and its motion a straight line fitted to its centres.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from worlds.shapes.world import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, outline_distance

Array = npt.NDArray[np.float32]

SMALLEST_AREA = 20.0
"""Minimum area of an object in pixels."""
STILL_TRAVEL = 1.2
"""In pixels over the clip: an object that moves less is still."""
STILL_GROWTH = 0.32
"""In pixels of radius over the clip: an object that changes less keeps its size."""
GROWTH_WEIGHT = 3.0
"""Weight of a change of radius relative to travel, since shapes grow more slowly than they move."""
NOTHING = "nothing"


@dataclass(frozen=True)
class Sighting:
    """The object in one frame; centre and area in pixels, rgb in 0..1."""

    colour: str
    shape: str
    x: float
    y: float
    area: float
    rgb: tuple[float, float, float]


@dataclass(frozen=True)
class Observation:
    """The object in a clip; `speed` in pixels per frame, `growth` in pixels of radius per frame."""

    colour: str
    shape: str
    motion: str
    speed: float
    growth: float
    sightings: tuple[Sighting | None, ...]

    def share(self, *, colour: str | None = None, shape: str | None = None) -> float:
        """The share of frames with this colour and this shape."""
        right = [
            seen is not None and colour in (None, seen.colour) and shape in (None, seen.shape)
            for seen in self.sightings
        ]
        return sum(right) / len(right)


def observe(clip: Array) -> Observation:
    """Analyses a clip f h w 3 in 0..1. Colour and shape are the most frequent ones; "nothing" if there is no object."""
    sightings = tuple(look(frame) for frame in clip)
    seen = [(number, sighting) for number, sighting in enumerate(sightings) if sighting is not None]
    if not seen:
        return Observation(NOTHING, NOTHING, NOTHING, 0.0, 0.0, sightings)
    colour = Counter(sighting.colour for _, sighting in seen).most_common(1)[0][0]
    shape = Counter(sighting.shape for _, sighting in seen).most_common(1)[0][0]
    dx, dy, growth = _trend(seen, shape)
    motion = _motion(dx, dy, growth, len(clip) - 1)
    return Observation(colour, shape, motion, float(np.hypot(dx, dy)), growth, sightings)


def look(frame: Array) -> Sighting | None:
    """The object in a frame h w 3 in 0..1, or None."""
    rough = object_pixels(frame)
    if rough is None:
        return None
    core = ndimage.binary_erosion(rough, iterations=2)
    inside = frame[core if core.sum() >= 8 else rough]
    rgb = np.median(inside, axis=0)
    names = list(COLOURS)
    colour = names[int(np.argmin([np.linalg.norm(rgb - COLOURS[name]) for name in names]))]
    cover = _cover(frame, rgb) * ndimage.binary_dilation(rough, iterations=2)
    area = float(cover.sum())
    if area < SMALLEST_AREA:
        return None
    rows, columns = np.indices(cover.shape, dtype=np.float32) + 0.5
    x, y = float((cover * columns).sum() / area), float((cover * rows).sum() / area)
    return Sighting(colour, best_shape(cover, x, y, area), x, y, area, (float(rgb[0]), float(rgb[1]), float(rgb[2])))


def object_pixels(frame: Array) -> npt.NDArray[np.bool_] | None:
    """The largest connected component of pixels that are closer to an object's colour than to any background's."""
    palette = np.array([*COLOURS.values(), *BACKGROUNDS.values()], dtype=np.float32)
    distances = np.linalg.norm(frame[:, :, None] - palette, axis=-1)
    mask = distances.argmin(-1) < len(COLOURS)
    labels, count = ndimage.label(mask)
    if count == 0:
        return None
    sizes = np.bincount(labels.ravel())[1:]
    return np.asarray(labels == 1 + int(sizes.argmax())) if sizes.max() >= SMALLEST_AREA else None


def _cover(frame: Array, rgb: Array) -> Array:
    """Coverage of each pixel by the object, h w in 0..1, interpolated between the object's and the nearest background
    colour."""
    behind = np.min([np.linalg.norm(frame - np.array(value), axis=-1) for value in BACKGROUNDS.values()], axis=0)
    ahead = np.linalg.norm(frame - rgb, axis=-1)
    share = behind / np.maximum(behind + ahead, 1e-6)
    return np.asarray(np.clip((share - 0.15) / 0.7, 0, 1), dtype=np.float32)


def _unit_template(shape: str) -> tuple[float, float]:
    """Area of the shape with radius 1, and the offset of its centre of mass below its centre."""
    cover = _template(shape, (256, 256), 128.0, 128.0, 100.0)
    rows = np.arange(256)[:, None] + 0.5
    return float(cover.sum()) / 1e4, float((cover * rows).sum() / cover.sum() - 128) / 100


def _template(shape: str, size: tuple[int, ...], x: float, y: float, radius: float) -> Array:
    rows, columns = np.indices(size, dtype=np.float32) + 0.5
    distance = outline_distance(shape, columns - x, rows - y, radius)
    return np.asarray(np.clip(0.5 - distance, 0, 1), dtype=np.float32)


_UNIT = {shape: _unit_template(shape) for shape in SHAPES}


def best_shape(cover: Array, x: float, y: float, area: float) -> str:
    """The shape whose template with equal area and centre has the best overlap with `cover`, h w in 0..1."""
    scores = {}
    for shape, (unit_area, below) in _UNIT.items():
        radius = float(np.sqrt(area / unit_area))
        template = _template(shape, cover.shape, x, y - below * radius, radius)
        scores[shape] = float(np.minimum(cover, template).sum() / np.maximum(cover, template).sum())
    return max(scores, key=lambda shape: scores[shape])


def _trend(seen: Sequence[tuple[int, Sighting]], shape: str) -> tuple[float, float, float]:
    """Slopes of x, y and radius per frame."""
    if len(seen) < 2:
        return 0.0, 0.0, 0.0
    numbers = [number for number, _ in seen]
    unit_area = _UNIT[shape][0]
    rows = [(sighting.x, sighting.y, np.sqrt(sighting.area / unit_area)) for _, sighting in seen]
    slopes = np.polyfit(numbers, np.array(rows), 1)[0]
    return float(slopes[0]), float(slopes[1]), float(slopes[2])


def _motion(dx: float, dy: float, growth: float, steps: int) -> str:
    travel, change = float(np.hypot(dx, dy)) * steps, abs(growth) * steps
    if travel < STILL_TRAVEL and change < STILL_GROWTH:
        return "still"
    if GROWTH_WEIGHT * change > travel:
        return "growing" if growth > 0 else "shrinking"
    angles = {name: np.arctan2(step[1], step[0]) for name, step in DIRECTIONS.items()}
    return max(angles, key=lambda name: float(np.cos(np.arctan2(dy, dx) - angles[name])))
