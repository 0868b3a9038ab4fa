"""Measures dragging (Time-to-Move), motion strength, ByTheWay, FreqPrior and FreeU on the small models: `python -m
evaluation.motion`.

It prints the figures as JSON, and with `--sheet` saves the dragged clips below their rough videos.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vc_core import bundled
from vc_core.control import ByTheWay, Control, FreeU, FreqPrior, MotionStrength
from vc_core.denoising import Sampling, Source
from vc_core.frames.dragging import KEPT_UNTIL, Drag, Reference
from vc_core.frames.pixels import save_image
from vc_core.job import STRENGTH
from vc_core.pipeline import Request, VideoCrafter
from worlds.shapes.world import BACKGROUNDS, COLOURS, SIZE, Scene, render

from .detector import observe
from .generate import Array, draw_cases
from .measures import measure

NEAR = 0.08
"""The distance from its track, in parts of the image, within which an object is on it."""
PATHS: dict[str, tuple[tuple[float, float], ...]] = {
    "moves to the right": ((0, 0), (24, 0)),
    "moves down and to the right": ((0, 0), (0, 12), (20, 12)),
    "moves up": ((0, 0), (6, -10), (0, -20)),
    "moves to the left": ((0, 0), (-10, 6), (-22, -4)),
}
"""How objects are dragged, in pixels from where they are, by what the prompt says of it: straight, and bent."""
SHAPES = ("circle", "square", "triangle", "cross")
STRENGTHS: dict[str, Control] = {
    "strength 1": MotionStrength(),
    "strength 0": MotionStrength(strength=0.0),
    "strength 0.5": MotionStrength(strength=0.5),
    "strength 0.8": MotionStrength(strength=0.8),
    "strength 1.2": MotionStrength(strength=1.2),
    "strength 1.5": MotionStrength(strength=1.5),
    "temperature 1": MotionStrength(temperature=1.0),
    "temperature 4": MotionStrength(temperature=4.0),
}
STEADY: dict[str, Control] = {
    "plain": FreqPrior(rounds=1),
    "ByTheWay": ByTheWay(),
    "ByTheWay, beta 1.5": ByTheWay(beta=1.5),
    "FreqPrior": FreqPrior(),
    "FreeU": FreeU(),
}
"""Published settings, and weaker ones of ByTheWay."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DragCase:
    """An image with an object, and how it is dragged. mask: h w, 1 inside the object. drag: of that object."""

    scene: Scene
    image: Tensor
    mask: Tensor
    drag: Drag
    prompt: str
    seed: int


def drag_cases(count: int) -> Iterator[DragCase]:
    """Objects of all shapes and colors, each from a place from which its path stays inside the image."""
    rng = np.random.default_rng(7)
    for number in range(count):
        prompt, path = list(PATHS.items())[number % len(PATHS)]
        points, reach = np.array(path), 11.5
        low, high = reach - points.min(0), SIZE - reach - points.max(0)
        x, y = rng.uniform(low, high)
        colour, background = list(COLOURS)[number % len(COLOURS)], list(BACKGROUNDS)[number // 4 % len(BACKGROUNDS)]
        shape = SHAPES[(number + number // 4) % len(SHAPES)]
        scene = Scene(
            shape=shape, colour=colour, motion="still", background=(background,), x=float(x), y=float(y), radius=9.5
        )
        image = render([scene], frames=[0])[0, 0]
        inside, outside = torch.tensor(COLOURS[colour]), torch.tensor(BACKGROUNDS[background])
        mask = ((image - outside) @ (inside - outside) / (inside - outside).square().sum()).clamp(0, 1)
        yield DragCase(
            scene=scene,
            image=image,
            mask=mask,
            drag=Drag(masks=mask[None], tracks=[[(float(x + dx), float(y + dy)) for dx, dy in path]]),
            prompt=f"a {colour} {shape} {prompt} on a {background} background",
            seed=100 + number,
        )


def dragged(crafter: VideoCrafter, case: DragCase, until: float | None, steps: int) -> tuple[Reference, Array]:
    """The rough video, and the clip f h w 3 made of it; without `until` nothing is kept on its track."""
    spec = crafter.parts.spec
    rough = case.drag.reference(case.image[None], spec.defaults.frames)
    mask = None if until is None else rough.latent_mask(spec.size_multiple)[None, None]
    source = Source(crafter.encode(rough.frames), STRENGTH, mask, until or 0.0)
    sampling = Sampling(steps=steps, spacing=spec.defaults.spacing, eta=0.0)
    image = case.image if spec.needs_image else None
    made = crafter.generate(case.prompt, image, request=Request(seed=case.seed, sampling=sampling), source=source)
    return rough, made.numpy()


def drag_figures(cases: Sequence[DragCase], made: Sequence[tuple[Reference, Array]]) -> dict[str, Any]:
    """on_track: the share of clips whose object is within `NEAR` of its track in every frame. error: its mean distance
    from it in parts of the image, and `largest` that of the worst frame of each clip on average. object: frames with
    the object's color and shape. rest: the mean change, 0..1, of what the object never covers."""
    distances, kept, rest = [], [], []
    for case, (rough, clip) in zip(cases, made, strict=True):
        seen, wanted = observe(clip), observe(rough.frames.numpy())
        pairs = zip(seen.sightings, wanted.sightings, strict=True)
        distances.append([np.hypot(a.x - b.x, a.y - b.y) / SIZE if a and b else 1.0 for a, b in pairs])
        kept.append(seen.share(colour=case.scene.colour, shape=case.scene.shape))
        never = ((rough.mask.amax(0) < 0.02) & (case.mask < 0.02)).numpy()
        rest.append(np.abs(clip - case.image.numpy()).mean(-1)[:, never].mean())
    largest = np.max(distances, axis=1)
    return {
        "clips": len(cases),
        "on_track": round(100 * float((largest <= NEAR).mean()), 1),
        "error": round(float(np.mean(distances)), 4),
        "largest": round(float(largest.mean()), 4),
        "object": round(100 * float(np.mean(kept)), 1),
        "rest": round(float(np.mean(rest)), 4),
    }


def control_figures(crafter: VideoCrafter, control: Control, count: int, steps: int) -> dict[str, Any]:
    """What a control does to clips of held-out prompts, the same for all controls."""
    clips, right = [], []
    for case in draw_cases(count, unseen=True):
        request = Request(seed=case.seed, fps=case.scene.fps, sampling=Sampling(steps=steps, eta=0.0))
        clip = crafter.generate(case.prompt, request=request, controls=(control,)).numpy()
        clips.append(measure(clip))
        right.append(observe(clip).share(colour=case.scene.colour, shape=case.scene.shape))
    return {
        "clips": count,
        "motion": round(float(np.mean([one.dynamic_degree for one in clips])), 3),
        "flicker": round(float(np.mean([one.flicker for one in clips])), 4),
        "warping_error": round(float(np.mean([one.warping_error for one in clips])), 5),
        "object": round(100 * float(np.mean(right)), 1),
    }


def measure_drags(count: int, steps: int) -> tuple[dict[str, Any], list[Tensor]]:
    """The figures of both kinds of models, with and without keeping the object, and rows of images for a sheet."""
    found, rows = {}, []
    for path in (bundled.CONTINUING, bundled.TEXT):
        crafter, cases = VideoCrafter.load(path), list(drag_cases(count))
        for name, until in ((f"kept until {KEPT_UNTIL}", KEPT_UNTIL), ("not kept", None)):
            made = [dragged(crafter, case, until, steps) for case in cases]
            found[f"{crafter.parts.spec.name}, {name}"] = drag_figures(cases, made)
            if until is not None:
                rows += [row(frames) for rough, clip in made for frames in (rough.frames, torch.from_numpy(clip))]
    return found, rows


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(prog="python -m evaluation.motion", description=__doc__)
    options.add_argument("--only", choices=("drag", "strength", "steady"), default=None, help="one of the three")
    options.add_argument("--count", type=int, default=8, help="clips for each figure")
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--sheet", type=Path, default=None, help="where to save the dragged clips")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    given = parser().parse_args(arguments)
    found: dict[str, Any] = {}
    if given.only in (None, "drag"):
        found, rows = measure_drags(given.count, given.steps)
        if given.sheet is not None:
            save_image(given.sheet, torch.cat(rows), overwrite=True)
    if given.only != "drag":
        text = VideoCrafter.load(bundled.TEXT)
        tables = {"strength": STRENGTHS, "steady": STEADY}
        for name, control in ((key, one) for table in chosen(tables, given.only) for key, one in table.items()):
            found[name] = control_figures(text, control, given.count, given.steps)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0


def chosen(tables: Mapping[str, Mapping[str, Control]], name: str | None) -> list[Mapping[str, Control]]:
    """The table of this name, or all."""
    return [table for key, table in tables.items() if name in (None, key)]


def row(frames: Tensor) -> Tensor:
    """Every third frame beside the others: h (k w) 3."""
    return torch.cat(list(frames[::3]), dim=1)


if __name__ == "__main__":
    sys.exit(main())
