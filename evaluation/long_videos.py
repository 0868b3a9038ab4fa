"""Evaluates all methods for long clips on the small text model: `python -m evaluation.long_videos`.

Each method uses the same prompts and seeds: still shapes, and shapes that move so slowly that they stay inside the
image for 128 frames. A clip is split into segments of 16 frames, and each segment is compared with the prompt; plain
16-frame clips of the prompts serve as the baseline. Differences across window borders are compared with those halfway
between borders. CPU time and memory are ratios within one run, with a separate process for each length.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vc_core.denoising import Sampling
from vc_core.frames.pixels import save_image
from vc_core.frames.sheet import contact_sheet
from vc_core.judging.seams import across
from vc_core.long import Method, frames
from vc_core.long.continuing import Continue
from vc_core.long.fifo import Fifo
from vc_core.long.freelong import FreeLong
from vc_core.long.freenoise import FreeNoise
from vc_core.long.loop import Loop
from vc_core.long.off import Off
from vc_core.long.windows import OverlappingWindows
from vc_core.long.windows_fast import ShiftedWindows
from vc_core.pipeline import Request, VideoCrafter
from worlds.shapes.world import DIRECTIONS

from .detector import Observation, observe
from .experiments import percent
from .free_init import free_init
from .generate import Array, Case, draw_cases
from .measures import measure

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
SEGMENT = 16
METHODS: dict[str, Method] = {
    "freenoise": FreeNoise(),
    "freelong": FreeLong(),
    "windows": OverlappingWindows(),
    "windows every 12": OverlappingWindows(stride=12),
    "windows shifted": ShiftedWindows(),
    "windows static": OverlappingWindows(order="static"),
    "windows looped": Loop(),
    "continue": Continue(),
    "continue sharing 4": Continue(overlap=4),
    "continue sharing 3": Continue(overlap=3),
    "fifo": Fifo(),
    "plain": Off(),
}
BORDERS = {
    "windows static": 8,
    "windows": 8,
    "windows every 12": 12,
    "windows shifted": 12,
    "freenoise": 4,
    "continue": 8,
    "continue sharing 4": 12,
    "continue sharing 3": 13,
}
"""Distance in frames between the starts of windows or clips (of shifted windows, in the last steps), for the seam
error. The other methods have no fixed borders."""
EVERY = 8
"""For methods without borders, as a control."""
UNTIMED = ("windows looped", "windows static", "fifo")
"""Not timed: like windows, except for a window more or less; and the queue, whose many steps are all equal."""
RATE = 28
"""The fps condition of the prompts."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(prog="python -m evaluation.long_videos", description=__doc__)
    options.add_argument("--model", type=Path, default=ROOT / "models" / "videocrafter_small_t2v.safetensors")
    options.add_argument("--count", type=int, default=8, help="prompts")
    options.add_argument("--frames", type=int, nargs="*", default=[64])
    options.add_argument("--methods", nargs="*", choices=tuple(METHODS), default=list(METHODS))
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--fifo-count", type=int, default=1, help="prompts for fifo, which is much slower")
    options.add_argument("--cost-of", type=int, nargs="*", default=[16, 32, 64, 128, 256], help="lengths to time")
    options.add_argument("--result", type=Path, default=ROOT / "benchmarks" / "results" / "long_videos.json")
    options.add_argument("--add", action="store_true", help="to what the result file holds of the same model and steps")
    options.add_argument("--sheets", type=Path, default=ROOT / "docs" / "images", help="the folder for contact sheets")
    options.add_argument("--shown", type=int, default=0, help="prompts of the longest length on each sheet")
    options.add_argument("--free-init", type=int, default=0, metavar="PROMPTS", help="held-out prompts for FreeInit")
    options.add_argument("--free-init-steps", type=int, default=25, help="of each of its rounds")
    options.add_argument("--cost", nargs=2, metavar=("METHOD", "FRAMES"), help=argparse.SUPPRESS)
    return options


def make(crafter: VideoCrafter, case: Case, method: Method, count: int, steps: int) -> Array:
    """One clip f h w 3; DDIM without fresh noise, as FreeNoise's authors take it."""
    request = Request(seed=case.seed, frames=count, fps=case.scene.fps, sampling=Sampling(steps=steps, eta=0.0))
    made = list(frames(crafter, case.prompt, request=request, method=method))
    return np.asarray(torch.stack(made).numpy(), dtype=np.float32)


def segments(clip: Array) -> list[Observation]:
    """The observations for each 16 frames of a clip."""
    return [observe(clip[start : start + SEGMENT]) for start in range(0, len(clip) - SEGMENT + 1, SEGMENT)]


def followed(case: Case, seen: Sequence[Observation]) -> dict[str, float]:
    """The shares of segments with the prompt's colour, shape and motion."""
    scene = case.scene
    return {
        "colour": float(np.mean([saw.colour == scene.colour for saw in seen])),
        "shape": float(np.mean([saw.shape == scene.shape for saw in seen])),
        "motion": float(np.mean([saw.motion == scene.motion for saw in seen])),
    }


def border_error(clip: Array, every: int) -> tuple[float, float]:
    """The mean difference of frames across window borders, relative to the median difference of neighbouring frames;
    and the same halfway between borders."""
    steps = np.abs(np.diff(clip, axis=0)).mean(axis=(1, 2, 3)).tolist()
    return tuple(  # type: ignore[return-value]
        across(steps, every, start) if len(steps) >= start else 1.0 for start in (every, every // 2)
    )


def worst_place(clips: Sequence[Array], periods: Sequence[int]) -> float:
    """The highest mean difference of neighbouring frames over all phases of a period, relative to the median, which
    finds a border at any position. Use many clips or periods, to average out uneven motion."""
    found = []
    for period in periods:
        rows = []
        for clip in clips:
            steps = np.abs(np.diff(clip, axis=0)).mean(axis=(1, 2, 3))
            place = np.arange(1, len(clip)) % period
            median = max(float(np.median(steps)), 1e-6)
            rows.append([steps[place == at].mean() / median for at in range(period) if (place == at).any()])
        found.append(float(np.mean(rows, axis=0).max()))
    return max(found)


def long_cases(count: int) -> list[Case]:
    """Scenes, one third still and the others slow, with captions that name the background: otherwise the small model
    keeps changing it, which would dominate the measurements."""
    found: list[Case] = []
    for case in draw_cases(100 * count, unseen=False, fps=RATE, seed=4):
        still = len(found) % 3 == 0
        moves = case.scene.motion == "still" if still else case.scene.motion in DIRECTIONS
        said = all(name in case.prompt for name in case.scene.background)
        if len(found) < count and moves and said and (still or case.scene.speed == "slow"):
            found.append(case)
    return found


def judged(cases: Sequence[Case], clips: Sequence[Array], method: str) -> dict[str, Any]:
    """The figures of a method at one length, averaged over its clips."""
    rows = []
    for case, clip in zip(cases, clips, strict=True):
        seen = segments(clip)
        whole = observe(clip)
        figures = asdict(measure(clip))
        across, between = border_error(clip, BORDERS.get(method, EVERY))
        rows.append(
            {
                **{key: 100 * value for key, value in followed(case, seen).items()},
                "identity": 100 * whole.share(colour=whole.colour, shape=whole.shape),
                "flicker": figures["flicker"],
                "brightness_drift": figures["brightness_drift"],
                "colour_drift": figures["colour_drift"],
                "loop_error": figures["seam_error"],
                "border_error": across,
                "error_between_borders": between,
            }
        )
    means = {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}
    return {**means, "worst_place": round(worst_place(clips, (BORDERS.get(method, SEGMENT), SEGMENT)), 4)}


def cost(model: Path, method: str, count: int, steps: int) -> dict[str, float]:
    """CPU time per frame, relative to plain clips of 16 frames sampled and decoded before and after it in this
    process; and the peak memory of the process."""
    import resource

    crafter = VideoCrafter.load(model)
    case = long_cases(1)[0]

    def seconds(frames: int, method: Method) -> float:
        begin = time.process_time()
        make(crafter, case, method, frames, steps)
        return (time.process_time() - begin) / frames

    plain = METHODS["plain"]
    seconds(SEGMENT, plain)  # warm-up
    before, taken, after = seconds(SEGMENT, plain), seconds(count, METHODS[method]), seconds(SEGMENT, plain)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"time per frame": 2 * taken / (before + after), "peak bytes": float(peak)}


def costs(options: argparse.Namespace, method: str) -> dict[str, Any]:
    """Time per frame relative to 16 frames, and peak memory relative to the shortest length, for every length."""
    measured: dict[int, dict[str, float]] = {}
    for count in options.cost_of:
        command = [sys.executable, "-m", "evaluation.long_videos", "--model", str(options.model)]
        command += ["--steps", str(options.steps), "--cost", method, str(count)]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        measured[count] = json.loads(done.stdout)
    least = measured[options.cost_of[0]]["peak bytes"]
    return {
        str(count): {
            "time per frame": round(found["time per frame"], 3),
            "memory": round(found["peak bytes"] / least, 3),
        }
        for count, found in measured.items()
    }


def show(clips: Sequence[Array], place: Path) -> None:
    """Saves a contact sheet with a row of 16 evenly spaced frames for each clip."""
    rows = [torch.from_numpy(clip[np.linspace(0, len(clip) - 1, SEGMENT).round().astype(int)]) for clip in clips]
    save_image(place, contact_sheet(torch.cat(rows), SEGMENT))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The requested figures."""
    crafter = VideoCrafter.load(options.model)
    found = compare(crafter, options) if options.methods else {}
    if options.free_init:
        found["FreeInit"], clips = free_init(crafter, options.free_init, options.free_init_steps)
        if options.shown:
            rows = [clip for each in clips[: options.shown] for clip in each]
            show(rows, options.sheets / "free-init.png")
    return found


def compare(crafter: VideoCrafter, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of the methods for long clips."""
    cases = long_cases(options.count)
    short = [make(crafter, case, METHODS["plain"], SEGMENT, options.steps) for case in cases]
    found: dict[str, Any] = {
        "prompts": [case.prompt for case in cases],
        "16 frames": {f"plain, {len(cases)} prompts": judged(cases, short, "plain")},
    }
    for count in options.frames:
        found[f"{count} frames"] = {
            method: at_length(
                crafter, cases[: options.fifo_count] if method == "fifo" else cases, method, count, options
            )
            for method in options.methods
        }
    if options.cost_of:
        found["cost over 16 frames"] = {
            method: costs(options, method) for method in options.methods if method not in UNTIMED
        }
    found["prompts with the right colour at 16 frames"] = percent(
        [observe(clip).colour == case.scene.colour for case, clip in zip(cases, short, strict=True)]
    )
    return found


def at_length(
    crafter: VideoCrafter, cases: Sequence[Case], method: str, count: int, options: argparse.Namespace
) -> dict[str, Any]:
    """The figures of a method for clips of `count` frames."""
    clips = [make(crafter, case, METHODS[method], count, options.steps) for case in cases]
    figures = {"prompts": len(cases), **judged(cases, clips, method)}
    logger.info("%d frames, %s: %s", count, method, figures)
    if options.shown and count == max(options.frames):
        show(clips[: options.shown], options.sheets / f"long-{method.replace(' ', '-')}-{count}.png")
    return figures


def joined(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Merges two results of one model with equal settings, for long measurements made in parts; `now` takes precedence.
    Raises ValueError if model or settings differ."""
    for same in ("model sha256", "settings"):
        if before[same] != now[same]:
            raise ValueError(f"The results differ in {same}: {before[same]} and {now[same]}. Omit --add.")
    both = {**before, **now}
    if "prompts" in before and "prompts" in now:
        both["prompts"] = max(before["prompts"], now["prompts"], key=len)
    for key in before.keys() & now.keys():
        if key.endswith(" frames") and isinstance(now[key], dict):
            both[key] = {**before[key], **now[key]}
    return both


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.cost:
        method, count = options.cost
        sys.stdout.write(json.dumps(cost(options.model, method, int(count), options.steps)) + "\n")
        return 0
    about = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}",
        "model": options.model.name,
        "model sha256": hashlib.sha256(options.model.read_bytes()).hexdigest()[:16],
        "settings": {"steps": options.steps, "eta": 0.0, "sampler": "ddim", "fps": RATE},
    }
    found = {**about, **run(options)}
    if options.add:
        found = joined(json.loads(options.result.read_text(encoding="utf-8")), found)
    options.result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{options.result}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
