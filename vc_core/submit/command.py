"""The command `submit`."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..batch.combining import combinations
from ..batch.given import add_file_options, folder_of, report, rows_of
from ..batch.manifest import Manifest
from ..batch.planning import suffix_of
from ..batch.reading import Problem, Row, read_rows
from ..batch.results import make_missing
from ..errors import UserError
from .filling import Workflow, load_workflow
from .following import Follower, Line, name_of_line
from .server import Server

WORKFLOW = "workflow"


def add_submit_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_file_options(
        parser,
        "a .jsonl or .csv file with a run in each line: a workflow in the API format, and values of its widgets, named "
        "by the title or class of the node, as in Prompt.text or VideoCrafterKSampler.steps",
        '"workflow=workflows/api/01 Start here - text to video, no download.json"',
    )
    parser.add_argument("--server", default="http://127.0.0.1:8188", metavar="URL", help="(default: %(default)s)")
    parser.add_argument(
        "--patience",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="how long a server that does not answer is waited for, as while it restarts (default: %(default)s)",
    )


def run_submit(options: argparse.Namespace) -> None:
    """Reads, checks, posts, fetches. Raises UserError, after all problems are reported, where lines cannot be used or
    made."""
    server, read, folder = Server(options.server, options.patience), read_rows(options.file), folder_of(options)
    planner = _Planner(server.nodes(), list(read.problems))
    lines = [line for row in rows_of(read, options.set) for line in planner.lines(row)]
    problems = sorted(dict.fromkeys(planner.problems), key=lambda problem: problem.line)
    report(options.file, problems, usable=len(lines), skip_bad=options.skip_bad)
    make_missing(folder, lines, partial(_make, server, options.quiet), options.file.name)


def _make(server: Server, quiet: bool, manifest: Manifest, lines: Sequence[Line]) -> Sequence[str]:
    follower = Follower(server, manifest, quiet)
    follower.run(lines)
    return follower.failed


@dataclass
class _Planner:
    """Makes lines of rows, each checked against the nodes of the server."""

    nodes: Mapping[str, Any]
    problems: list[Problem]
    workflows: dict[str, Workflow] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)

    def lines(self, row: Row) -> Iterator[Line]:
        """The lines of a row; what is wrong with it is added to the problems."""
        try:
            found = combinations(row.values, lambda _: False)
        except UserError as error:
            self.problems.append(Problem(row.line, str(error)))
            return
        for each in found:
            try:
                yield self._line(row.line, each.values, each.varying)
            except (UserError, OSError) as error:
                self.problems.append(Problem(row.line, str(error)))

    def _line(self, number: int, values: Mapping[str, Any], varying: tuple[str, ...]) -> Line:
        if not values.get(WORKFLOW):
            raise UserError("There is no workflow. Name one in the line, or for all lines (--set workflow=FILE).")
        file = str(values[WORKFLOW])
        if file not in self.workflows:
            self.workflows[file] = load_workflow(Path(file), self.nodes)
        given = {name: value for name, value in values.items() if name != WORKFLOW}
        filled = self.workflows[file].fill(given)
        key = hashlib.sha256(json.dumps(filled.prompt, sort_keys=True).encode()).hexdigest()[:16]
        if key in self.known:
            raise UserError(
                f"This is the same run as that of line {self.known[key]}. Leave it out, or change the seed."
            )
        self.known[key] = number
        parts = [(name.rpartition(".")[2], str(values.get(name, "default"))) for name in varying]
        name = name_of_line(number, suffix_of(parts, key))
        return Line(number, key, values, Path(file).name, filled, name)
