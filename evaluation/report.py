"""Writes findings as a table with the project's targets, as JSON, and as contact sheets."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .experiments import FPS_CONDITIONS, SAMPLERS, Findings
from .generate import Array

Row = tuple[str, str, str, bool | None]
"""Quantity, target, figure, and whether the target is reached (None without a target)."""

FRAMES_SHOWN = 8
TEXT_HEIGHT = 14
PARTLY = 5.0
BAND = 3.0
PROPORTION = 1.5
"""Maximum factor between measured and expected speed."""


def rows(numbers: dict[str, Any]) -> list[Row]:
    """The rows of the table for everything that was measured."""
    table: list[Row] = []
    for title, make in (("trained combinations", _accuracy), ("image-to-video", _image), ("fps condition", _fps)):
        if title in numbers:
            table += make(numbers)
    if "negative prompt" in numbers:
        avoided = numbers["negative prompt"]["avoided"]
        table.append(("negative prompt naming the colour: avoided", ">= 80 %", f"{avoided} %", avoided >= 80))
    for kind, least in (("fp16", 35), ("bf16", 30)):
        if f"{kind} against fp32" in numbers:
            ratio = numbers[f"{kind} against fp32"]["psnr"]
            table.append((f"{kind} against fp32, same seed", f">= {least} dB", f"{ratio} dB", ratio >= least))
    return table


def _accuracy(numbers: dict[str, Any]) -> list[Row]:
    held_out, known, without = numbers["held-out combinations"], numbers["trained combinations"], numbers["cfg 1"]
    exact = held_out["ddim 50"]
    table: list[Row] = []
    for what, least in (("colour", 95), ("shape", 90), ("direction", 90)):
        value = known[what]
        table.append((f"{what} right, trained combinations", f">= {least} %", f"{value} %", value >= least))
        near = exact[what] >= value - PARTLY
        table.append((f"{what} right, held-out combinations", "within 5 points", f"{exact[what]} %", near))
        rises = exact[what] > without[what]
        figures = f"{without[what]} -> {exact[what]} %"
        table.append((f"{what}: cfg 1 -> default", "rises", figures, rises or without[what] == 100.0))
        values = [held_out[name][what] for name in SAMPLERS]
        spread = " / ".join(f"{value}" for value in values) + " %"
        table.append((f"{what}: {' / '.join(SAMPLERS)}", "within 3 points", spread, max(values) - min(values) <= BAND))
    return table


def _fps(numbers: dict[str, Any]) -> list[Row]:
    measured = numbers["fps condition"]
    speeds = [measured[str(fps)]["pixels per frame"] for fps in FPS_CONDITIONS]
    meant = [measured[str(fps)]["meant"] for fps in FPS_CONDITIONS]
    figure = " / ".join(f"{speed:.2f} ({goal:.2f})" for speed, goal in zip(speeds, meant, strict=True))
    falls = all(faster > slower for faster, slower in itertools.pairwise(speeds))
    near = all(1 / PROPORTION <= speed / goal <= PROPORTION for speed, goal in zip(speeds, meant, strict=True))
    title = f"fps {' / '.join(map(str, FPS_CONDITIONS))}: pixels per frame (meant)"
    return [(title, "strictly falling, in proportion", figure, falls and near)]


def _image(numbers: dict[str, Any]) -> list[Row]:
    found = numbers["image-to-video"]
    gain = found["first frame psnr"] - found["first frame psnr of text-to-video"]
    psnrs = f"{found['first frame psnr']} - {found['first frame psnr of text-to-video']} = {gain:.1f} dB"
    colour, shape = found["colour kept"], found["shape kept"]
    return [
        ("image-to-video: colour kept over all frames", ">= 95 %", f"{colour} %", colour >= 95),
        ("image-to-video: shape kept over all frames", ">= 95 %", f"{shape} %", shape >= 95),
        ("image-to-video: direction followed", ">= 85 %", f"{found['direction']} %", found["direction"] >= 85),
        ("first frame against the picture, over text-to-video", ">= 6 dB", psnrs, gain >= 6),
        ("first frame against the picture, SSIM", "", f"{found['first frame ssim']}", None),
    ]


def markdown(table: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| what | target | figure | reached |", "|---|---|---|---|"]
    words = {True: "yes", False: "no", None: ""}
    return "\n".join([*lines, *(f"| {what} | {goal} | {figure} | {words[ok]} |" for what, goal, figure, ok in table)])


def contact_sheet(shown: Sequence[tuple[str, Array]]) -> Image.Image:
    """A contact sheet with a row of frames under a caption for each clip."""
    height, width = shown[0][1].shape[1:3]
    sheet = Image.new("RGB", (FRAMES_SHOWN * width, len(shown) * (height + TEXT_HEIGHT)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (text, clip) in enumerate(shown):
        top = row * (height + TEXT_HEIGHT)
        draw.text((2, top + 1), text, fill="black")
        for column, number in enumerate(np.linspace(0, len(clip) - 1, FRAMES_SHOWN).round().astype(int)):
            pixels = (np.clip(clip[number], 0, 1) * 255).astype(np.uint8)
            sheet.paste(Image.fromarray(pixels), (column * width, top + TEXT_HEIGHT))
    return sheet


def write(findings: Findings, folder: Path, name: str) -> str:
    """Writes `name`.json and `name`.md, and a contact sheet for each experiment with clips. Returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    table = markdown(rows(findings.numbers))
    (folder / f"{name}.json").write_text(json.dumps(findings.numbers, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(table + "\n", encoding="utf-8")
    for question, shown in findings.shown.items():
        contact_sheet(shown).save(folder / f"{name}_{question}.png", optimize=True)
    return table
