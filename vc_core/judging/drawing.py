"""The contact sheet and the plot of a report, in one image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..frames.pixels import to_pillow
from .report import Measured, Report, written

COLUMNS = 2
"""Plots beside each other."""
WIDTH, HEIGHT = 480, 84
"""Pixels of a plot."""
MARGIN, LINE, LABEL = 12, 14, 44
"""Pixels around everything, of a line of text, and of the numbers at the left of a plot."""
SHEET_COLUMNS = 8
PAPER, INK, GRID, CURVE = (255, 255, 255), (40, 40, 40), (210, 210, 210), (31, 119, 180)
PAGE = COLUMNS * WIDTH + (COLUMNS + 1) * MARGIN
FLAT = 1e-3
"""The least range of a plot, so that rounding errors do not fill it."""


def overview(report: Report, title: str) -> Tensor:
    """The frames, numbered, and below them a plot of each figure over time: h w 3 in 0..1."""
    plotted = list(_curves(report))
    sheet = _sheet(report)
    rows = -(-len(plotted) // COLUMNS)
    height = 2 * MARGIN + LINE + sheet.height + rows * (HEIGHT + LINE + MARGIN)
    page = Image.new("RGB", (PAGE, height), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN), _known(title), fill=INK)
    page.paste(sheet, (MARGIN, MARGIN + LINE))
    top = 2 * MARGIN + LINE + sheet.height
    for place, each in enumerate(plotted):
        row, column = divmod(place, COLUMNS)
        left = MARGIN + column * (WIDTH + MARGIN)
        _plot(draw, each, left, top + row * (HEIGHT + LINE + MARGIN))
    return torch.from_numpy(np.array(page)).float().div(255)


def _curves(report: Report) -> Iterator[Measured]:
    """The figures that change over time, each curve once: some figures are computed from the same values."""
    known = set()
    for each in report.measured:
        if sum(value is not None for value in each.series) > 1 and each.series not in known:
            known.add(each.series)
            yield each


def _known(text: str) -> str:
    """The text without characters that the font lacks."""
    return text.encode("latin-1", "replace").decode("latin-1")


def _sheet(report: Report) -> Image.Image:
    """The frames with their numbers."""
    width = (PAGE - 2 * MARGIN) // SHEET_COLUMNS
    size = (width - 2, max(1, round((width - 2) * report.height / report.width)))
    rows = -(-len(report.shown) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (PAGE - 2 * MARGIN, rows * (size[1] + LINE + 2)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, shown in enumerate(report.shown):
        row, column = divmod(place, SHEET_COLUMNS)
        left, top = column * width, row * (size[1] + LINE + 2)
        draw.text((left, top), f"{shown.index}", fill=INK)
        sheet.paste(to_pillow(shown.image).resize(size, Image.Resampling.BICUBIC), (left, top + LINE))
    return sheet


def _plot(draw: ImageDraw.ImageDraw, each: Measured, left: int, top: int) -> None:
    """A figure over time, with the range that it has."""
    metric = each.metric
    unit = f" {metric.unit}" if metric.unit else ""
    hint = "" if metric.better == "neither" else f", better: {metric.better}"
    draw.text((left, top), f"{metric.name} = {written(each.value)}{unit} ({metric.range()}{hint})", fill=INK)
    top += LINE
    low, high = _limits([value for value in each.series if value is not None])
    right, bottom = left + WIDTH, top + HEIGHT
    draw.rectangle((left + LABEL, top, right, bottom), outline=GRID)
    draw.text((left, top), f"{high:.3f}", fill=INK)
    draw.text((left, bottom - LINE), f"{low:.3f}", fill=INK)
    across = (WIDTH - LABEL) / max(len(each.series) - 1, 1)
    points = [
        (left + LABEL + across * index, bottom - HEIGHT * (value - low) / (high - low))
        for index, value in enumerate(each.series)
        if value is not None
    ]
    draw.line(points, fill=CURVE, width=2)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """A range that holds the values, with some room."""
    low, high = min(values), max(values)
    room = max(FLAT - (high - low), (high - low) / 10) / 2
    return low - room, high + room
