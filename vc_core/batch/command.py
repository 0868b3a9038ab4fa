"""The command `batch`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import existing_folder, expanded, locked, remove_abandoned
from ..terminal import printable, say
from ..video import format_of
from .manifest import LOCK, PAGE, SHEET, Manifest
from .page import save_page
from .planning import Plan, Task, plan
from .reading import Problem, Row, name_of, read_rows
from .running import Runner
from .sheet import save_sheet

log = logging.getLogger(__name__)


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command. Those of the videos are in the lines of its file."""
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="a .jsonl or .csv file with a video in each line: prompt, picture, seed and every other option of "
        "text-to-video and image-to-video by its name",
    )
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="the folder of the results (default: the name of FILE without its ending); what is done there is not "
        "done again",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option for all lines that do not have it, for example model=model.ckpt; may be given several times",
    )
    parser.add_argument(
        "--ending", default=".mp4", help="the format of videos without an output, by its ending (default: %(default)s)"
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out lines that cannot be used, and go on")
    parser.add_argument("--check", action="store_true", help="only check all lines, and list the videos to be made")


def run_batch(options: argparse.Namespace) -> None:
    """Reads, checks, makes. Raises UserError, after all problems are reported, where lines cannot be used or made."""
    format_of(f"video{options.ending}")
    read = read_rows(options.file)
    rows = _with_defaults(read.rows, _defaults(options.set))
    folder = _folder(options)
    tasks = _planned(rows, read.problems, Manifest(folder), options).tasks
    if options.check:
        for task in tasks:
            say(f"{task.label}: {folder / task.file}")
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK, "Wait until it is done, or choose another folder (--output)."):
        _make(tasks, Manifest(folder), options)


def _folder(options: argparse.Namespace) -> Path:
    """The folder of the results. Raises UserError where it cannot be one."""
    given = options.file.with_suffix("").name if options.output is None else options.output
    folder = expanded(given).absolute()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{str(given)!r} is a file. Choose a folder for the results (--output).")
    above = existing_folder(folder / LOCK)
    if not above.is_dir():
        raise UserError(f"{str(given)!r} cannot be a folder. Choose another one for the results (--output).")
    return folder


def _defaults(given: Sequence[str]) -> dict[str, Any]:
    """The options for all lines; several values of one name are a list."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--set {text!r} should be NAME=VALUE, for example --set steps=25.")
        key = name_of(name)
        if key in found:
            found[key] = [*(found[key] if isinstance(found[key], list) else [found[key]]), value]
        else:
            found[key] = value
    return found


def _with_defaults(rows: Sequence[Row], defaults: dict[str, Any]) -> list[Row]:
    return [Row(row.line, {**defaults, **row.values}) for row in rows]


def _planned(rows: Sequence[Row], problems: Sequence[Problem], manifest: Manifest, options: argparse.Namespace) -> Plan:
    """The plan, with its problems reported. Raises UserError if there are any, unless bad lines are left out."""
    planned = plan(rows, problems, manifest, options.ending)
    for warning in planned.warnings:
        log.warning("%s, line %d: %s", options.file, warning.line, warning.message)
    for problem in planned.problems:
        sys.stderr.write(printable(f"{options.file}, line {problem.line}: {' '.join(problem.message.split())}\n"))
    bad = len({problem.line for problem in planned.problems})
    if bad and not (options.skip_bad and planned.tasks):
        cure = "Correct them, or leave them out (--skip-bad)." if planned.tasks else "Correct them."
        raise UserError(f"{_lines(bad)} of {options.file} cannot be used, and no video was made. {cure}")
    return planned


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"


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
        _finish(manifest, keys, options.file.name)
    say(f"{manifest.folder / PAGE}: {len(manifest.ordered(keys)) - len(runner.failed)} videos")
    if runner.failed:
        raise UserError(
            f"{len(runner.failed)} of {len(left)} videos could not be made ({', '.join(runner.failed[:5])}"
            f"{', ...' if len(runner.failed) > 5 else ''}). The same command tries them again."
        )


def _finish(manifest: Manifest, keys: Sequence[str], title: str) -> None:
    """Writes the manifest in the order of the lines, the contact sheet and the page."""
    manifest.compact(keys)
    entries = manifest.ordered(keys)
    sheet = save_sheet(manifest.folder / SHEET, manifest.folder, entries)
    save_page(manifest.folder / PAGE, title, entries, sheet=sheet)
