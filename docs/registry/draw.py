#!/usr/bin/env python3
"""Draws the images that ComfyUI's registry shows: `icon.png` and `banner.png` in this folder.

python docs/registry/draw.py
"""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).resolve().parent
FINER = 3  # drawn this many times larger and scaled down, for smooth edges
ICON = (400, 400)
BANNER = (1260, 540)  # 21:9

NIGHT, DEEP, WHITE = (16, 20, 48), (38, 30, 92), (245, 245, 250)
WARM, COLD = (255, 138, 76), (116, 92, 255)
FRAMES = 9

Colour = tuple[int, int, int]
Point = tuple[float, float]


def between(first: Colour, second: Colour, share: float) -> Colour:
    """The colour between the first (`share` 0) and the second (`share` 1)."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def background(size: tuple[int, int]) -> Image.Image:
    """A vertical gradient, at the finer scale."""
    width, height = (edge * FINER for edge in size)
    column = Image.new("RGB", (1, height))
    for row in range(height):
        column.putpixel((0, row), between(NIGHT, DEEP, row / height))
    return column.resize((width, height))


def square(draw: ImageDraw.ImageDraw, centre: Point, edge: float, colour: Colour) -> None:
    """A square with rounded corners."""
    (x, y), half = centre, edge / 2
    draw.rounded_rectangle((x - half, y - half, x + half, y + half), radius=edge * 0.22, fill=colour)


def play(draw: ImageDraw.ImageDraw, centre: Point, radius: float, colour: Colour) -> None:
    """A triangle that points to the right."""
    x, y = centre
    corners = [(math.cos(angle), math.sin(angle)) for angle in (0, 2 * math.pi / 3, 4 * math.pi / 3)]
    draw.polygon([(x + radius * cosine, y + radius * sine) for cosine, sine in corners], fill=colour)


def moving_square(draw: ImageDraw.ImageDraw, left: Point, edge: float, step: float, ground: Colour) -> None:
    """A square and its earlier positions, which fade into the background; a play symbol on its last position."""
    x, y = left
    for place, share in enumerate((0.3, 0.55, 0.8, 1.0)):
        colour = between(ground, between(COLD, WARM, place / 3), share)
        square(draw, (x + place * step, y), edge * (0.7 + 0.1 * place), colour)
    play(draw, (x + 3 * step - edge * 0.03, y), edge * 0.24, WHITE)


def film(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float]) -> None:
    """A row of frames in which a disc flies along an arc and changes its colour."""
    left, top, right, bottom = box
    gap = (right - left) * 0.012
    width = (right - left - gap * (FRAMES - 1)) / FRAMES
    radius = width * 0.15
    for frame in range(FRAMES):
        share = frame / (FRAMES - 1)
        x = left + frame * (width + gap)
        draw.rounded_rectangle((x, top, x + width, bottom), radius=width * 0.08, fill=between(NIGHT, COLD, 0.22))
        across = x + width * (0.22 + 0.56 * share)
        height = bottom - (bottom - top) * (0.24 + 0.5 * math.sin(math.pi * share))
        ellipse = (across - radius, height - radius, across + radius, height + radius)
        draw.ellipse(ellipse, fill=between(COLD, WARM, share))


def icon() -> Image.Image:
    """The logo alone."""
    picture = background(ICON)
    width, height = picture.size
    moving_square(ImageDraw.Draw(picture), (width * 0.25, height / 2), height * 0.46, width * 0.15, NIGHT)
    return picture.resize(ICON, Image.Resampling.LANCZOS)


def banner() -> Image.Image:
    """The logo, the name, and a row of frames."""
    picture = background(BANNER)
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    moving_square(draw, (width * 0.11, height * 0.33), height * 0.28, width * 0.04, NIGHT)
    name, line = (ImageFont.load_default(size * FINER) for size in (104, 33))
    draw.text((width * 0.33, height * 0.12), "VideoCrafter", font=name, fill=WHITE)
    draw.text(
        (width * 0.335, height * 0.40),
        "text, images and key frames to video, in ComfyUI",
        font=line,
        fill=between(DEEP, WHITE, 0.75),
    )
    film(draw, (width * 0.06, height * 0.62, width * 0.94, height * 0.88))
    return picture.resize(BANNER, Image.Resampling.LANCZOS)


if __name__ == "__main__":
    icon().save(FOLDER / "icon.png", optimize=True)
    banner().save(FOLDER / "banner.png", optimize=True)
