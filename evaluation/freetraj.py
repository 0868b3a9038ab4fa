"""Evaluates FreeTraj on the small text model: `python -m evaluation.freetraj`.

Prompts that name a color, a shape and a background, each with every path: straight, bent and zigzag. A clip is compared
with its path frame by frame: whether the center of the object is inside the box, and how much of both the object's
bounding box and the box they share. The same clips without control are compared with the same paths.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vc_core.control import FreeTraj
from vc_core.control.boxes import Canvas, paths_of
from vc_core.control.freetraj_path import Path as Moving
from vc_core.denoising import Sampling
from vc_core.pipeline import Request, VideoCrafter
from worlds.shapes.world import BACKGROUNDS, COLOURS, FRAMES, SHAPES, SIZE

from .detector import object_pixels, observe
from .generate import Array

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
BOX = 0.36
"""Height and width of the boxes as a fraction of the image; the world's shapes are 0.25 to 0.34 of it."""
PATHS: dict[str, tuple[tuple[float, float], ...]] = {
    "right": ((0.3, 0.5), (0.7, 0.5)),
    "up": ((0.5, 0.72), (0.5, 0.28)),
    "diagonal": ((0.3, 0.3), (0.7, 0.7)),
    "corner": ((0.32, 0.32), (0.32, 0.66), (0.66, 0.66)),
    "bent": ((0.28, 0.36), (0.5, 0.64), (0.72, 0.36)),
    "zigzag": ((0.25, 0.4), (0.42, 0.6), (0.58, 0.4), (0.75, 0.6)),
}
"""The centers (x, y) of the boxes at keyframes that are spread evenly over the clip."""
FPS = 6
"""Low, because the fastest boxes move by 2.8 pixels a frame, and the world's shapes do so at low frame rates alone."""


@dataclass(frozen=True)
class Prompt:
    """An object on a background, and the seed of its clips."""

    colour: str
    shape: str
    background: str
    seed: int

    @property
    def words(self) -> str:
        """The words that name the object."""
        return f"{self.colour} {self.shape}"

    @property
    def text(self) -> str:
        """The prompt."""
        return f"a {self.words} on a {self.background} background"


@dataclass(frozen=True)
class Followed:
    """How a clip follows a path: shares of frames with the center inside the box, the mean intersection over union of
    the boxes, and whether color and shape are those of the prompt."""

    inside: float
    iou: float
    colour: bool
    shape: bool


def prompts(count: int) -> list[Prompt]:
    """Prompts in which all combinations of colors and shapes occur before one is repeated."""
    colours, shapes, backgrounds = list(COLOURS), list(SHAPES), list(BACKGROUNDS)
    return [
        Prompt(
            colours[number % len(colours)],
            shapes[number % len(shapes)],
            backgrounds[number % len(backgrounds)],
            seed=1000 + number,
        )
        for number in range(count)
    ]


def keyframes(points: Sequence[tuple[float, float]]) -> str:
    """The boxes around points, as FreeTraj takes them."""
    half, last = BOX / 2, FRAMES - 1
    lines = []
    for number, (x, y) in enumerate(points):
        frame = round(number * last / (len(points) - 1))
        lines.append(f"{frame}, {y - half:.3f}, {y + half:.3f}, {x - half:.3f}, {x + half:.3f}")
    return "\n".join(lines)


def path_of(name: str) -> Moving:
    """The path of this name."""
    canvas = Canvas(frames=FRAMES, width=SIZE, height=SIZE, box=(BOX, BOX))
    return paths_of(keyframes(PATHS[name]), canvas)[0]


def judged(clip: Array, path: Moving, prompt: Prompt) -> Followed:
    """How a clip f h w 3 follows a path. A frame without an object counts as one outside of the box."""
    saw = observe(clip)
    inside, overlaps = [], []
    for frame, seen, corner in zip(clip, saw.sightings, path.corners, strict=True):
        box = _pixels(corner, path)
        pixels = object_pixels(frame)
        found = None if seen is None or pixels is None else _bounds(pixels)
        overlaps.append(0.0 if found is None else overlap(found, box))
        inside.append(seen is not None and box[0] <= seen.y <= box[1] and box[2] <= seen.x <= box[3])
    same = saw.colour == prompt.colour, saw.shape == prompt.shape
    return Followed(float(np.mean(inside)), float(np.mean(overlaps)), *same)


def _pixels(corner: tuple[float, float], path: Moving) -> tuple[float, ...]:
    """top, bottom, left, right in pixels"""
    top, left = corner
    return tuple(SIZE * side for side in (top, top + path.height, left, left + path.width))


def _bounds(pixels: Any) -> tuple[float, ...]:
    rows, columns = np.nonzero(pixels)
    return float(rows.min()), float(rows.max() + 1), float(columns.min()), float(columns.max() + 1)


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes: top, bottom, left, right."""
    height = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    width = max(0.0, min(one[3], other[3]) - max(one[2], other[2]))
    areas = sum((box[1] - box[0]) * (box[3] - box[2]) for box in (one, other))
    return height * width / (areas - height * width)


def table(rows: Sequence[Followed]) -> dict[str, float]:
    """The figures of several clips: percentages, and the mean overlap."""
    return {
        "clips": len(rows),
        "inside": round(100 * float(np.mean([row.inside for row in rows])), 1),
        "iou": round(float(np.mean([row.iou for row in rows])), 3),
        "colour": round(100 * float(np.mean([row.colour for row in rows])), 1),
        "shape": round(100 * float(np.mean([row.shape for row in rows])), 1),
    }


Rows = dict[str, dict[str, list[Followed]]]
"""By the kind of control, then by path."""


def rows_of(crafter: VideoCrafter, given: Sequence[Prompt], options: argparse.Namespace) -> Rows:
    """The clips of these prompts: without control, with it, and of the first prompts as published."""
    sampling = Sampling(steps=options.steps, eta=0.0)
    rows: Rows = {}

    def clip(prompt: Prompt, *controls: FreeTraj) -> Array:
        request = Request(seed=prompt.seed, fps=FPS, sampling=sampling, controls=controls)
        return np.asarray(crafter.generate(prompt.text, request=request).numpy(), dtype=np.float32)

    for prompt in given:
        plain = clip(prompt)
        for name, points in PATHS.items():
            path, control = path_of(name), FreeTraj(words=prompt.words, boxes=keyframes(points))
            clips = {"none": plain, "FreeTraj": clip(prompt, control)}
            if prompt in prompts(options.published):
                clips["as published"] = clip(prompt, replace(control, trace=0.0))
            for kind, made in clips.items():
                found = judged(made, path, prompt)
                rows.setdefault(kind, {}).setdefault(name, []).append(found)
                logger.info("%s, %s, %s: %s", prompt.text, name, kind, found)
    return rows


def tables(rows: Rows) -> dict[str, Any]:
    """The figures of each kind of control: of all clips, and of each path."""
    return {
        kind: {
            "all": table([row for each in found.values() for row in each]),
            **{name: table(each) for name, each in found.items()},
        }
        for kind, found in rows.items()
    }


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(prog="python -m evaluation.freetraj", description=__doc__)
    options.add_argument("--model", type=Path, default=ROOT / "models" / "videocrafter_small_t2v.safetensors")
    options.add_argument("--count", type=int, default=48, help="prompts")
    options.add_argument("--published", type=int, default=8, help="prompts that are also made without a trace")
    options.add_argument("--steps", type=int, default=10)
    options.add_argument("--result", type=Path, default=ROOT / "benchmarks" / "results" / "freetraj.json")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    found = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}",
        "model": options.model.name,
        "model sha256": hashlib.sha256(options.model.read_bytes()).hexdigest()[:16],
        "settings": {"steps": options.steps, "eta": 0.0, "sampler": "ddim", "fps": FPS, "box": BOX},
        **tables(rows_of(VideoCrafter.load(options.model), prompts(options.count), options)),
    }
    options.result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{options.result}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
