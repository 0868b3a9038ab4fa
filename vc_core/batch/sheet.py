"""A contact sheet of the results: the middle frame of each video, in the order of the lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps, ImageSequence

from ..errors import UserError
from ..files import placed
from ..frames.pixels import opened_image, to_pillow
from ..video.clips import load_images
from .manifest import DONE, Entry

CELL, MARGIN, LABEL, COLUMNS = (192, 144), 6, 14, 8
MOST = 2000
"""Videos on a sheet; JPEG allows 65,535 pixels per side."""
ANIMATED = (".gif", ".webp", ".png", ".apng")


def save_sheet(path: Path, folder: Path, entries: Sequence[Entry]) -> bool:
    """Writes the sheet of the videos that are done, in place of an earlier one; returns whether there are any."""
    done = [entry for entry in entries if entry.status == DONE][:MOST]
    if not done:
        return False
    columns = min(COLUMNS, len(done))
    width, height = CELL[0] + MARGIN, CELL[1] + LABEL + MARGIN
    sheet = Image.new("RGB", (columns * width + MARGIN, math.ceil(len(done) / columns) * height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for index, entry in enumerate(done):
        left, top = MARGIN + index % columns * width, MARGIN + index // columns * height
        still = ImageOps.contain(_middle(folder / entry.file), CELL, Image.Resampling.LANCZOS)
        sheet.paste(still, (left + (CELL[0] - still.width) // 2, top + (CELL[1] - still.height) // 2))
        draw.text((left, top + CELL[1] + 1), f"{entry.line}  seed {entry.seed}", fill="black")
    with placed(path, overwrite=True) as place:
        sheet.save(place.part, format="JPEG", quality=90)
    return True


def _middle(path: Path) -> Image.Image:
    """The middle frame of a video, an animated image or a folder of images; grey where it cannot be read."""
    try:
        if path.suffix.lower() in ANIMATED:
            with opened_image(path) as opened:
                frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(opened)]
        else:
            frames = [to_pillow(image) for image in load_images(path)]
        return frames[len(frames) // 2]
    except (UserError, IndexError):
        return Image.new("RGB", CELL, "grey")
