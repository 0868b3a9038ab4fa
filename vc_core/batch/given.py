"""The file, the folder and the defaults that the commands of a batch are given."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import check_target, expanded
from ..terminal import one_line, printable
from .manifest import LOCK
from .reading import Problem, Read, Row, name_of


def add_file_options(parser: argparse.ArgumentParser, about: str, example: str) -> None:
    """The file, the folder of the results, defaults for all lines, and what to do about bad ones. about: the lines of
    the file. example: a default."""
    parser.add_argument("file", type=Path, metavar="FILE", help=about)
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
        help=f"a value for all lines that do not have it, for example {example}; may be given several times",
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out lines that cannot be used, and go on")


def folder_of(options: argparse.Namespace) -> Path:
    """The folder of the results. Raises UserError where it cannot be one."""
    given = options.file.with_suffix("").name if options.output is None else options.output
    folder = expanded(given).absolute()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{str(given)!r} is a file. Choose a folder for the results (--output).")
    check_target(folder / LOCK, overwrite=True)
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


def rows_of(read: Read, given: Sequence[str]) -> list[Row]:
    """The rows of a file with the values for all lines, each given as NAME=VALUE."""
    defaults = _defaults(given)
    return [Row(row.line, {**defaults, **row.values}) for row in read.rows]


def report(file: Path, problems: Sequence[Problem], *, usable: int, skip_bad: bool) -> None:
    """Writes all problems to stderr. Raises UserError if there are any, unless they are skipped and something is left.
    usable: the videos of other lines."""
    for problem in problems:
        sys.stderr.write(printable(f"{file}, line {problem.line}: ") + one_line(problem.message) + "\n")
    bad = len({problem.line for problem in problems})
    if bad and not (skip_bad and usable):
        cure = "Correct them, or leave them out (--skip-bad)." if usable else "Correct them."
        raise UserError(f"{counted(bad, 'line')} of {file} cannot be used, and no video was made. {cure}")


def counted(count: int, noun: str) -> str:
    """A number of things."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
