"""A run of the training: its recipe, its folder and its share of time for each stage; and how it takes blocks that are
found to be faster."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.specs import ModelSpec

from .compiling import kernels_of
from .fitting import Plan, Trainer
from .forward import Blocks
from .gallery import ROOT, Gallery, Painters
from .lessons import VideoLesson
from .networks import ImageBranch, Network
from .saving import take_over
from .specs import STANDARD, Specs

logger = logging.getLogger(__name__)

ROOM = 2**33
"""Bytes that must be free in the system's folder in memory if drawn clips are to wait there."""
FAST = 0.8
"""Compiled blocks are taken where they need at most this share of the time."""
WORTH = 1.5
"""They must also save at least this multiple of the time that changing to them takes."""
LOSS_CHANGE = 0.03
"""The relative change of the loss above which they count as wrong after all."""
KERNEL_WAIT = 30.0
"""Seconds after the start until which the run waits for what is said of kernels."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Shares of the time, in proportion to those of the stages still to come, and sizes of batches."""

    autoencoder: float = 0.13
    stills: float = 0.335
    text_to_video: float = 0.385
    reading: float = 0.035
    continuing: float = 0.075
    image_to_video: float = 0.055
    camera: float = 0.04
    judge: float = 0.035
    questions: float = 0.075
    frames_at_once: int = 64
    clips_at_once: int = 64
    still_clips_at_once: int = 256
    stills_of_clip: int = 4
    images_at_once: int = 256
    clips: int = 100000
    """Clips that are drawn at the most."""
    first_clips: int = 512
    """Clips that must have arrived before the autoencoder's training begins."""
    encoded_first: int = 2000
    """Clips that are encoded before the video networks' training begins; the others follow during it."""
    judge_clips: int = 3000
    cases: int = 300
    steps: int = 20
    """Of the sampler, in the judge's questions."""
    watched: int = 50
    """Cases of the judge's questions during training."""
    watch_seconds: int = 45
    """Time between these questions."""
    seed: int = 0


SHARES = [item.name for item in fields(Recipe) if item.type == "float"]
"""The names of the stages."""


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
    compiling: bool = False
    """Whether a process beside this one tries kernels and compiled blocks, which are taken when they are right."""
    processes: int = 1
    earlier: Path | None = None
    """Models of an earlier run, whose autoencoder, image branch and judge are kept."""
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.gallery = Gallery(self.specs.text_to_video, self.device, most=self.recipe.clips)
        self.painters = Painters(self.drawings, processes=self.processes, seed=self.recipe.seed)
        self.encoder: Autoencoder | None = None
        self.blocks = Blocks()
        self.to_come: list[str] = SHARES.copy()
        self.done: set[str] = {path.stem for path in self.folder.glob("*.done")}
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.earlier is not None and not self.done:
            for name in take_over(self.earlier, self.folder, self.models):
                self.finish(name)

    @property
    def drawings(self) -> Path:
        """Where drawn clips wait: in memory where the system has a folder for that."""
        memory = Path("/dev/shm")  # noqa: S108 - the folder inside has the number of this process
        name = f"storybook_{os.getpid()}"
        roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM
        return memory / name if roomy else self.folder / name

    @cached_property
    def compiled(self) -> Blocks:
        """Compiled blocks; on a CPU the blocks as they are."""
        return Blocks.compiled() if self.device.startswith("cuda") else Blocks()

    def beside(self) -> subprocess.Popen[bytes]:
        """The process that tries kernels and compiled blocks."""
        names = ("still_clips_at_once", "stills_of_clip", "clips_at_once")
        sizes = [str(part) for name in names for part in (f"--{name.replace('_', '-')}", getattr(self.recipe, name))]
        module = "training.storybook.compiling"
        command = [sys.executable, "-m", module, "--folder", str(self.folder.resolve())]
        tiny = [] if self.specs == STANDARD else ["--tiny"]
        with (self.folder / "compiling.log").open("ab") as log:
            return subprocess.Popen(
                [*command, "--device", self.device, *tiny, *sizes], cwd=ROOT, stdout=log, stderr=log
            )

    def choose(self, process: subprocess.Popen[bytes]) -> None:
        """Take the kernels that are right, when that is known."""
        path, until = self.folder / "kernels.json", self.began + KERNEL_WAIT
        while not path.exists() and process.poll() is None and time.perf_counter() < until:
            time.sleep(0.1)
        self.blocks = kernels_of(self.folder)
        logger.info("kernels: %s", path.read_text(encoding="utf-8") if path.exists() else "none")

    def trainer(self, lesson: nn.Module, name: str, **numbers: Any) -> Trainer:
        """A trainer with its share of the time that is left."""
        share = getattr(self.recipe, name)
        others = sum(getattr(self.recipe, other) for other in self.to_come if other not in self.done | {name})
        left = self.seconds - (time.perf_counter() - self.began)
        seconds = max(1.0, left * share / (share + others))
        logger.info("%s has %.0f of %.0f s", name, seconds, left)
        plan = Plan(seconds=seconds, watch_seconds=self.recipe.watch_seconds, **numbers)
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

    def network(
        self, spec: ModelSpec, *, with_image: bool, hinted: bool = False, over_time: bool = True
    ) -> VideoLesson:
        """A fresh network in its lesson."""
        with torch.random.fork_rng():  # one may be made during training, whose batches must not repeat
            torch.manual_seed(self.recipe.seed)
            network = Network(spec, self.gallery.words.size, self.blocks, over_time=over_time)
            return VideoLesson(network, ImageBranch(spec) if with_image else None, hinted=hinted)

    def autoencoder(self) -> Autoencoder:
        """The trained autoencoder, with normal latents, in float32 on the CPU."""
        model = Autoencoder(self.specs.text_to_video.autoencoder).requires_grad_(False)
        model.load_state_dict(torch.load(self.folder / "normal_autoencoder.pt", weights_only=True, map_location="cpu"))
        model.fused.wanted = False  # kernels would have to be built first
        return model


class Switch:
    """What a stage does every few steps: takes in clips, and once the process beside it has found that compiled blocks
    are right and fast for this stage, computes with them. Where that fails, it goes on as before."""

    def __init__(self, run: Run, lesson: VideoLesson, trainer: Trainer) -> None:
        self.run, self.lesson, self.trainer = run, lesson, trainer
        self.open = run.compiling
        self.path = run.folder / f"compiled_{trainer.name}.json"

    def __call__(self) -> None:
        self.run.feed()
        if self.open and self.path.exists():
            self.open = False
            found = json.loads(self.path.read_text(encoding="utf-8"))
            saved = (1 - found["ratio"]) * (self.trainer.plan.seconds - self.trainer.seconds)
            good = found["right"] and found["ratio"] <= FAST and saved > WORTH * found["warm"]
            logger.info("compiled blocks for %s are %s: %s", self.trainer.name, "taken" if good else "left", found)
            if good:
                self._take()

    def _take(self) -> None:
        began = time.perf_counter()
        gradients, batch = self.trainer.gradients, self.trainer.last
        before = (self.lesson.network.blocks, list(self.lesson.simpler), gradients.graphs)
        with torch.no_grad():
            wanted = float(self.lesson(*batch))
        try:
            self.lesson.advance(self.run.compiled)
            gradients.again()
            loss = float(gradients(batch))
            if not abs(loss - wanted) <= LOSS_CHANGE * abs(wanted):
                raise ValueError(f"The loss is {loss} with compiled blocks and {wanted} without")
        except Exception:  # compilers and drivers raise errors of many types
            logger.exception("Compiled blocks failed; the run goes on without them")
            self.lesson.network.blocks, self.lesson.simpler, gradients.graphs = before
            gradients.again()
        logger.info("changing blocks took %.1f s", time.perf_counter() - began)
