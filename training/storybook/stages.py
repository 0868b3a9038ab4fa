"""The stages of the training, in their order. Each has its share of the time, leaves a checkpoint in the run's folder,
writes its model as soon as it is trained, and is skipped when it is finished."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from evaluation.storybook.cases import draw_cases
from evaluation.storybook.making import Settings
from evaluation.storybook.recogniser import Recogniser, RecogniserLesson
from evaluation.storybook.report import Judge, ask_all
from training.autoencoder import normalise
from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.specs import ModelSpec
from worlds.storybook.world import FRAMES

from .autoencoder import AutoencoderLesson, FrameBatches, psnr
from .camera import CameraBatches, CameraLesson
from .fitting import Batch, Trainer, finished, under
from .gallery import ROOT, to_network
from .lessons import ReadingBatches, VideoBatches
from .networks import ReadingLesson
from .painting import CLIPS
from .plot import plot
from .running import Run, Switch
from .saving import save_model

logger = logging.getLogger(__name__)

LAST_QUESTION = 8.0
"""Seconds before the end of the run at which the judge stops asking; it asks for as long in any case."""


def train_autoencoder(run: Run) -> None:
    """Reconstruction of single frames; then its latents are given mean 0 and deviation 1."""
    run.gallery.wait_for(run.painters, run.recipe.first_clips)
    logger.info("%d clips are drawn after %.0f s", run.gallery.count, time.perf_counter() - run.began)
    torch.manual_seed(run.recipe.seed)
    spec = run.specs.text_to_video.autoencoder
    lesson = AutoencoderLesson(spec)
    trainer = run.trainer(lesson, "autoencoder", lr=2e-3, ema=0.998, weight_decay=0.0)
    trainer.resume()
    size = run.recipe.frames_at_once
    trainer.run(FrameBatches(run.gallery, spec, size), samples=size, between=run.feed)
    model = Autoencoder(spec).to(run.device).requires_grad_(False)
    model.load_state_dict(under(trainer.averaged, "model."))
    model.fused.wanted = False
    frames = torch.cat([run.gallery.random_frames(size)[0] for _ in range(12)])
    normalise(model, frames)
    logger.info("autoencoder: %.2f dB", psnr(model, frames[: 2 * size]))
    torch.save(model.state_dict(), run.folder / "normal_autoencoder.pt")


def open_gallery(run: Run) -> None:
    """Encode what has been drawn; from here on clips are encoded as they arrive."""
    run.gallery.wait_for(run.painters, run.recipe.first_clips)
    run.gallery.keep(run.recipe.judge_clips)
    model = run.autoencoder().to(run.device)
    run.encoder = model.half() if run.device.startswith("cuda") else model
    began = time.perf_counter()
    run.gallery.encode(run.encoder, run.recipe.encoded_first // CLIPS)
    logger.info("%d clips encoded in %.1f s", len(run.gallery), time.perf_counter() - began)


def train_stills(run: Run) -> None:
    """The text-to-video network without its temporal transformers, on single frames."""
    lesson = run.network(run.specs.text_to_video, with_image=False, over_time=False)
    trainer = run.trainer(lesson, "stills", lr=1.6e-3, final=0.15, ema=0.999)
    trainer.resume()
    size, several = run.recipe.still_clips_at_once, run.recipe.stills_of_clip
    draw = VideoBatches(run.gallery, lesson, size, stills=several)
    between = Switch(run, lesson, trainer)
    keep = partial(_keep, run, trainer)
    trainer.run(draw, samples=size * several, between=between, watch=partial(_look, run, trainer), keep=keep)
    keep()


def train_text_to_video(run: Run) -> None:
    """The text-to-video network on clips, with hints in the first half of its time; it begins with what it has learned
    from stills."""
    lesson = run.network(run.specs.text_to_video, with_image=False, hinted=True)
    trainer = run.trainer(lesson, "text_to_video", lr=1.5e-3, final=0.01, ema=0.999)
    if not trainer.resume() and (run.folder / "stills.pt").exists():
        trainer.start_from(finished(run.folder, "stills"))
    size = run.recipe.clips_at_once
    draw = VideoBatches(run.gallery, lesson, size)
    between = Switch(run, lesson, trainer)
    keep = partial(_keep, run, trainer)
    trainer.run(draw, samples=size, between=between, watch=partial(_look, run, trainer), keep=keep)
    keep()


def _keep(run: Run, trainer: Trainer) -> None:
    """Write the file of the text-to-video model as it is."""
    plain = {name: value for name, value in trainer.averaged.items() if not name.startswith("hints.")}
    model = run.network(run.specs.text_to_video, with_image=False)
    save_model(run.models, model, plain, run.autoencoder(), run.gallery.words)


def _look(run: Run, trainer: Trainer) -> None:
    """Write the text-to-video model during training, and what the judge says of a few clips, in which a network for
    stills makes each frame alone."""
    if not (run.folder / "cases.npy").exists() or not (run.models / "storybook_judge.safetensors").exists():
        return
    _keep(run, trainer)
    name = f"{trainer.name}_{trainer.step}"
    try:
        judge(run, run.recipe.watched).ask(name, run.models / "storybook_t2v.safetensors", Settings(steps=12), 10**6)
    except FAILURES:
        logger.exception("Progress cannot be judged")


def train_reading(run: Run) -> None:
    """The image branch alone."""
    torch.manual_seed(run.recipe.seed)
    lesson = ReadingLesson(run.specs.image_to_video)
    trainer = run.trainer(lesson, "reading", lr=2e-3, ema=0.998)
    trainer.resume()
    size = run.recipe.images_at_once
    trainer.run(ReadingBatches(run.gallery, size), samples=size, between=run.feed)


def start(run: Run, spec: ModelSpec) -> dict[str, Tensor]:
    """Weights of the text-to-video network and of the image branch for a network of another layout: new inputs count
    nothing yet, and the tokens of every frame begin as those for all frames."""
    video = under(finished(run.folder, "text_to_video"), "network.")
    weights = {f"network.{name}": value for name, value in video.items()}
    weights |= {
        name: value for name, value in finished(run.folder, "reading").items() if not name.startswith("reader.")
    }
    first = "network.unet.input_blocks.0.0.weight"
    if spec.continues_images:
        weights[first] = torch.cat([weights[first], torch.zeros_like(weights[first])], dim=1)
        weights["branch.tokens.latents"] = weights["branch.tokens.latents"].repeat(1, FRAMES, 1)
    return weights


def _train_with_image(run: Run, spec: ModelSpec, name: str) -> None:
    lesson = run.network(spec, with_image=True)
    trainer = run.trainer(lesson, name, lr=1.5e-3, final=0.01, ema=0.998)
    if not trainer.resume():
        trainer.start_from({key: value.to(run.device) for key, value in start(run, spec).items()})
    size = run.recipe.clips_at_once
    trainer.run(VideoBatches(run.gallery, lesson, size), samples=size, between=Switch(run, lesson, trainer))
    model = run.network(spec, with_image=True)
    save_model(run.models, model, trainer.averaged, run.autoencoder(), run.gallery.words)


def train_continuing(run: Run) -> None:
    """The model that continues an image or fills in between two, from the text-to-video network."""
    _train_with_image(run, run.specs.continuing, "continuing")


def train_image_to_video(run: Run) -> None:
    """The image-to-video model, from the text-to-video network."""
    _train_with_image(run, run.specs.image_to_video, "image_to_video")


def train_camera(run: Run) -> None:
    """Camera layers for the text-to-video network."""
    network = run.network(run.specs.text_to_video, with_image=False).network
    network.load_state_dict(under(finished(run.folder, "text_to_video"), "network."))
    lesson = CameraLesson(network)
    trainer = run.trainer(lesson, "camera", lr=2e-3, final=0.02, ema=0.995)
    trainer.resume()
    size = run.recipe.clips_at_once
    trainer.run(CameraBatches(run.gallery, lesson, size), samples=size, between=run.feed)
    CameraLesson.save(run.models, "storybook_camera", trainer.averaged)


def train_judge(run: Run) -> None:
    """The classifier of the judge, on frames of drawn clips."""
    torch.manual_seed(run.recipe.seed)
    lesson = RecogniserLesson()
    trainer = run.trainer(lesson, "judge", lr=2e-3, ema=0.998)
    trainer.resume()
    kept = {
        name: torch.cat([part[name] for part in run.gallery.kept]) for name in ("frames", "names", "poses", "around")
    }
    size = run.recipe.frames_at_once

    def draw(progress: float) -> Batch:
        clip = torch.randint(len(kept["frames"]), (size,), device=run.device)
        frame = torch.randint(FRAMES, (size,), device=run.device)
        pixels = to_network(kept["frames"][clip, frame])
        pixels = pixels + 0.06 * torch.rand(size, 1, 1, 1, device=run.device) * torch.randn_like(pixels)
        return pixels, kept["names"][clip], kept["poses"][clip, frame], kept["around"][clip, :3]

    trainer.run(draw, samples=size)
    model = Recogniser()
    model.load_state_dict(under(trainer.averaged, "model."))
    run.models.mkdir(parents=True, exist_ok=True)
    model.save(run.models / "storybook_judge.safetensors")


def ask(run: Run) -> None:
    """What the judge says of the models that there are, until the time is over."""
    asked = judge(run)
    autoencoder = run.autoencoder().to(run.device)
    frames = to_network(asked.drawn[:64, ::5].flatten(0, 1).to(run.device))
    ask_all(asked, run.models, psnr(autoencoder, frames), steps=run.recipe.steps)


def judge(run: Run, most: int | None = None) -> Judge:
    """The judge with the first `most` of its cases, or with all."""
    drawn = torch.from_numpy(np.load(run.folder / "cases.npy", mmap_mode="c"))[:most]
    report = run.folder / "report.json"
    return Judge(
        cases=draw_cases(len(drawn)),
        drawn=drawn,
        model=Recogniser.load(run.models / "storybook_judge.safetensors").to(run.device),
        folder=run.folder,
        device=run.device,
        until=max(run.began + run.seconds - LAST_QUESTION, time.perf_counter() + LAST_QUESTION),
        found=json.loads(report.read_text(encoding="utf-8")) if report.exists() else {},
    )


STAGES: Mapping[str, Callable[[Run], None]] = {
    "autoencoder": train_autoencoder,
    "stills": train_stills,
    "text_to_video": train_text_to_video,
    "reading": train_reading,
    "continuing": train_continuing,
    "image_to_video": train_image_to_video,
    "camera": train_camera,
    "judge": train_judge,
    "questions": ask,
}
FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, OSError)
"""What may go wrong in one stage without ending the run."""


def run_stages(run: Run, names: list[str]) -> bool:
    """All stages that are not finished. One that fails is reported, and the others go on; returns whether all did."""
    run.folder.mkdir(parents=True, exist_ok=True)
    drawing = _draw_cases(run)
    good = True
    run.to_come = [name for name in names if name not in run.done or name == "questions"]
    compiling = run.beside() if run.compiling else None
    with run.painters:
        for name in list(run.to_come):
            if name == "questions" and drawing is not None:
                drawing.wait()
            good &= _succeeds(run, name, compiling)
            run.to_come.remove(name)
            plot(sorted(run.folder.glob("*.jsonl"))).save(run.folder / "losses.png")
    for process in (drawing, compiling):
        _end(process)
    return good


def _draw_cases(run: Run) -> subprocess.Popen[bytes] | None:
    """The process that draws the judge's cases, unless that is done."""
    cases = run.folder / "cases.npy"
    if cases.exists():
        return None
    command = [sys.executable, "-m", "evaluation.storybook.cases", "--file", str(cases.resolve())]
    return subprocess.Popen([*command, "--count", str(run.recipe.cases)], cwd=ROOT)


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.poll() is None:
        process.terminate()


def _succeeds(run: Run, name: str, compiling: subprocess.Popen[bytes] | None) -> bool:
    """Run one stage; returns False, and logs why, where it fails."""
    try:
        if run.encoder is None and name not in ("autoencoder", "questions"):
            open_gallery(run)
            if compiling is not None:
                run.choose(compiling)
        STAGES[name](run)
        run.finish(name)
    except FAILURES:
        logger.exception("The stage %s failed", name)
        return False
    return True
