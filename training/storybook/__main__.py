"""`python -m training.storybook`: train the storybook models within a number of minutes. A run that was stopped
continues where it was."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from dataclasses import fields, replace
from pathlib import Path

import torch

from .specs import STANDARD, TINY
from .stages import STAGES, Recipe, Run, run_stages

SIZES = [item.name for item in fields(Recipe) if item.type == "int"]


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(prog="python -m training.storybook", description=__doc__)
    options.add_argument("--folder", type=Path, default=Path("storybook_run"), help="checkpoints, logs and sheets")
    options.add_argument("--models", type=Path, default=Path("storybook_run/models"), help="where models go")
    options.add_argument("--minutes", type=float, default=10.5, help="of the whole run, the judge's questions included")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    options.add_argument("--no-graphs", action="store_true", help="run each step one launch at a time on a GPU")
    options.add_argument("--tiny", action="store_true", help="networks that learn next to nothing, to try the recipe")
    options.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="that draw clips")
    for name in SIZES:
        options.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Recipe, name))
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    torch.set_float32_matmul_precision("high")
    run = Run(
        folder=given.folder,
        models=given.models,
        device=given.device,
        seconds=60 * given.minutes,
        recipe=replace(Recipe(), **{name: getattr(given, name) for name in SIZES}),
        specs=TINY if given.tiny else STANDARD,
        graphs=not given.no_graphs,
        processes=given.processes,
    )
    return 0 if run_stages(run, list(given.stages)) else 1


if __name__ == "__main__":
    sys.exit(main())
