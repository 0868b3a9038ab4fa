"""`python -m training`: trains the small models from scratch. An interrupted run resumes where it stopped."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from vc_core import bundled

from . import sums
from .stages import STAGES, Recipe, Run

ROOT = Path(__file__).resolve().parent.parent


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    options.add_argument("--folder", type=Path, default=Path("training_run"), help="checkpoints, logs and samples")
    options.add_argument("--models", type=Path, default=ROOT / "models", help="folder for the finished files")
    options.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    options.add_argument("--scale", type=float, default=1.0, help="factor on the minutes of every stage")
    options.add_argument("--clips", type=int, default=Recipe.clips, help="number of clips to encode for training")
    options.add_argument(
        "--frames", type=int, default=Recipe.frames, help="number of single frames to encode for training"
    )
    options.add_argument(
        "--paths", type=int, default=Recipe.paths, help="trajectories of the teacher of the few-step LoRA"
    )
    options.add_argument(
        "--shots", type=int, default=Recipe.shots, help="clips with camera moves to encode for training"
    )
    options.add_argument(
        "--camera-batch", type=int, default=Recipe.camera_batch, help="clips in a step of the camera layers' training"
    )
    options.add_argument(
        "--samples", type=int, default=Recipe.samples, help="clips sampled for each evaluation during training"
    )
    options.add_argument("--compile", action="store_true", help="use torch.compile: slow to start, then faster")
    options.add_argument(
        "--processes", type=int, default=1, help="processes that share the work of each batch, on a CPU"
    )
    options.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    options.add_argument("--device", default="cpu")
    options.add_argument("--seed", type=int, default=0)
    return options


def work(number: int, options: argparse.Namespace) -> None:
    """Runs the stages in one of the processes."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    if options.processes > 1:
        rendezvous = (options.folder / "rendezvous").resolve()
        dist.init_process_group("gloo", init_method=rendezvous.as_uri(), rank=number, world_size=options.processes)
    run = Run(
        folder=options.folder,
        models=options.models,
        recipe=Recipe(
            scale=options.scale,
            clips=options.clips,
            frames=options.frames,
            paths=options.paths,
            shots=options.shots,
            camera_batch=options.camera_batch,
            samples=options.samples,
            seed=options.seed,
        ),
        device=options.device,
        compiled=options.compile,
    )
    for stage in options.stages:
        STAGES[stage](run)
        if dist.is_initialized():
            dist.barrier()


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parser().parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "rendezvous").unlink(missing_ok=True)
    if options.processes > 1:
        multiprocessing.spawn(work, args=(options,), nprocs=options.processes)
    else:
        work(0, options)
    if options.models.resolve() == bundled.FOLDER:
        sums.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
