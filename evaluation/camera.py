"""Evaluates the small camera model: `python -m evaluation.camera`.

Clips of shapes that stand still, with camera moves that were held out of training. Dense optical flow from frame to
frame, where something in the clip has edges, is fitted by a similarity about the center of the frame: a shift, a
magnification and a turn. Their sums over the clip have a direction, which is compared with that of the move. The judge
is first judged itself, on drawn clips with the same moves.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import logging
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from vc_core import bundled
from vc_core.checkpoint import open_checkpoint
from vc_core.network.adapters.motionctrl import CameraPoses, MotionCtrlNetwork
from vc_core.pipeline import VideoCrafter
from worlds.shapes.camera import (
    AXES,
    PAIRS,
    at_speeds,
    camera_poses,
    homographies,
    in_sight,
    pair_held_out,
    view,
)
from worlds.shapes.captions import caption
from worlds.shapes.world import FRAMES, SIZE, Scene, random_scene

from .detector import observe
from .experiments import percent
from .generate import Adapters, Array, Case, Settings, clips
from .report import contact_sheet

ROOT = Path(__file__).resolve().parent.parent
FPS = 8
KINDS = ("speed", "pair", "three at once", "curve")
"""Of held-out moves: one move at a speed that was not trained, two at once that were not trained together, three at
once, and pans whose direction turns by a right angle."""
CURVE = 5
"""Legs of a curve."""
ANGULAR = ("square", "triangle", "cross")
"""Shapes that show a roll."""
NAMES = ("pan x", "pan y", "zoom", "roll")
LEAST = (0.1, 0.1, 0.08, 0.15)
"""The least of a component that is judged: shifts in parts of the image, logarithm of the magnification, radians."""
EDGE = 0.02
"""Least contrast, 0..1, of what flow is read from."""
UPRIGHT = 4
"""Frames from which color and shape are read, before a roll turns the shape."""
ROUNDS, TOLERANCE = 4, 0.6
"""Of the robust fit: its rounds, and the deviation in pixels at which a pixel counts half."""


@dataclass(frozen=True, kw_only=True)
class Shot(Case):
    """A clip of a scene that stands still, with camera moves of one of the `KINDS`."""

    kind: str
    moves: str


def shots(count: int, seed: int = 0) -> list[Shot]:
    """Shots of all kinds in turn, with combinations of shape and color in any order. Rolls have an angular shape."""
    rng = np.random.default_rng([seed, FRAMES])
    found: list[Shot] = []
    while len(found) < count:
        kind = KINDS[len(found) % len(KINDS)]
        moves = held_out_moves(kind, rng)
        scene = _scene(rng, angular="roll" in moves)
        placed = in_sight(scene, camera_poses(moves), rng)
        if placed is not None:
            prompt = caption(placed, rng, complete=True)
            found.append(Shot(kind=kind, scene=placed, moves=moves, prompt=prompt, seed=1000 + len(found)))
    return found


def held_out_moves(kind: str, rng: np.random.Generator) -> str:
    """Random camera moves of a kind that never occurs in training."""
    if kind == "speed":
        return at_speeds(str(rng.choice(rng.choice([*AXES]))), rng, unseen=True)
    if kind == "pair":
        return at_speeds(str(rng.choice([pair for pair in PAIRS if pair_held_out(pair)])), rng)
    if kind == "three at once":
        axes = rng.permutation(len(AXES))[:3]
        return at_speeds(" + ".join(str(rng.choice(AXES[axis])) for axis in sorted(axes)), rng)
    first, then = (str(rng.choice(AXES[axis])) for axis in rng.permutation(2))
    shares = [(np.cos(angle), np.sin(angle)) for angle in np.linspace(0, np.pi / 2, CURVE)]
    return ", ".join(f"{first} {1.3 / CURVE * one:.3f} + {then} {1.3 / CURVE * two:.3f}" for one, two in shares)


def _scene(rng: np.random.Generator, *, angular: bool) -> Scene:
    """A scene that stands still."""
    while True:
        scene = random_scene(rng, fps=FPS)
        if not angular or scene.shape in ANGULAR:
            return Scene(**{**vars(scene), "motion": "still", "speed": "normal"})


def wanted(moves: str) -> Array:
    """What everything does from the first frame to the last: shifts along x and y at the center of the frame in parts
    of the image, the logarithm of the magnification, and the turn in radians, clockwise as seen."""
    last = homographies(camera_poses(moves))[-1]
    last = last / last[2, 2]
    center = last @ np.array([SIZE / 2, SIZE / 2, 1.0])
    shift = center[:2] / center[2] / SIZE - 0.5
    a, b = last[0, 0], last[1, 0]
    return np.array([*shift, np.log(np.hypot(a, b)), np.arctan2(b, a)], dtype=np.float32)


def seen(clip: Array) -> Array:
    """The same of a clip f h w 3, from optical flow."""
    total = np.eye(3, dtype=np.float32)
    for first, second in itertools.pairwise(contrasted(clip)):
        total = _similarity(first, second) @ total
    shift = total[:2, 2]
    size, turn = np.hypot(total[0, 0], total[1, 0]), np.arctan2(total[1, 0], total[0, 0])
    return np.array([*shift, np.log(size), turn], dtype=np.float32)


def contrasted(clip: Array) -> Array:
    """The clip f h w 3 in grey, along the line on which its colors differ most: red and grey may be equally bright."""
    colours = clip.reshape(-1, 3)
    middle = colours.mean(0)
    axis = np.linalg.svd(np.cov((colours - middle).T))[0][:, 0]
    values = ((clip - middle) @ axis).astype(np.float32)
    low, high = values.min(), values.max()
    return np.repeat(((values - low) / max(high - low, 1e-6))[..., None], 3, axis=-1)


def _similarity(first: Array, second: Array) -> Array:
    """3 3, the similarity about the center, in parts of the image, that takes what is at the edges in one frame to the
    next: least squares, repeated with less weight for pixels that deviate."""
    flow = _optical_flow(first, second)
    weight = np.hypot(*np.gradient(first[..., 0]))
    use = weight > EDGE
    if use.sum() < 8:
        return np.eye(3, dtype=np.float32)
    rows, columns = np.nonzero(use)
    x, y = columns + 0.5 - SIZE / 2, rows + 0.5 - SIZE / 2
    one, zero = np.ones_like(x), np.zeros_like(x)
    left = np.concatenate([np.stack([one, zero, x, -y], 1), np.stack([zero, one, y, x], 1)])
    right = flow[use].T.reshape(-1).astype(np.float64)
    trust = np.tile(weight[use], 2)
    solution = np.zeros(4)
    share = np.ones(len(x))
    for _ in range(ROUNDS):
        scale = np.sqrt(trust * np.tile(share, 2))
        solution = np.linalg.lstsq(left * scale[:, None], right * scale, rcond=None)[0]
        error = np.hypot(*(right - left @ solution).reshape(2, -1))
        share = 1 / (1 + (error / TOLERANCE) ** 2)
    dx, dy, grow, turn = solution
    matrix = [[1 + grow, -turn, dx / SIZE], [turn, 1 + grow, dy / SIZE], [0, 0, 1]]
    return np.array(matrix, dtype=np.float32)


def _optical_flow(first: Array, second: Array) -> Array:
    """Optical flow in pixels, h w 2 (x, y), by DIS (arXiv:1603.03590): at the edges of single shapes on plain ground it
    is more accurate than that of `vc_core.judging`."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow.setFinestScale(0)
    one, other = (np.asarray(np.round(frame[..., 0] * 255).clip(0, 255), dtype=np.uint8) for frame in (first, second))
    return np.asarray(flow.calc(one, other, None), dtype=np.float32)


@dataclass(frozen=True)
class Verdict:
    """What a clip shows. right: by name, for every component that its move has, whether its sign is right. share: how
    much of it there is, by name. colour, shape: whether those of the prompt are seen."""

    kind: str
    right: dict[str, bool]
    share: dict[str, float]
    colour: bool
    shape: bool


def judged(clip: Array, shot: Shot) -> Verdict:
    """What a clip f h w 3 shows of a shot."""
    goal, found, saw = wanted(shot.moves), seen(clip), observe(clip[:UPRIGHT])
    parts = [index for index in range(len(NAMES)) if abs(goal[index]) >= LEAST[index]]
    return Verdict(
        kind=shot.kind,
        right={NAMES[index]: bool(goal[index] * found[index] > 0) for index in parts},
        share={NAMES[index]: float(found[index] / goal[index]) for index in parts},
        colour=saw.colour == shot.scene.colour,
        shape=saw.shape == shot.scene.shape,
    )


def _figures(judged_parts: Sequence[tuple[Verdict, str]]) -> dict[str, float]:
    right = [one.right[part] for one, part in judged_parts]
    share = [one.share[part] for one, part in judged_parts]
    return {"judged": len(right), "right": percent(right), "share": round(float(np.median(share)), 2)}


def table(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The figures of several clips: percentages of right signs, and the medians of what is there of each component."""
    found: dict[str, Any] = {"clips": len(verdicts)}
    for name, parts in (("pan", NAMES[:2]), ("zoom", NAMES[2:3]), ("roll", NAMES[3:]), ("all", NAMES)):
        judged_parts = [(one, part) for one in verdicts for part in parts if part in one.right]
        if judged_parts:
            found[name] = _figures(judged_parts)
    found["colour"] = percent([one.colour for one in verdicts])
    found["shape"] = percent([one.shape for one in verdicts])
    return found


def verdicts_of(made: Iterable[Array], given: Sequence[Shot]) -> list[Verdict]:
    """The verdict of each clip."""
    return [judged(clip, shot) for clip, shot in zip(made, given, strict=True)]


def tables(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """`table` of all clips, and of each kind of move."""
    kinds = {kind: table([one for one in verdicts if one.kind == kind]) for kind in KINDS}
    return {**table(verdicts), "kinds": {kind: found for kind, found in kinds.items() if found["clips"]}}


def drawn(given: Sequence[Shot]) -> Iterator[Array]:
    """The clips of the world itself."""
    for shot in given:
        yield np.asarray(view(shot.scene, camera_poses(shot.moves)).numpy(), dtype=np.float32)


def camera_of(crafter: VideoCrafter, path: Path) -> Adapters:
    """What moves the camera of shots along their moves, with the layers of a file."""
    parts = crafter.parts
    weights = open_checkpoint(path).build("motionctrl", device=parts.device, dtype=parts.dtype)
    assert isinstance(weights, MotionCtrlNetwork)

    def adapters(cases: Sequence[Shot]) -> tuple[CameraPoses]:
        poses = torch.stack([camera_poses(shot.moves) for shot in cases])
        return (CameraPoses(weights.projections, poses.to(parts.device)),)

    return adapters


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(prog="python -m evaluation.camera", description=__doc__)
    options.add_argument("--model", type=Path, default=bundled.TEXT)
    options.add_argument("--camera", type=Path, default=bundled.CAMERA, help="the file with the camera layers")
    options.add_argument("--count", type=int, default=120, help="clips")
    options.add_argument("--steps", type=int, default=10)
    options.add_argument("--without", type=int, default=40, help="clips that are also made without control")
    options.add_argument("--device", default="cpu")
    options.add_argument("--result", type=Path, default=ROOT / "benchmarks" / "results" / "camera.json")
    options.add_argument("--sheet", type=Path, default=None, help="where to save the first clips of each kind")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    given = shots(options.count)
    crafter = VideoCrafter.load(options.model, device=options.device, dtype=torch.float32)
    settings = Settings(sampler="ddim", steps=options.steps)
    controlled = list(clips(crafter, given, settings, camera_of(crafter, options.camera)))
    free = given[: options.without]
    results = {
        "drawn": verdicts_of(drawn(given), given),
        "no control": verdicts_of(clips(crafter, free, settings), free),
        "camera": verdicts_of(controlled, given),
    }
    found = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}",
        "files sha256": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in (options.model, options.camera)
        },
        "settings": {"steps": options.steps, "eta": 0.0, "sampler": "ddim", "fps": FPS},
        **{name: tables(verdicts) for name, verdicts in results.items()},
    }
    options.result.parent.mkdir(parents=True, exist_ok=True)
    options.result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.sheet is not None:
        shown = list(zip(given, controlled, strict=True))[:12]
        contact_sheet([(f"{shot.prompt} | {shot.moves}", clip) for shot, clip in shown]).save(options.sheet)
    sys.stdout.write(f"{options.result}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
