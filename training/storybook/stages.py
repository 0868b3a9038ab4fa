"""The stages of the training, in their order. Each has its share of the time, leaves a checkpoint in the run's folder,
writes its model as soon as it is trained, and is skipped when it is finished."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.storybook.cases import draw_cases
from evaluation.storybook.recogniser import Recogniser, RecogniserLesson
from evaluation.storybook.report import Judge, ask_all
from training.autoencoder import normalise
from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.specs import ModelSpec
from worlds.storybook.world import FRAMES

from .autoencoder import AutoencoderLesson, FrameBatches, psnr
from .fitting import Batch, Plan, Trainer, finished, under
from .gallery import ROOT, Gallery, Painters, to_network
from .lessons import ReadingBatches, VideoBatches, VideoLesson
from .networks import ImageBranch, Network, ReadingLesson
from .painting import CLIPS
from .plot import plot
from .saving import save_model
from .specs import STANDARD, Specs

logger = logging.getLogger(__name__)

ROOM = 2**33
"""Bytes that must be free in the system's folder in memory if drawn clips are to wait there."""
LAST_QUESTION = 8.0
"""Seconds before the end of the run at which the judge stops asking; it asks for as long in any case."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Shares of the time and sizes of batches; what is left of the time is for the judge's questions."""

    autoencoder: float = 0.13
    text_to_video: float = 0.44
    reading: float = 0.035
    continuing: float = 0.13
    image_to_video: float = 0.12
    judge: float = 0.035
    frames_at_once: int = 64
    clips_at_once: int = 64
    images_at_once: int = 256
    clips: int = 40000
    """Clips that are drawn at the most."""
    first_clips: int = 512
    """Clips that must have arrived before the autoencoder's training begins."""
    encoded_first: int = 16000
    """Clips that are encoded before the video networks' training begins; the others follow during it."""
    judge_clips: int = 3000
    cases: int = 400
    steps: int = 25
    """Of the sampler, in the judge's questions."""
    seed: int = 0


@dataclass(kw_only=True)
class Run:
    """Where a run lives, on what it computes, and what its stages leave for the later ones."""

    folder: Path
    models: Path
    device: str
    seconds: float
    recipe: Recipe = Recipe()
    specs: Specs = STANDARD
    graphs: bool = True
    processes: int = 1
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.gallery = Gallery(self.specs.text_to_video, self.device, most=self.recipe.clips)
        self.painters = Painters(self.drawings, processes=self.processes, seed=self.recipe.seed)
        self.encoder: Autoencoder | None = None
        self.done: set[str] = {path.stem for path in self.folder.glob("*.done")}

    @property
    def drawings(self) -> Path:
        """Where drawn clips wait: in memory where the system has a folder for that."""
        memory = Path("/dev/shm")
        name = f"storybook_{os.getpid()}"
        roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM
        return memory / name if roomy else self.folder / name

    def trainer(self, lesson: nn.Module, share: float, name: str, **numbers: Any) -> Trainer:
        """A trainer with so much of the whole time."""
        plan = Plan(seconds=share * self.seconds, **numbers)
        return Trainer(lesson.to(self.device), plan, self.folder, name, graphs=self.graphs)

    def finish(self, name: str) -> None:
        """Note that a stage is finished."""
        self.done.add(name)
        (self.folder / f"{name}.done").touch()
        logger.info("%s finished after %.0f s of the run", name, time.perf_counter() - self.began)

    def feed(self) -> None:
        """Take in clips and encode them, a little at a time."""
        self.gallery.receive(self.painters, 1)
        if self.encoder is not None:
            self.gallery.encode(self.encoder, 1)

    def network(self, spec: ModelSpec, *, with_image: bool, hinted: bool = False) -> VideoLesson:
        """A fresh network in its lesson."""
        torch.manual_seed(self.recipe.seed)
        network = Network(spec, self.gallery.words.size)
        return VideoLesson(network, ImageBranch(spec) if with_image else None, hinted=hinted)

    def autoencoder(self) -> Autoencoder:
        """The trained autoencoder, with normal latents, in float32 on the CPU."""
        model = Autoencoder(self.specs.text_to_video.autoencoder).requires_grad_(False)
        model.load_state_dict(torch.load(self.folder / "normal_autoencoder.pt", weights_only=True, map_location="cpu"))
        model.fused.wanted = False  # kernels would have to be built first
        return model


def train_autoencoder(run: Run) -> None:
    """Reconstruction of single frames; then its latents are given mean 0 and deviation 1."""
    run.gallery.wait_for(run.painters, run.recipe.first_clips)
    logger.info("%d clips are drawn after %.0f s", run.gallery.count, time.perf_counter() - run.began)
    torch.manual_seed(run.recipe.seed)
    spec = run.specs.text_to_video.autoencoder
    lesson = AutoencoderLesson(spec)
    trainer = run.trainer(lesson, run.recipe.autoencoder, "autoencoder", lr=2e-3, ema=0.998, weight_decay=0.0)
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


def train_text_to_video(run: Run) -> None:
    """The text-to-video network, with hints in the first half of its time."""
    lesson = run.network(run.specs.text_to_video, with_image=False, hinted=True)
    trainer = run.trainer(lesson, run.recipe.text_to_video, "text_to_video", lr=2e-3, final=0.01, ema=0.999)
    trainer.resume()
    size = run.recipe.clips_at_once
    trainer.run(VideoBatches(run.gallery, lesson, size), samples=size, between=run.feed)
    plain = {name: value for name, value in trainer.averaged.items() if not name.startswith("hints.")}
    model = run.network(run.specs.text_to_video, with_image=False)
    save_model(run.models, model, plain, run.autoencoder(), run.gallery.words)


def train_reading(run: Run) -> None:
    """The image branch alone."""
    torch.manual_seed(run.recipe.seed)
    lesson = ReadingLesson(run.specs.image_to_video)
    trainer = run.trainer(lesson, run.recipe.reading, "reading", lr=2e-3, ema=0.998)
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


def _train_with_image(run: Run, spec: ModelSpec, share: float, name: str) -> None:
    lesson = run.network(spec, with_image=True)
    trainer = run.trainer(lesson, share, name, lr=1.5e-3, final=0.01, ema=0.998)
    if not trainer.resume():
        trainer.start_from({key: value.to(run.device) for key, value in start(run, spec).items()})
    size = run.recipe.clips_at_once
    trainer.run(VideoBatches(run.gallery, lesson, size), samples=size, between=run.feed)
    model = run.network(spec, with_image=True)
    save_model(run.models, model, trainer.averaged, run.autoencoder(), run.gallery.words)


def train_continuing(run: Run) -> None:
    """The model that continues an image or fills in between two, from the text-to-video network."""
    _train_with_image(run, run.specs.continuing, run.recipe.continuing, "continuing")


def train_image_to_video(run: Run) -> None:
    """The image-to-video model, from the text-to-video network."""
    _train_with_image(run, run.specs.image_to_video, run.recipe.image_to_video, "image_to_video")


def train_judge(run: Run) -> None:
    """The classifier of the judge, on frames of drawn clips."""
    torch.manual_seed(run.recipe.seed)
    lesson = RecogniserLesson()
    trainer = run.trainer(lesson, run.recipe.judge, "judge", lr=2e-3, ema=0.998)
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
    file = run.folder / "cases.npy"
    drawn = torch.from_numpy(np.load(file))
    cases = draw_cases(len(drawn))
    model = Recogniser.load(run.models / "storybook_judge.safetensors").to(run.device)
    judge = Judge(
        cases=cases,
        drawn=drawn,
        model=model,
        folder=run.folder,
        device=run.device,
        until=max(run.began + run.seconds - LAST_QUESTION, time.perf_counter() + LAST_QUESTION),
    )
    autoencoder = run.autoencoder().to(run.device)
    frames = to_network(drawn[:64, ::5].flatten(0, 1).to(run.device))
    ask_all(judge, run.models, psnr(autoencoder, frames), steps=run.recipe.steps)


STAGES: Mapping[str, Callable[[Run], None]] = {
    "autoencoder": train_autoencoder,
    "text_to_video": train_text_to_video,
    "reading": train_reading,
    "continuing": train_continuing,
    "image_to_video": train_image_to_video,
    "judge": train_judge,
    "questions": ask,
}
FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, OSError)
"""What may go wrong in one stage without ending the run."""


def run_stages(run: Run, names: list[str]) -> bool:
    """All stages that are not finished. One that fails is reported, and the others go on; returns whether all did."""
    run.folder.mkdir(parents=True, exist_ok=True)
    cases = run.folder / "cases.npy"
    drawing = None
    if not cases.exists():
        command = [sys.executable, "-m", "evaluation.storybook.cases", "--file", str(cases.resolve())]
        drawing = subprocess.Popen([*command, "--count", str(run.recipe.cases)], cwd=ROOT)
    good = True
    with run.painters:
        for name in names:
            if name in run.done and name != "questions":
                continue
            if name == "questions" and drawing is not None:
                drawing.wait()
            good &= _succeeds(run, name)
            plot(sorted(run.folder.glob("*.jsonl"))).save(run.folder / "losses.png")
    if drawing is not None and drawing.poll() is None:
        drawing.terminate()
    return good


def _succeeds(run: Run, name: str) -> bool:
    """Run one stage; returns False, and logs why, where it fails."""
    try:
        if run.encoder is None and name not in ("autoencoder", "questions"):
            open_gallery(run)
        STAGES[name](run)
        run.finish(name)
    except FAILURES:
        logger.exception("The stage %s failed", name)
        return False
    return True
