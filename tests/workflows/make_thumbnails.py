"""Makes the thumbnails beside the workflows: four frames of a run where the small models do it, otherwise a card with
the name; and below, what has to be downloaded.

    PYTHONPATH=.:tests .venv/bin/python tests/workflows/make_thumbnails.py [NAME ...]

`python run.py test` makes that `.venv`; `COMFYUI_PATH` may name a ComfyUI.
"""

from __future__ import annotations

import re
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import stand_ins
from PIL import Image, ImageDraw, ImageFont
from workflows.demos import record

from comfyui.base import make_base
from comfyui.server import Server
from comfyui.workflow import to_prompt

SIDE, BAND, GAP = 384, 44, 4
QUALITY = 85
FREE, LOAD, CARD, INK = (28, 96, 52), (122, 66, 16), (38, 44, 54), (240, 240, 240)
TITLE, SMALL_PRINT = 34, 22
MEGABYTES = {"MB": 1, "GB": 1000}


def download(workflow: dict[str, Any]) -> str:
    """What the files of the note's list weigh together; "" for none."""
    (note,) = stand_ins.nodes_of(workflow, "MarkdownNote")
    sizes = re.findall(r"\), ([0-9.]+) ([MG]B)", note["widgets_values"][0])
    weight = sum(float(number) * MEGABYTES[unit] for number, unit in sizes)
    return f"{weight / 1000:.1f} GB" if weight else ""


def thumbnail(name: str, frames: Sequence[np.ndarray], weight: str) -> Image.Image:
    """Four of the frames or the name's parts, over a band that says what has to be downloaded."""
    picture = Image.new("RGB", (SIDE, SIDE), CARD)
    draw = ImageDraw.Draw(picture)
    if len(frames):
        show(picture, frames)
    else:
        what, model = name[3:].split(", ")
        lines = "\n".join(textwrap.wrap(what, 18))
        draw.multiline_text((24, 40), lines, fill=INK, font=ImageFont.load_default(TITLE), spacing=10)
        draw.text((24, SIDE - BAND - 60), model, fill=INK, font=ImageFont.load_default(SMALL_PRINT))
    draw.rectangle((0, SIDE - BAND, SIDE, SIDE), fill=LOAD if weight else FREE)
    words = f"needs a download of {weight}" if weight else "no download"
    draw.text((SIDE / 2, SIDE - BAND / 2), words, fill=INK, font=ImageFont.load_default(SMALL_PRINT), anchor="mm")
    return picture


def show(picture: Image.Image, frames: Sequence[np.ndarray]) -> None:
    """Four frames, from the first to the last, as large as fits above the band."""
    height = (SIDE - BAND - 2 * GAP) // 2
    left = (SIDE - 2 * height - GAP) // 2
    for index in range(4):
        frame = Image.fromarray(frames[round(index * (len(frames) - 1) / 3)])
        at = left + index % 2 * (height + GAP), index // 2 * (height + GAP)
        picture.paste(frame.resize((height, height), Image.Resampling.LANCZOS), at)


def made(server: Server, workflow: dict[str, Any]) -> np.ndarray:
    """The frames of a run of its own."""
    run = server.run(to_prompt(workflow, server.object_info()), workflow=workflow)
    if run.status != "success":
        raise RuntimeError(f"A run failed: {run.error}")
    (shown,) = [file for file in run.files if file["filename"].endswith(".mp4")]
    return stand_ins.decode(server.view(shown)).frames


def main(names: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        base = make_base(Path(folder))
        stand_ins.put(base)
        with Server(base) as server:
            for name in names or [file.stem for file in stand_ins.FILES]:
                workflow = stand_ins.load(name)
                weight = download(workflow)
                frames = () if weight else made(server, workflow)
                if not weight:
                    record(name, workflow, frames)
                picture = thumbnail(name, frames, weight)
                picture.save(stand_ins.FOLDER / f"{name}.jpg", quality=QUALITY)
                sys.stderr.write(f"{name}: done\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
