"""Drawing with smooth edges: shapes in units of one's own on a canvas that is larger than the finished image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

CLEAR = (0, 0, 0, 0)


def mixed(first: Sequence[float], second: Sequence[float], share: float) -> Colour:
    """The colour that is `share` of the way from the first to the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def lighter(colour: Sequence[float], share: float = 0.35) -> Colour:
    """The colour with white in it."""
    return mixed(colour, (255, 255, 255), share)


def darker(colour: Sequence[float], share: float = 0.3) -> Colour:
    """The colour with a dark blue in it, as in a shadow."""
    return mixed(colour, (20, 20, 50), share)


class Pen:
    """A canvas `width` x `height` units large, `pixels` for each unit after it was made smaller by `finer`.

    `origin` is the corner of the canvas in units. The canvas is transparent until something is drawn.
    """

    def __init__(
        self, width: float, height: float, pixels: float, *, origin: Point = (0.0, 0.0), finer: int = 2
    ) -> None:
        self.finer, self.unit = finer, pixels * finer
        self.origin = origin
        size = (finer * round(width * pixels), finer * round(height * pixels))
        self.image = Image.new("RGBA", size, CLEAR)
        self.draw = ImageDraw.Draw(self.image)

    def _at(self, points: Sequence[Point]) -> list[Point]:
        x0, y0 = self.origin
        return [((x - x0) * self.unit, (y - y0) * self.unit) for x, y in points]

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """A filled polygon."""
        self.draw.polygon(self._at(points), fill=(*colour, 255))

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour, *, alpha: int = 255) -> None:
        """A filled ellipse with its axes upright, around (x, y)."""
        (x0, y0), (x1, y1) = self._at([(x - rx, y - ry), (x + rx, y + ry)])
        self.draw.ellipse((x0, y0, x1, y1), fill=(*colour, alpha))

    def box(self, x: float, y: float, right: float, bottom: float, colour: Colour, *, round_by: float = 0.0) -> None:
        """A filled rectangle, perhaps with rounded corners."""
        (x0, y0), (x1, y1) = self._at([(x, y), (right, bottom)])
        self.draw.rounded_rectangle((x0, y0, x1, y1), round_by * self.unit, fill=(*colour, 255))

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """A line with round joints."""
        self.draw.line(self._at(points), fill=(*colour, 255), width=max(1, round(width * self.unit)), joint="curve")

    def pie(self, x: float, y: float, radius: float, angles: tuple[float, float], colour: Colour) -> None:
        """A slice of a disc, between two angles in degrees, clockwise from the right."""
        (x0, y0), (x1, y1) = self._at([(x - radius, y - radius), (x + radius, y + radius)])
        self.draw.pieslice((x0, y0, x1, y1), *angles, fill=(*colour, 255))

    def done(self) -> Image.Image:
        """The finished image, in its own size."""
        return self.image.reduce(self.finer)


def curve(points: Sequence[Point], steps: int = 8) -> list[Point]:
    """A smooth closed outline through the points (a closed Catmull-Rom spline)."""
    outline: list[Point] = []
    count = len(points)
    for index in range(count):
        p0, p1, p2, p3 = (np.array(points[(index + shift) % count]) for shift in (-1, 0, 1, 2))
        for t in np.arange(steps) / steps:
            at = p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))
            outline.append((float(at[0]), float(at[1])))
    return outline


def star_points(x: float, y: float, radius: float, *, count: int = 5, inner: float = 0.48) -> list[Point]:
    """The outline of a star with one tip up."""
    points = []
    for index in range(2 * count):
        reach = radius if index % 2 == 0 else radius * inner
        angle = math.pi * index / count - math.pi / 2
        points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return points


def gradient(stops: Sequence[tuple[float, Colour]], height: int) -> npt.NDArray[np.float32]:
    """Colours down an image, height 3; stops are (place from 0 to 1, colour), places rising."""
    places = (np.arange(height) + 0.5) / height
    where = [place for place, _ in stops]
    bands = [np.interp(places, where, [colour[band] for _, colour in stops]) for band in range(3)]
    return np.stack(bands, axis=1).astype(np.float32)
