"""Evaluates the small DynamiCrafter and the few-step LoRA: `python -m evaluation.family`.

It measures whether clips between two images start and end with them, whether loops close, how to distribute the image
tokens over clips of more or fewer than 16 frames, and whether clips of 4 and 8 steps match those of 50.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vc_core.conditions import Conditioning
from vc_core.denoising import Noise, Sampling, sample
from vc_core.frames.pixels import save_picture
from vc_core.frames.sheet import contact_sheet
from vc_core.pipeline import GREY, Request, VideoCrafter
from worlds.shapes.world import render

from .detector import observe
from .experiments import judge, percent
from .generate import Array, Case, draw_cases
from .measures import psnr, seam_error

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = ("pictures", "few steps")
LENGTHS = (8, 12, 24, 32)
FEW = (4, 8)
MANY = 50
FPS = 6
SHOWN = 8
SHOWN_SCENES = 4


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(prog="python -m evaluation.family", description=__doc__)
    models = ROOT / "models"
    options.add_argument("--model", type=Path, default=models / "videocrafter_small_dynamicrafter.safetensors")
    options.add_argument("--text-model", type=Path, default=models / "videocrafter_small_t2v.safetensors")
    options.add_argument("--lora", type=Path, default=models / "videocrafter_small_turbo_lora.safetensors")
    options.add_argument(
        "--questions", nargs="+", choices=QUESTIONS, default=QUESTIONS, help="other answers in the result file are kept"
    )
    options.add_argument("--count", type=int, default=8, help="held-out scenes for each question")
    options.add_argument(
        "--lengths", type=int, nargs="*", default=list(LENGTHS), help="numbers of frames in addition to 16"
    )
    options.add_argument("--steps", type=int, default=20, help="of the small DynamiCrafter")
    options.add_argument("--many", type=int, default=MANY, help="steps to compare few steps with")
    options.add_argument("--result", type=Path, default=ROOT / "benchmarks" / "results" / "family.json")
    options.add_argument("--sheet", type=Path, default=None, help="file for a contact sheet of the clips")
    return options


def continued(
    crafter: VideoCrafter, case: Case, request: Request, end: Tensor | None = None, *, to_all: bool = False
) -> Array:
    """A clip f h w 3 of a model that continues images; a loop includes its closing frame. With `to_all`, every frame
    gets all image tokens, as in the reference for lengths other than 16."""
    settings = request.settle(crafter.parts.spec)
    image = case.picture()
    concat = crafter.ends(image, settings.frames, end, loop=request.loop)

    def conditioned(prompt: str, shown: Tensor) -> Conditioning:
        whole = crafter.conditioning_for((prompt,), shown, settings, concat)
        tokens = crafter.condition(prompt, shown, settings.fps).image
        return replace(whole, image=tokens.flatten(1, 2)) if to_all and tokens is not None else whole

    steps = sample(
        crafter.predict,
        crafter.parts.schedule,
        {"positive": conditioned(case.prompt, image), "negative": conditioned("", GREY)},
        noise=Noise(case.seed),
        shape=settings.shape(crafter.parts.spec),
        settings=settings.sampling,
    )
    *_, last = steps
    return np.asarray(crafter.decode(last.x).numpy(), dtype=np.float32)


def continued_all(
    crafter: VideoCrafter, cases: Sequence[Case], request: Request, ends: Sequence[Tensor | None], **keywords: bool
) -> list[Array]:
    """The clips of all cases; see `continued`."""
    return [continued(crafter, case, request, end, **keywords) for case, end in zip(cases, ends, strict=True)]


def about(*files: Path) -> dict[str, Any]:
    """The evaluated files, the date and the machine."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}",
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files},
    }


def mean(values: Iterable[float]) -> float:
    """The mean to two decimals."""
    return round(float(np.mean(list(values))), 2)


def kept(cases: Sequence[Case], clips: Sequence[Array]) -> float:
    """Percentage of frames with the colour and shape of the images."""
    pairs = zip(cases, clips, strict=True)
    return percent([observe(clip).share(colour=case.scene.colour, shape=case.scene.shape) for case, clip in pairs])


def at_frame(clips: Sequence[Array], references: Sequence[Tensor], *indices: int) -> float:
    """Mean PSNR in dB of the frames with these indices against those of the references."""
    pairs = list(zip(clips, references, strict=True))
    return mean(psnr(clip[index], real[index].numpy()) for clip, real in pairs for index in indices)


def pictures(crafter: VideoCrafter, cases: Sequence[Case], options: argparse.Namespace) -> tuple[dict[str, Any], list]:
    """Evaluates the small DynamiCrafter with two images, with one, and with one as a loop. Returns figures and
    clips."""
    request = Request(fps=FPS, sampling=Sampling(steps=options.steps, spacing="trailing", eta=0.0))
    true = [render([case.scene])[0] for case in cases]
    ends, nothing = [clip[-1] for clip in true], [None] * len(cases)
    between = continued_all(crafter, cases, request, ends)
    alone = continued_all(crafter, cases, request, nothing)
    loops = continued_all(crafter, cases, replace(request, loop=True), nothing)
    decoded = [crafter.decode(crafter.encode(clip[[0, -1]])).numpy() for clip in true]
    found: dict[str, Any] = {
        "settings": {"scenes": options.count, "steps": options.steps, "eta": 0.0, "sampler": "ddim"},
        "first frame, dB": at_frame(between, true, 0),
        "last frame, dB": at_frame(between, true, -1),
        "middle frame against the real one, dB": at_frame(between, true, 8),
        "the autoencoder alone, dB": at_frame(decoded, true, 0, -1),
        "colour and shape kept between, %": kept(cases, between),
        "one picture: first frame, dB": at_frame(alone, true, 0),
        "loop: seam error": mean(seam_error(clip[-2], clip[0], clip[:-1]) for clip in loops),
        "loop: colour and shape kept, %": kept(cases, loops),
        "no loop: the same error of clips of one picture": mean(seam_error(clip[-1], clip[0], clip) for clip in alone),
    }
    for frames in options.lengths:
        found[f"{frames} frames"] = other_length(crafter, cases, true, replace(request, frames=frames))
    shown = zip([clip.numpy() for clip in true], between, loops, strict=True)
    return found, list(itertools.chain.from_iterable(shown))


def other_length(
    crafter: VideoCrafter, cases: Sequence[Case], true: Sequence[Tensor], request: Request
) -> dict[str, Any]:
    """Figures of clips between two images for both ways to distribute the image tokens."""
    found = {}
    for name, to_all in (("tokens resampled", False), ("all tokens to each frame", True)):
        clips = continued_all(crafter, cases, request, [clip[-1] for clip in true], to_all=to_all)
        found[name] = {"ends, dB": at_frame(clips, true, 0, -1), "colour and shape kept, %": kept(cases, clips)}
    return found


def few_steps(options: argparse.Namespace, cases: Sequence[Case]) -> tuple[dict[str, Any], list]:
    """Evaluates clips of few steps with the LoRA, and of many and few steps without it. Returns figures and clips."""
    found: dict[str, Any] = {"settings": {"prompts": len(cases), "eta": 0.0}}
    shown: list[list[Array]] = []
    plain = VideoCrafter.load(options.text_model)
    quick = VideoCrafter.load(options.text_model, loras=[(options.lora, 1.0)])
    variants = [(f"{options.many} steps", plain, Sampling(steps=options.many, eta=0.0))]
    variants += [(f"{steps} steps without the LoRA", plain, Sampling(steps=steps, eta=0.0)) for steps in FEW[:1]]
    variants += [(f"{steps} steps", quick, Sampling(steps=steps, sampler="lcm", spacing="lcm")) for steps in FEW]
    cfg = plain.parts.spec.defaults.cfg
    found["settings"]["cfg"] = cfg
    for name, crafter, sampling in variants:
        clips = []
        for case in cases:
            request = Request(seed=case.seed, fps=case.scene.fps, cfg=cfg, sampling=sampling)
            clips.append(np.asarray(crafter.generate(case.prompt, request=request).numpy(), dtype=np.float32))
        found[name] = judge(cases, [observe(clip) for clip in clips])
        shown.append(clips[:SHOWN_SCENES])
    return found, [clip for row in zip(*shown, strict=True) for clip in row]


def show(clips: Sequence[Array], place: Path) -> None:
    """Saves a contact sheet with a row of evenly spaced frames for each clip."""
    rows = [torch.from_numpy(clip[np.linspace(0, len(clip) - 1, SHOWN).round().astype(int)]) for clip in clips]
    save_picture(place, contact_sheet(torch.cat(rows), SHOWN))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parser().parse_args(arguments)
    answered = json.loads(options.result.read_text(encoding="utf-8")) if options.result.exists() else {}
    found: dict[str, Any] = {question: answered[question] for question in QUESTIONS if question in answered}
    shown: list[Array] = []
    if "pictures" in options.questions:
        cases = draw_cases(options.count, unseen=True, fps=FPS, seed=6)
        found["pictures"], clips = pictures(VideoCrafter.load(options.model), cases, options)
        found["pictures"] |= about(options.model)
        shown += clips
    if "few steps" in options.questions:
        found["few steps"], clips = few_steps(options, draw_cases(options.count, unseen=True, seed=7))
        found["few steps"] |= about(options.text_model, options.lora)
        shown += clips
    options.result.parent.mkdir(parents=True, exist_ok=True)
    options.result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.sheet is not None:
        show(shown, options.sheet)
    sys.stdout.write(f"{options.result}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
