"""The small DynamiCrafter and the few-step LoRA, measured: `python -m evaluation.family`.

Clips between two pictures are asked whether they begin and end with them, loops whether they close, other lengths than
16 frames which way of giving out the image tokens serves them, and clips of 4 and 8 steps whether they show what those
of 50 show.
"""

from __future__ import annotations

import argparse
import hashlib
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
        "--questions", nargs="+", choices=QUESTIONS, default=QUESTIONS, help="the result keeps its other answers"
    )
    options.add_argument("--count", type=int, default=8, help="held-out scenes for each question")
    options.add_argument("--lengths", type=int, nargs="*", default=list(LENGTHS), help="numbers of frames besides 16")
    options.add_argument("--steps", type=int, default=20, help="of the small DynamiCrafter")
    options.add_argument("--many", type=int, default=MANY, help="steps that few steps are compared with")
    options.add_argument("--result", type=Path, default=ROOT / "benchmarks" / "results" / "family.json")
    options.add_argument("--sheet", type=Path, default=None, help="where to put a contact sheet of the clips")
    return options


def continued(
    crafter: VideoCrafter, case: Case, request: Request, end: Tensor | None = None, *, to_all: bool = False
) -> Array:
    """A clip f h w 3 of a model that continues pictures, its loop with the frame that closes it. `to_all` gives every
    frame all image tokens, as the reference does where there are not 16 for each."""
    settings = request.settle(crafter.parts.spec)
    picture = case.picture()
    beside = crafter.ends(picture, settings.frames, end, loop=request.loop)

    def conditioned(prompt: str, shown: Tensor) -> Conditioning:
        whole = crafter.conditioning_for((prompt,), shown, settings, beside)
        image = crafter.condition(prompt, shown, settings.fps).image
        return replace(whole, image=image.flatten(1, 2)) if to_all and image is not None else whole

    steps = sample(
        crafter.predict,
        crafter.parts.schedule,
        {"positive": conditioned(case.prompt, picture), "negative": conditioned("", GREY)},
        noise=Noise(case.seed),
        shape=settings.shape(crafter.parts.spec),
        settings=settings.sampling,
    )
    *_, last = steps
    return np.asarray(crafter.decode(last.x).numpy(), dtype=np.float32)


def about(*files: Path) -> dict[str, Any]:
    """Which files were judged, when and on what."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}",
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files},
    }


def mean(values: Iterable[float]) -> float:
    """The mean, to two decimals."""
    return round(float(np.mean(list(values))), 2)


def kept(cases: Sequence[Case], clips: Sequence[Array]) -> float:
    """Percent of frames that show the pictures' colour and shape."""
    pairs = zip(cases, clips, strict=True)
    return percent([observe(clip).share(colour=case.scene.colour, shape=case.scene.shape) for case, clip in pairs])


def pictures(crafter: VideoCrafter, cases: Sequence[Case], options: argparse.Namespace) -> tuple[dict[str, Any], list]:
    """What the small DynamiCrafter makes of two pictures, of one, and of one as a loop; and the clips."""
    request = Request(fps=FPS, sampling=Sampling(steps=options.steps, spacing="trailing", eta=0.0))
    true = [render([case.scene])[0] for case in cases]
    between = [continued(crafter, case, request, clip[-1]) for case, clip in zip(cases, true, strict=True)]
    alone = [continued(crafter, case, request) for case in cases]
    loops = [continued(crafter, case, replace(request, loop=True)) for case in cases]
    coded = [crafter.decode(crafter.encode(clip[[0, -1]])).numpy() for clip in true]
    found: dict[str, Any] = {
        "settings": {"scenes": options.count, "steps": options.steps, "eta": 0.0, "sampler": "ddim"},
        "first frame, dB": mean(psnr(clip[0], real[0].numpy()) for clip, real in zip(between, true, strict=True)),
        "last frame, dB": mean(psnr(clip[-1], real[-1].numpy()) for clip, real in zip(between, true, strict=True)),
        "middle frame against the real one, dB": mean(
            psnr(clip[8], real[8].numpy()) for clip, real in zip(between, true, strict=True)
        ),
        "the autoencoder alone, dB": mean(
            psnr(ends[at], real[at].numpy()) for ends, real in zip(coded, true, strict=True) for at in (0, -1)
        ),
        "colour and shape kept between, %": kept(cases, between),
        "one picture: first frame, dB": mean(
            psnr(clip[0], real[0].numpy()) for clip, real in zip(alone, true, strict=True)
        ),
        "loop: seam error": mean(seam_error(clip[-2], clip[0], clip[:-1]) for clip in loops),
        "loop: colour and shape kept, %": kept(cases, loops),
        "no loop: the same error of clips of one picture": mean(seam_error(clip[-1], clip[0], clip) for clip in alone),
    }
    for frames in options.lengths:
        other = replace(request, frames=frames)
        for name, to_all in (("tokens resampled", False), ("all tokens to each frame", True)):
            clips = [
                continued(crafter, case, other, clip[-1], to_all=to_all) for case, clip in zip(cases, true, strict=True)
            ]
            found.setdefault(f"{frames} frames", {})[name] = {
                "ends, dB": mean(
                    psnr(clip[at], real[at].numpy()) for clip, real in zip(clips, true, strict=True) for at in (0, -1)
                ),
                "colour and shape kept, %": kept(cases, clips),
            }
    shown = [clip for trio in zip([clip.numpy() for clip in true], between, loops, strict=True) for clip in trio]
    return found, shown


def few_steps(options: argparse.Namespace, cases: Sequence[Case]) -> tuple[dict[str, Any], list]:
    """What clips of few steps with the LoRA show, and those of many and of few without; and the clips."""
    found: dict[str, Any] = {"settings": {"prompts": len(cases), "eta": 0.0}}
    shown: list[list[Array]] = []
    plain = VideoCrafter.load(options.text_model)
    quick = VideoCrafter.load(options.text_model, loras=[(options.lora, 1.0)])
    ways = [(f"{options.many} steps", plain, Sampling(steps=options.many, eta=0.0))]
    ways += [(f"{steps} steps without the LoRA", plain, Sampling(steps=steps, eta=0.0)) for steps in FEW[:1]]
    ways += [(f"{steps} steps", quick, Sampling(steps=steps, sampler="lcm", spacing="lcm")) for steps in FEW]
    cfg = plain.parts.spec.defaults.cfg
    found["settings"]["cfg"] = cfg
    for name, crafter, sampling in ways:
        clips = []
        for case in cases:
            request = Request(seed=case.seed, fps=case.scene.fps, cfg=cfg, sampling=sampling)
            clips.append(np.asarray(crafter.generate(case.prompt, request=request).numpy(), dtype=np.float32))
        found[name] = judge(cases, [observe(clip) for clip in clips])
        shown.append(clips[:SHOWN_SCENES])
    return found, [clip for row in zip(*shown, strict=True) for clip in row]


def show(clips: Sequence[Array], place: Path) -> None:
    """A row of frames, evenly spaced, for each clip."""
    rows = [torch.from_numpy(clip[np.linspace(0, len(clip) - 1, SHOWN).round().astype(int)]) for clip in clips]
    save_picture(place, contact_sheet(torch.cat(rows), SHOWN))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
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
