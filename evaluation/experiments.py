"""The experiments on the small models, each evaluated on clips with the detector."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from vc_core.pipeline import VideoCrafter
from worlds.shapes.world import COLOURS, DIRECTIONS, velocity

from .detector import Observation, observe
from .generate import Array, Case, Settings, clips, draw_cases, with_fps
from .measures import measure, psnr, ssim

logger = logging.getLogger(__name__)

FPS_CONDITIONS = (4, 8, 16, 24)
SAMPLERS = {
    "ddim 50": Settings(sampler="ddim", steps=50),
    "dpmpp_2m 20": Settings(sampler="dpmpp_2m", steps=20),
    "euler 25": Settings(sampler="euler", steps=25),
}
GUIDANCE_OFF = 1.0
SHOWN = 24
"""Number of clips on a contact sheet."""


@dataclass
class Findings:
    """Results as a tree of numbers, and for some experiments clips with captions of what was asked for and detected."""

    numbers: dict[str, Any] = field(default_factory=dict)
    shown: dict[str, list[tuple[str, Array]]] = field(default_factory=dict)


def percent(values: Sequence[bool | float]) -> float:
    """The mean of booleans or shares in percent, to one decimal."""
    return round(100 * float(np.mean(np.asarray(values, dtype=float))), 1) if len(values) else float("nan")


def judge(cases: Sequence[Case], seen: Sequence[Observation]) -> dict[str, Any]:
    """Percentages of clips with the right colour, shape and motion, and of moving clips with the right direction."""
    pairs = list(zip(cases, seen, strict=True))
    moving = [(case, saw) for case, saw in pairs if case.scene.motion in DIRECTIONS]
    return {
        "clips": len(pairs),
        "colour": percent([saw.colour == case.scene.colour for case, saw in pairs]),
        "shape": percent([saw.shape == case.scene.shape for case, saw in pairs]),
        "motion": percent([saw.motion == case.scene.motion for case, saw in pairs]),
        "direction": percent([saw.motion == case.scene.motion for case, saw in moving]),
        "kept": percent([saw.share(colour=case.scene.colour, shape=case.scene.shape) for case, saw in pairs]),
    }


def watch(
    crafter: VideoCrafter, cases: Sequence[Case], settings: Settings, what: str
) -> tuple[list[Observation], list[Array]]:
    """Makes the clips of the cases and analyses each."""
    made = []
    for number, clip in enumerate(clips(crafter, cases, settings), start=1):
        made.append(clip)
        if number % settings.batch == 0 or number == len(cases):
            logger.info("%s: %d of %d clips", what, number, len(cases))
    return [observe(clip) for clip in made], made


def text_accuracy(crafter: VideoCrafter, count: int, findings: Findings) -> None:
    """Accuracy on held-out and trained combinations with each sampler, and without guidance."""
    unseen, known = draw_cases(count, unseen=True), draw_cases(max(1, count // 2), unseen=False)
    accuracy: dict[str, Any] = {}
    for name, settings in SAMPLERS.items():
        seen, made = watch(crafter, unseen, settings, name)
        accuracy[name] = judge(unseen, seen)
        if name == "ddim 50":
            findings.numbers["any video"] = average([asdict(measure(clip)) for clip in made])
            findings.shown["text"] = _captioned(unseen, seen, made)[:SHOWN]
    findings.numbers["held-out combinations"] = accuracy
    seen, _ = watch(crafter, known, SAMPLERS["ddim 50"], "trained combinations")
    findings.numbers["trained combinations"] = judge(known, seen)
    seen, _ = watch(crafter, unseen, replace(SAMPLERS["ddim 50"], cfg=GUIDANCE_OFF), "without guidance")
    findings.numbers["cfg 1"] = judge(unseen, seen)


def fps_condition(crafter: VideoCrafter, count: int, findings: Findings) -> None:
    """Measured speed in pixels per frame for the same prompts and seeds under several fps conditions, for speeds that
    the world has at all of them."""
    drawn = draw_cases(6 * count, unseen=False, fps=min(FPS_CONDITIONS), seed=1)
    cases = [case for case in drawn if case.scene.motion in DIRECTIONS][:count]
    speeds = {}
    for fps in FPS_CONDITIONS:
        varied = [with_fps(case, fps) for case in cases]
        seen, _ = watch(crafter, varied, Settings(), f"fps {fps}")
        meant = float(np.mean([np.hypot(*velocity(case.scene)) for case in varied]))
        speeds[str(fps)] = {
            "pixels per frame": round(float(np.mean([saw.speed for saw in seen])), 3),
            "meant": round(meant, 3),
        }
    findings.numbers["fps condition"] = speeds


def negative_prompt(crafter: VideoCrafter, count: int, findings: Findings) -> None:
    """A prompt without a colour; then the same seed with the resulting colour as the negative prompt."""
    shapes = draw_cases(count, unseen=False, seed=2)
    plain = [replace(case, prompt=f"a {case.scene.shape}") for case in shapes]
    seen, _ = watch(crafter, plain, Settings(), "no colour named")
    usable = [(case, saw.colour) for case, saw in zip(plain, seen, strict=True) if saw.colour in COLOURS]
    avoided, _ = watch(crafter, [replace(case, negative=colour) for case, colour in usable], Settings(), "negative")
    findings.numbers["negative prompt"] = {
        "clips": len(usable),
        "avoided": percent([saw.colour != colour for (_, colour), saw in zip(usable, avoided, strict=True)]),
    }


def image_accuracy(crafter: VideoCrafter, text_crafter: VideoCrafter, count: int, findings: Findings) -> None:
    """Whether the image's object is kept, the prompt's motion followed, and the first frame similar to the image."""
    cases = draw_cases(count, unseen=True)
    seen, made = watch(crafter, cases, Settings(), "image-to-video")
    _, without = watch(text_crafter, cases, Settings(), "text-to-video of the same prompts")
    images = [case.picture().numpy() for case in cases]
    first = [psnr(clip[0], image) for clip, image in zip(made, images, strict=True)]
    other = [psnr(clip[0], image) for clip, image in zip(without, images, strict=True)]
    findings.numbers["image-to-video"] = judge(cases, seen) | {
        "colour kept": percent([saw.share(colour=c.scene.colour) for c, saw in zip(cases, seen, strict=True)]),
        "shape kept": percent([saw.share(shape=c.scene.shape) for c, saw in zip(cases, seen, strict=True)]),
        "first frame psnr": round(float(np.mean(first)), 2),
        "first frame ssim": round(float(np.mean([ssim(c[0], p) for c, p in zip(made, images, strict=True)])), 4),
        "first frame psnr of text-to-video": round(float(np.mean(other)), 2),
        "any video": average([asdict(measure(clip)) for clip in made]),
    }
    findings.shown["image"] = _captioned(cases, seen, made)[:SHOWN]


def half_precision(load: Callable[[str], VideoCrafter], count: int, findings: Findings) -> None:
    """Agreement of fp16 and bf16 with fp32 for the same prompts and seeds, in dB."""
    cases = draw_cases(count, unseen=True, seed=3)
    _, exact = watch(load("fp32"), cases, SAMPLERS["ddim 50"], "fp32")
    for kind in ("fp16", "bf16"):
        _, rounded = watch(load(kind), cases, SAMPLERS["ddim 50"], kind)
        agreement = [psnr(a, b) for a, b in zip(rounded, exact, strict=True)]
        findings.numbers[f"{kind} against fp32"] = {
            "psnr": round(float(np.mean(agreement)), 2),
            "lowest": round(min(agreement), 2),
        }


def average(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure."""
    return {key: round(float(np.mean([row[key] for row in rows])), 5) for key in rows[0]}


def _captioned(cases: Sequence[Case], seen: Sequence[Observation], made: Sequence[Array]) -> list[tuple[str, Array]]:
    return [
        (f"{case.prompt} | seen: {saw.colour} {saw.shape} {saw.motion}", clip)
        for case, saw, clip in zip(cases, seen, made, strict=True)
    ]
