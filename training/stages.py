"""The training stages in order. Each writes a checkpoint to the run's folder and is skipped once it is finished."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from vc_core.autoencoder.autoencoder import Autoencoder

from . import autoencoder as pixels
from .camera import FILE as CAMERA_FILE
from .camera import CameraNetwork, finished
from .camera_layers import save_layers
from .continuing import CONTINUING, ContinuingObjective, wider
from .diffusion import DiffusionObjective
from .few_steps import ConsistencyObjective, Guide, Paths, Student, save_lora
from .files import save_both, save_network
from .image_branch import ReadingExercise
from .motion import FIRST, LATER, MotionLesson, look_along_time
from .network import (
    IMAGE_TO_VIDEO,
    TEXT_TO_VIDEO,
    Network,
    PictureNetwork,
    part,
    seeded,
    seeded_with_pictures,
    take_over,
)
from .pool import Pool, make_camera_pool, make_pool
from .probe import VideoProbe
from .reading import ReadingLesson
from .trainer import Plan, Trainer, rank

logger = logging.getLogger(__name__)

CROP_SHARE = 0.8
"""Share of the autoencoder's training that uses crops."""
FULL_WEIGHT = 500.0
"""Above any actual weight: in these stages, errors of the content have the same weight at every noise level."""

CAMERA_UNTIL = 100
"""The lowest timestep that camera layers are trained on: what the camera does is decided early."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Minutes of each stage on one core (all multiplied by `scale`), and the sizes of pools."""

    autoencoder: float = 17.0
    stills: float = 18.0
    videos: float = 30.0
    words: float = 1.0
    order: float = 3.0
    motion: float = 8.0
    reader: float = 9.0
    pictures: float = 65.0
    continuing: float = 40.0
    few_steps: float = 30.0
    camera: float = 40.0
    scale: float = 1.0
    clips: int = 12288
    frames: int = 32000
    paths: int = 320
    """Number of the teacher's trajectories on which the few-step LoRA is trained."""
    shots: int = 4096
    """Number of clips with camera moves to encode for training."""
    camera_batch: int = 8
    """Clips in a step of the camera layers' training; a GPU is no slower with 64."""
    samples: int = 16
    """Number of clips of each kind sampled for an evaluation during training."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Run:
    """Folders, recipe and device of a run; `models` is the folder for the finished files."""

    folder: Path
    models: Path
    recipe: Recipe = Recipe()
    device: str = "cpu"
    compiled: bool = False
    """Whether the UNet is compiled with torch.compile: it takes minutes to start, then steps are about a fifth
    faster."""

    def plan(self, minutes: float, **numbers: Any) -> Plan:
        """The plan of a stage with the given minutes."""
        return Plan(minutes=minutes * self.recipe.scale, **numbers)

    def trainer(self, module: nn.Module, plan: Plan, name: str, start: Callable[[], None] | None = None) -> Trainer:
        """A trainer that resumes the stage, or starts it by calling `start`, which may load weights."""
        trainer = Trainer(module.to(self.device), plan, self.folder, name)
        if not trainer.resume() and start is not None:
            start()
            trainer.adopt()
        return trainer

    def compile(self, network: Network) -> None:
        """Compiles the UNet in place if `compiled` is set; parameter names are unchanged."""
        if self.compiled:
            network.unet.compile(dynamic=False)

    def weights(self, name: str) -> Mapping[str, Tensor]:
        """The averaged weights of a finished stage."""
        path = self.folder / f"{name}.pt"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: run the stage {name!r} first")
        weights: Mapping[str, Tensor] = torch.load(path, weights_only=True, map_location=self.device)["averaged"]
        return weights


def train_autoencoder(run: Run) -> None:
    """Trains the autoencoder to reconstruct frames: first crops, then whole frames."""
    with torch.random.fork_rng():
        torch.manual_seed(run.recipe.seed)
        model = Autoencoder(TEXT_TO_VIDEO.autoencoder)
    plan = run.plan(run.recipe.autoencoder, lr=2e-3, ema=0.997, warmup=50, weight_decay=0.0, probe_minutes=2)
    trainer = run.trainer(model, plan, "autoencoder")
    crops = pixels.AutoencoderObjective(model, batch=32, seed=run.recipe.seed, crop=True)
    whole = pixels.AutoencoderObjective(model, batch=12, seed=run.recipe.seed, crop=False)

    def objective(step: int) -> Tensor:
        return crops(step) if trainer.progress < CROP_SHARE else whole(step)

    trainer.run(objective, samples_per_step=32, probe=pixels.probe)


def finished_autoencoder(run: Run) -> Autoencoder:
    """The trained autoencoder with normalised latents."""
    model = Autoencoder(TEXT_TO_VIDEO.autoencoder).to(run.device).requires_grad_(False)
    model.load_state_dict(dict(run.weights("autoencoder")))
    pixels.normalise(model, pixels.random_frames(512, np.random.default_rng(7)).to(run.device))
    return model


def make_pools(run: Run) -> None:
    """Encodes clips, and single frames of many more scenes."""
    if rank() > 0:
        return
    model = finished_autoencoder(run)
    for name, count, single in (("frames", run.recipe.frames, True), ("clips", run.recipe.clips, False)):
        path = run.folder / f"{name}.pool"
        if not path.exists():
            make_pool(model, count, run.recipe.seed, single=single, chunk=128 if single else 8).save(path)
            logger.info("%s has %d scenes", path, count)


def train_stills(run: Run) -> None:
    """Trains text encoder and spatial layers on single frames, the cheapest data for learning colours and shapes."""
    network = seeded(TEXT_TO_VIDEO, run.recipe.seed, still=True)
    run.compile(network)
    trainer = run.trainer(network, run.plan(run.recipe.stills, lr=2e-3, ema=0.998, warmup=100), "stills")
    pool = Pool.load(run.folder / "frames.pool")
    trainer.run(DiffusionObjective(network, pool, batch=64, seed=run.recipe.seed), samples_per_step=64)


def train_reader(run: Run) -> None:
    """Pretrains the image branch."""
    with torch.random.fork_rng():
        torch.manual_seed(run.recipe.seed)
        pool = Pool.load(run.folder / "frames.pool")
        exercise = ReadingExercise(IMAGE_TO_VIDEO, pool, batch=64, seed=run.recipe.seed)
    trainer = run.trainer(exercise, run.plan(run.recipe.reader, lr=1.5e-3, ema=0.998), "reader")
    trainer.run(exercise, samples_per_step=64)


def train_videos(run: Run) -> None:
    """Trains the text-to-video network on clips, starting from the weights of the single-frame stage."""
    network = seeded(TEXT_TO_VIDEO, run.recipe.seed)
    run.compile(network)
    plan = run.plan(run.recipe.videos, lr=1e-3, final=0.9, ema=0.998, warmup=100)
    trainer = run.trainer(network, plan, "videos", lambda: take_over(network, run.weights("stills")))
    objective = DiffusionObjective(network, Pool.load(run.folder / "clips.pool"), batch=8, seed=run.recipe.seed + 2)
    trainer.run(objective, samples_per_step=8)


def train_words(run: Run) -> None:
    """Trains the text encoder to distinguish motions."""
    network = seeded(TEXT_TO_VIDEO, run.recipe.seed).to(run.device)
    take_over(network, run.weights("videos"))
    lesson = ReadingLesson(network, batch=64, seed=run.recipe.seed + 4)
    plan = run.plan(run.recipe.words, lr=2e-3, ema=0.99, warmup=30, weight_decay=0.0)
    run.trainer(lesson, plan, "words").run(lesson, samples_per_step=64)


def train_order(run: Run) -> None:
    """Trains the temporal layers with the auxiliary losses, at nearly pure noise, which contains little else."""
    network = seeded(TEXT_TO_VIDEO, run.recipe.seed)
    look_along_time(network)
    pool = Pool.load(run.folder / "clips.pool")
    objective = DiffusionObjective(
        network, pool, batch=8, seed=run.recipe.seed + 5, lowest=750, most_weight=FULL_WEIGHT, moving=True
    )
    lesson = MotionLesson(objective, FIRST)

    def start() -> None:
        take_over(network, run.weights("videos"))
        network.text.load_state_dict(part(run.weights("words"), "text."))

    trainer = run.trainer(lesson, run.plan(run.recipe.order, lr=2e-3, final=0.5, ema=0.99, warmup=60), "order", start)
    trainer.run(lesson, samples_per_step=8)


def train_motion(run: Run) -> None:
    """Trains the whole network on moving clips, where the loss on the noise now benefits from what was learned
    before."""
    network = seeded(TEXT_TO_VIDEO, run.recipe.seed)
    pool = Pool.load(run.folder / "clips.pool")
    objective = DiffusionObjective(
        network, pool, batch=8, seed=run.recipe.seed + 6, lowest=500, most_weight=FULL_WEIGHT, moving=True
    )
    lesson = MotionLesson(objective, LATER)
    run.compile(network)
    plan = run.plan(run.recipe.motion, lr=1e-3, final=0.5, warmup=60, ema=0.998)
    trainer = run.trainer(lesson, plan, "motion", lambda: lesson.load_state_dict(dict(run.weights("order"))))
    trainer.run(lesson, samples_per_step=8)


def train_pictures(run: Run) -> None:
    """Trains both video networks at once, from the text-to-video network and the pretrained image branch, which is
    frozen: until the network uses its tokens, its gradients would be only noise."""
    network = seeded_with_pictures(IMAGE_TO_VIDEO, run.recipe.seed)
    network.branch.requires_grad_(False)
    pool = Pool.load(run.folder / "clips.pool")
    lesson = MotionLesson(DiffusionObjective(network, pool, batch=8, seed=run.recipe.seed + 3), LATER)
    run.compile(network.network)

    def start() -> None:
        trained = run.weights("motion")
        take_over(network.network, part(trained, "network."))
        lesson.hints.load_state_dict(part(trained, "hints."))
        network.branch.load_state_dict(part(run.weights("reader"), "branch."))

    plan = run.plan(run.recipe.pictures, lr=1e-3, final=0.01, ema=0.998, warmup=60, probe_minutes=14)
    trainer = run.trainer(lesson, plan, "pictures", start)
    probe = VideoProbe(finished_autoencoder(run), run.folder, run.recipe.samples)
    trainer.run(lesson, samples_per_step=8, probe=lambda _, step: probe(network, step))


def train_continuing(run: Run) -> None:
    """Trains the small DynamiCrafter from the image-to-video network, with a frozen image encoder."""
    network = seeded_with_pictures(CONTINUING, run.recipe.seed)
    network.branch.encoder.requires_grad_(False)
    run.compile(network.network)

    def start() -> None:
        network.load_state_dict(wider(part(run.weights("pictures"), "network.")))

    plan = run.plan(run.recipe.continuing, lr=7e-4, final=0.02, ema=0.998, warmup=100)
    trainer = run.trainer(network, plan, "continuing", start)
    objective = ContinuingObjective(network, Pool.load(run.folder / "clips.pool"), batch=8, seed=run.recipe.seed + 4)
    trainer.run(objective, samples_per_step=8)


def teacher(run: Run) -> Network:
    """The final text-to-video network, frozen."""
    network = Network(TEXT_TO_VIDEO).requires_grad_(False)
    trained = part(run.weights("pictures"), "network.network.")
    network.load_state_dict({key: trained[key] for key in network.state_dict()})
    return network


def make_paths(run: Run) -> None:
    """Computes the trajectories of the text-to-video network on which the few-step LoRA is trained."""
    path = run.folder / "teacher.paths"
    if rank() > 0 or path.exists():
        return
    guide, rng = Guide(teacher(run)), np.random.default_rng([run.recipe.seed, 8])
    counts = [min(8, run.recipe.paths - done) for done in range(0, run.recipe.paths, 8)]
    Paths.join([guide.paths(count, rng) for count in counts]).save(path)


def train_few_steps(run: Run) -> None:
    """Trains a LoRA on the frozen text-to-video network."""
    network = teacher(run).to(run.device)
    with torch.random.fork_rng():
        torch.manual_seed(run.recipe.seed)
        student = Student(network)
    plan = run.plan(run.recipe.few_steps, lr=2e-3, final=0.05, ema=0.995, warmup=50, weight_decay=0.0)
    trainer = run.trainer(student, plan, "few_steps")
    paths = Paths.load(run.folder / "teacher.paths")
    objective = ConsistencyObjective(student, Guide(network), paths, batch=8, seed=run.recipe.seed + 5)
    trainer.run(objective, samples_per_step=8)


def export(run: Run) -> None:
    """Writes the model files."""
    if rank() > 0:
        return
    autoencoder = finished_autoencoder(run)
    network, continuing = PictureNetwork(IMAGE_TO_VIDEO), PictureNetwork(CONTINUING)
    network.load_state_dict(part(run.weights("pictures"), "network."))
    continuing.load_state_dict(dict(run.weights("continuing")))
    student = Student(teacher(run))
    student.load_state_dict(dict(run.weights("few_steps")))
    paths = [*save_both(run.models, autoencoder, network), save_network(run.models, autoencoder, continuing)]
    for path in (*paths, save_lora(run.models, student.tensors())):
        logger.info("%s: %.1f MB", path, path.stat().st_size / 1e6)


def train_camera(run: Run) -> None:
    """Trains camera layers for the finished text-to-video model, and writes their file."""
    network, autoencoder = finished(run.models / f"{TEXT_TO_VIDEO.name}.safetensors", run.device)
    path = run.folder / "camera.pool"
    if rank() == 0 and not path.exists():
        make_camera_pool(autoencoder, run.recipe.shots, run.recipe.seed).save(path)
    if dist.is_initialized():
        dist.barrier()
    camera, size = CameraNetwork(network), run.recipe.camera_batch
    plan = run.plan(run.recipe.camera, lr=4e-3, final=0.02, ema=0.99, warmup=50, weight_decay=0.0)
    trainer = run.trainer(camera, plan, "camera")
    objective = DiffusionObjective(
        camera, Pool.load(path), batch=size, seed=run.recipe.seed + 7, lowest=CAMERA_UNTIL, most_weight=FULL_WEIGHT
    )
    trainer.run(objective, samples_per_step=size)
    if rank() == 0:
        camera.load_state_dict(trainer.averaged)
        save_layers(run.models / CAMERA_FILE, camera.layers.tensors())


STAGES: dict[str, Callable[[Run], None]] = {
    "autoencoder": train_autoencoder,
    "pools": make_pools,
    "stills": train_stills,
    "videos": train_videos,
    "words": train_words,
    "order": train_order,
    "motion": train_motion,
    "reader": train_reader,
    "pictures": train_pictures,
    "continuing": train_continuing,
    "paths": make_paths,
    "few_steps": train_few_steps,
    "export": export,
    "camera": train_camera,
}
