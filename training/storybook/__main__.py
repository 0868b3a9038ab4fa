"""`python -m training.storybook`: train the storybook models within a number of minutes. A run that was stopped
continues where it was."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import torch

from .compiling import SHAPES
from .running import Recipe, Run
from .specs import STANDARD, TINY, Specs
from .stages import STAGES, run_stages

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
    options.add_argument(
        "--compile", action="store_true", help="try kernels and compiled blocks beside the run, for a GPU"
    )
    options.add_argument(
        "--began", type=float, help="when the run began, in seconds since 1970; for one that continues"
    )
    options.add_argument(
        "--earlier", type=Path, help="a folder of models whose autoencoder, image branch and judge are kept"
    )
    options.add_argument("--tiny", action="store_true", help="networks that learn next to nothing, to try the recipe")
    options.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="that draw clips")
    for name in SIZES:
        options.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Recipe, name))
    return options


def chosen(tiny: bool, earlier: Path | None) -> Specs:
    """The models of the run; the autoencoder of an earlier run is always of the standard size."""
    if not tiny or earlier is None:
        return TINY if tiny else STANDARD
    named = {item.name: getattr(TINY, item.name) for item in fields(TINY)}
    autoencoder = STANDARD.text_to_video.autoencoder
    return Specs(**{name: replace(spec, autoencoder=autoencoder) for name, spec in named.items()})


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.recompile_limit = SHAPES
    run = Run(
        folder=given.folder,
        models=given.models,
        device=given.device,
        seconds=60 * given.minutes,
        recipe=replace(Recipe(), **{name: getattr(given, name) for name in SIZES}),
        specs=chosen(given.tiny, given.earlier),
        graphs=not given.no_graphs,
        compiling=given.compile,
        began=time.perf_counter() - (time.time() - given.began if given.began else 0.0),
        earlier=given.earlier,
        processes=given.processes,
    )
    return 0 if run_stages(run, list(given.stages)) else 1


if __name__ == "__main__":
    sys.exit(main())
