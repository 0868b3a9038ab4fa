"""`python -m training`: train the small models from nothing. A run that was stopped goes on where it was."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from .stages import STAGES, Recipe, Run

ROOT = Path(__file__).resolve().parent.parent


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    options.add_argument("--folder", type=Path, default=Path("training_run"), help="checkpoints, logs and samples")
    options.add_argument("--models", type=Path, default=ROOT / "models", help="where the finished files go")
    options.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    options.add_argument("--scale", type=float, default=1.0, help="multiplies the minutes of every stage")
    options.add_argument("--clips", type=int, default=Recipe.clips, help="clips encoded to train on")
    options.add_argument("--frames", type=int, default=Recipe.frames, help="single frames encoded to train on")
    options.add_argument("--paths", type=int, default=Recipe.paths, help="ways of the teacher of the few-step LoRA")
    options.add_argument("--samples", type=int, default=Recipe.samples, help="clips made at each look at the networks")
    options.add_argument("--compile", action="store_true", help="torch.compile: slow to start, then quicker")
    options.add_argument("--processes", type=int, default=1, help="processes that share each batch's work, on a CPU")
    options.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    options.add_argument("--device", default="cpu")
    options.add_argument("--seed", type=int, default=0)
    return options


def work(number: int, options: argparse.Namespace) -> None:
    """The stages, as one of the processes."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    if options.processes > 1:
        meeting = (options.folder / "meeting").resolve()
        dist.init_process_group("gloo", init_method=meeting.as_uri(), rank=number, world_size=options.processes)
    run = Run(
        folder=options.folder,
        models=options.models,
        recipe=Recipe(
            scale=options.scale,
            clips=options.clips,
            frames=options.frames,
            paths=options.paths,
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
    """Run the command; returns its exit status."""
    options = parser().parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "meeting").unlink(missing_ok=True)
    if options.processes > 1:
        multiprocessing.spawn(work, args=(options,), nprocs=options.processes)
    else:
        work(0, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
