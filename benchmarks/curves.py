"""Plots of figures over the runs of a benchmark, in one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

WIDTH, HEIGHT, COLUMNS = 460, 110, 2
"""Pixels of a plot, and plots beside each other."""
MARGIN, LINE, LABEL = 12, 14, 64
"""Pixels around a plot, of a line of text, and of the numbers at its left."""
PAPER, INK, GRID, CURVE = "white", (40, 40, 40), (210, 210, 210), (31, 119, 180)


@dataclass(frozen=True)
class Curve:
    """A figure over x, such as the number of a run. Its plot starts at 0, so that growth shows as what it is."""

    title: str
    x: Sequence[float]
    y: Sequence[float]


def plotted(title: str, curves: Sequence[Curve]) -> Image.Image:
    """A plot for each curve, below a title."""
    rows = -(-len(curves) // COLUMNS)
    size = (COLUMNS * WIDTH + (COLUMNS + 1) * MARGIN, 2 * MARGIN + LINE + rows * (HEIGHT + 2 * LINE + MARGIN))
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN), title, fill=INK)
    for place, curve in enumerate(curves):
        row, column = divmod(place, COLUMNS)
        top = 2 * MARGIN + LINE + row * (HEIGHT + 2 * LINE + MARGIN)
        _plot(draw, curve, MARGIN + column * (WIDTH + MARGIN), top)
    return page


def _plot(draw: ImageDraw.ImageDraw, curve: Curve, left: int, top: int) -> None:
    draw.text((left, top), curve.title, fill=INK)
    top += LINE
    right, bottom = left + WIDTH, top + HEIGHT
    high = 1.1 * max(*curve.y, 1e-9)
    first, last = min(curve.x), max(curve.x)
    draw.rectangle((left + LABEL, top, right, bottom), outline=GRID)
    draw.text((left, top), f"{high:.5g}", fill=INK)
    draw.text((left, bottom - LINE), "0", fill=INK)
    draw.text((left + LABEL, bottom), f"{first:g}", fill=INK)
    draw.text((right - LABEL // 2, bottom), f"{last:g}", fill=INK)
    across = (WIDTH - LABEL) / max(last - first, 1)
    points = [
        (left + LABEL + across * (x - first), bottom - HEIGHT * y / high) for x, y in zip(curve.x, curve.y, strict=True)
    ]
    draw.line(points, fill=CURVE, width=2)
