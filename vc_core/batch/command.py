"""The command `batch`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import partial

from ..terminal import say
from ..video import format_of
from .given import add_file_options, folder_of, report, rows_of
from .manifest import Manifest
from .planning import Plan, Task, plan
from .reading import Problem, Row, read_rows
from .results import make_missing
from .running import Runner

log = logging.getLogger(__name__)


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command. Those of the videos are in the lines of its file."""
    add_file_options(
        parser,
        "a .jsonl or .csv file with a video in each line: prompt, picture, seed and every option of text-to-video and "
        "image-to-video by its name",
        "model=model.ckpt",
    )
    parser.add_argument(
        "--ending", default=".mp4", help="the format of videos without an output, by its ending (default: %(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="only check all lines, and list the videos to be made")


def run_batch(options: argparse.Namespace) -> None:
    """Reads, checks, makes. Raises UserError, after all problems are reported, where lines cannot be used or made."""
    format_of(f"video{options.ending}")
    read = read_rows(options.file)
    rows = rows_of(read, options.set)
    folder = folder_of(options)
    tasks = _planned(rows, read.problems, Manifest(folder), options).tasks
    if options.check:
        for task in tasks:
            say(f"{task.label}: {folder / task.file}")
        return
    make_missing(folder, tasks, partial(_make, options.quiet), options.file.name)


def _make(quiet: bool, manifest: Manifest, tasks: Sequence[Task]) -> Sequence[str]:
    runner = Runner(manifest, quiet, len(tasks))
    runner.run(tasks)
    return runner.failed


def _planned(rows: Sequence[Row], problems: Sequence[Problem], manifest: Manifest, options: argparse.Namespace) -> Plan:
    """The plan, with its problems reported. Raises UserError if there are any, unless bad lines are left out."""
    planned = plan(rows, problems, manifest, options.ending)
    for warning in planned.warnings:
        log.warning("%s, line %d: %s", options.file, warning.line, warning.message)
    report(options.file, planned.problems, usable=len(planned.tasks), skip_bad=options.skip_bad)
    return planned
