"""The losses of a run's stages as an image."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

WIDTH, HEIGHT, MARGIN = 640, 220, 36


def losses(path: Path) -> list[tuple[float, float]]:
    """Seconds and loss of each line of a log that has one."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(line["seconds"], line["loss"]) for line in lines if line.get("loss", 0) > 0]


def plot(logs: Sequence[Path]) -> Image.Image:
    """A panel for each log: the logarithm of its loss over its seconds."""
    sheet = Image.new("RGB", (WIDTH, HEIGHT * max(1, len(logs))), "white")
    pen = ImageDraw.Draw(sheet)
    for index, path in enumerate(logs):
        points = losses(path)
        top = index * HEIGHT
        pen.text((MARGIN, top + 6), path.stem, fill="black")
        if len(points) > 1:
            _panel(pen, points, top)
    return sheet


def _panel(pen: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], top: int) -> None:
    logs = [math.log10(loss) for _, loss in points]
    low, high = min(logs), max(*logs, min(logs) + 1e-6)
    first, last = points[0][0], max(points[-1][0], points[0][0] + 1e-6)
    line = [
        (
            MARGIN + (seconds - first) / (last - first) * (WIDTH - 2 * MARGIN),
            top + HEIGHT - MARGIN - (log - low) / (high - low) * (HEIGHT - 2 * MARGIN),
        )
        for (seconds, _), log in zip(points, logs, strict=True)
    ]
    pen.rectangle((MARGIN, top + MARGIN, WIDTH - MARGIN, top + HEIGHT - MARGIN), outline="silver")
    pen.line(line, fill="royalblue", width=2)
    pen.text((4, top + MARGIN), f"{10**high:.3g}", fill="grey")
    pen.text((4, top + HEIGHT - MARGIN - 10), f"{10**low:.3g}", fill="grey")
    pen.text((WIDTH - 2 * MARGIN, top + HEIGHT - MARGIN + 4), f"{last:.0f} s", fill="grey")
