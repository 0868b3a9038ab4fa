"""The command `batch`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from ..errors import UserError
from ..files import locked, remove_abandoned
from ..terminal import say
from ..video import format_of
from .given import add_file_options, counted, folder_of, report, rows_of
from .manifest import LOCK, PAGE, SHEET, Manifest
from .page import save_page
from .planning import Plan, Task, plan
from .reading import Problem, Row, read_rows
from .running import Runner
from .sheet import save_sheet

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
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK, "Wait until it is done, or choose another folder (--output)."):
        _make(tasks, Manifest(folder), options)


def _planned(rows: Sequence[Row], problems: Sequence[Problem], manifest: Manifest, options: argparse.Namespace) -> Plan:
    """The plan, with its problems reported. Raises UserError if there are any, unless bad lines are left out."""
    planned = plan(rows, problems, manifest, options.ending)
    for warning in planned.warnings:
        log.warning("%s, line %d: %s", options.file, warning.line, warning.message)
    report(options.file, planned.problems, usable=len(planned.tasks), skip_bad=options.skip_bad)
    return planned


def _make(tasks: Sequence[Task], manifest: Manifest, options: argparse.Namespace) -> None:
    """Makes the videos that are not there, and the page of all. Raises UserError if some could not be made."""
    keys = [task.key for task in tasks]
    left = [task for task in tasks if not manifest.has(task.key)]
    for folder in {(manifest.folder / task.file).parent for task in tasks} | {manifest.folder}:
        if folder.is_dir():
            remove_abandoned(folder)
    manifest.compact(keys)
    if len(left) < len(keys):
        say(f"{len(keys) - len(left)} of {len(keys)} videos are done already.")
    runner = Runner(manifest, options.quiet, len(left))
    try:
        runner.run(left)
    finally:
        finish(manifest, keys, options.file.name)
    say(f"{manifest.folder / PAGE}: {counted(len(manifest.ordered(keys)) - len(runner.failed), 'video')}")
    if runner.failed:
        raise UserError(
            f"{len(runner.failed)} of {len(left)} videos could not be made ({', '.join(runner.failed[:5])}"
            f"{', ...' if len(runner.failed) > 5 else ''}). The same command tries them again."
        )


def finish(manifest: Manifest, keys: Sequence[str], title: str) -> None:
    """Writes the manifest in the order of the lines, the contact sheet and the page."""
    manifest.compact(keys)
    entries = manifest.ordered(keys)
    sheet = save_sheet(manifest.folder / SHEET, manifest.folder, entries)
    save_page(manifest.folder / PAGE, title, entries, sheet=sheet)
