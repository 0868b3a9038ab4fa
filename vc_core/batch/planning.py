"""Rows -> tasks: one for each video, named and checked against its model before anything runs."""

from __future__ import annotations

import argparse
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..checkpoint import open_checkpoint
from ..errors import UserError
from ..job import check_output, checked, resolve_names
from ..machine import choose_device, choose_dtype
from ..video import format_of, safe_name
from .combining import combinations, of_command
from .lines import OUTPUT, PROMPT, key_of, parsed
from .manifest import OWN_FILES, Manifest
from .reading import Problem, Row

LETTERS = 40
"""Letters of the prompt in the name of a file."""
SUFFIX = 20
"""Letters of each value that varies."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """A video of a batch. values: as the line gives them, one for each option. options: the same, as the command line
    has them. file: the name of the video in the folder of results."""

    line: int
    values: Mapping[str, Any]
    varying: tuple[str, ...]
    options: argparse.Namespace
    key: str
    file: str = ""

    @property
    def label(self) -> str:
        """The line, and what tells its combinations from each other."""
        varied = ", ".join(f"{name} {self.values.get(name)}" for name in self.varying)
        return f"line {self.line}" + (f" ({varied})" if varied else "")

    def settled(self, folder: Path) -> argparse.Namespace:
        """A copy of the options with the names of the files that are meant."""
        options = copy(self.options)
        options.output = folder / self.file
        resolve_names(options)
        return options


Model = tuple[object, ...]


def model_of(options: argparse.Namespace) -> Model:
    """What must be equal for videos to share a loaded model."""
    return (
        tuple(map(str, options.model)),
        options.preset,
        tuple((str(file), share) for file, share in options.lora),
        options.device,
        options.dtype,
        options.compile,
        options.no_cuda_graphs,
    )


def by_model(tasks: Sequence[Task], folder: Path) -> list[list[Task]]:
    """The tasks that share a model, in the order in which the models and their tasks first occur."""
    groups: dict[Model, list[Task]] = {}
    for task in tasks:
        groups.setdefault(model_of(task.settled(folder)), []).append(task)
    return list(groups.values())


@dataclass(frozen=True)
class Plan:
    """The tasks of a batch in the order of their lines, and what is wrong with other lines.

    warnings: what will probably not turn out as wished.
    """

    tasks: Sequence[Task]
    problems: Sequence[Problem]
    warnings: Sequence[Problem] = ()


def plan(rows: Sequence[Row], problems: Sequence[Problem], manifest: Manifest, ending: str) -> Plan:
    """The tasks of the rows, each checked as far as that is possible without the weights. Tasks that are done are not
    checked again. ending: of the names of videos without an output."""
    found = list(problems)
    tasks = _distinct(list(_drafts(rows, found)), found)
    named = _named(tasks, manifest, ending, found)
    warnings: list[Problem] = []
    bad: set[str] = set()
    for group in by_model([task for task in named if not manifest.has(task.key)], manifest.folder):
        for task, message in _refused(group, manifest.folder, warnings):
            bad.add(task.key)
            found.append(Problem(task.line, message))
    unique = sorted(dict.fromkeys(found), key=lambda problem: problem.line)
    return Plan([task for task in named if task.key not in bad], unique, list(dict.fromkeys(warnings)))


def _drafts(rows: Sequence[Row], problems: list[Problem]) -> Iterator[Task]:
    for row in rows:
        try:
            made = combinations(row.values, of_command(row.values))
        except UserError as error:
            problems.append(Problem(row.line, str(error)))
            continue
        for each in made:
            try:
                options, key = parsed(each.values), key_of(each.values)
            except UserError as error:
                problems.append(Problem(row.line, str(error)))
                continue
            yield Task(line=row.line, values=each.values, varying=each.varying, options=options, key=key)


def _distinct(tasks: Sequence[Task], problems: list[Problem]) -> list[Task]:
    """The tasks without those that ask for the same as an earlier one."""
    first: dict[str, Task] = {}
    for task in tasks:
        known = first.setdefault(task.key, task)
        if known is not task:
            cure = "Leave it out, or give it another seed (seed 1-2 makes two videos of a line)."
            problems.append(Problem(task.line, f"This is the same video as that of {known.label}. {cure}"))
    return list(first.values())


def _named(tasks: Sequence[Task], manifest: Manifest, ending: str, problems: list[Problem]) -> list[Task]:
    """The tasks with the names of their files: those of the lines, those of the manifest, and new ones."""
    names = _given_names([task for task in tasks if OUTPUT in task.values], problems)
    used = {_folded(name) for name in (*names.values(), *manifest.files())}
    for task in tasks:
        if OUTPUT not in task.values:
            names[task.key] = manifest.file_of(task.key) or _new_name(task, ending, used, manifest.folder)
            used.add(_folded(names[task.key]))
    return [replace(task, file=names[task.key]) for task in tasks if task.key in names]


def _given_names(tasks: Sequence[Task], problems: list[Problem]) -> dict[str, str]:
    """The names of tasks whose lines have an output, by their keys."""
    names: dict[str, str] = {}
    taken: dict[str, Task] = {}
    for task in tasks:
        try:
            name = _given_name(task)
            _claim(name, task, taken)
        except UserError as error:
            problems.append(Problem(task.line, str(error)))
        else:
            names[task.key] = name
    return names


def _given_name(task: Task) -> str:
    """The name of a line's output, with what varies if the line makes several videos. Raises UserError for one outside
    of the folder of results."""
    given = PurePosixPath(task.options.output.as_posix())
    safe, message = safe_name(str(given))
    if message or _folded(safe.split("/")[0]) in OWN_FILES:
        raise UserError(
            f"The output {str(given)!r} is not a name inside of the folder of results, for example {safe!r}. Choose "
            "another one."
        )
    format_of(safe)
    name = PurePosixPath(safe)
    return str(name.with_name(name.stem + _suffix(task, task.varying) + name.suffix))


def _claim(name: str, task: Task, taken: dict[str, Task]) -> None:
    """Raises UserError for a name that another task has, or that is inside of another one's folder of images."""
    path = PurePosixPath(_folded(name))
    folders = [str(folder) for folder in path.parents]
    for place in (str(path), f"{path}/", *folders):
        if place in taken:
            raise UserError(f"The output {name!r} is that of {taken[place].label} as well. Choose another name.")
    taken |= {str(path): task, **{f"{folder}/": task for folder in folders}}


def _new_name(task: Task, ending: str, used: Collection[str], folder: Path) -> str:
    """The number of the line, the beginning of the prompt, and what varies."""
    words = _slug(str(task.values.get(PROMPT, "")), LETTERS)
    start = "-".join(filter(None, (f"{task.line:04d}", words)))
    start += _suffix(task, [name for name in task.varying if name != PROMPT])
    name, number = safe_name(start)[0], 2
    while _folded(name + ending) in used or (folder / (name + ending)).exists():
        name = f"{safe_name(start)[0]}-{number}"
        number += 1
    return name + ending


def _suffix(task: Task, varying: Sequence[str]) -> str:
    """What distinguishes the combinations of a line, for the names of their files."""
    parts = [(name, _shown(task.values.get(name))) for name in varying]
    return suffix_of(parts, task.key)


def suffix_of(parts: Sequence[tuple[str, str]], key: str) -> str:
    """Names and values in the name of a file, with the beginning of a key where they had to be changed."""
    suffix = "".join(f"-{name}-{_slug(text, SUFFIX)}" for name, text in parts)
    exact = all(_slug(text, SUFFIX) == text for _, text in parts)
    return suffix if exact and len(suffix) <= 4 * SUFFIX else f"{suffix[: 4 * SUFFIX]}-{key[:8]}"


def _shown(value: Any) -> str:
    """A value in the name of a file; the point of a number would look like the end of the name."""
    text = " ".join(map(str, value)) if isinstance(value, list) else str("default" if value is None else value)
    return text.replace(".", "_") if re.fullmatch(r"\d+\.\d+", text) else text


def _slug(text: str, letters: int) -> str:
    return re.sub(r"\W+", "-", text.lower())[:letters].strip("-")


def _folded(name: str) -> str:
    """The name as file systems compare it that ignore case."""
    return unicodedata.normalize("NFC", name).casefold()


def _refused(group: Sequence[Task], folder: Path, warnings: list[Problem]) -> Iterator[tuple[Task, str]]:
    """The tasks of one model that cannot be made, with the reason. The model's file is opened once."""
    first = group[0].settled(folder)
    try:
        opened = open_checkpoint(first.model, preset=first.preset)
        choose_dtype(first.dtype, choose_device(first.device))
    except UserError as error:
        yield from ((task, str(error)) for task in group)
        return
    for task in group:
        options = task.settled(folder)
        try:
            check_output(options)
            job = checked(options, opened)
        except (UserError, OSError) as error:
            yield task, str(error)
        else:
            warnings.extend(Problem(task.line, words) for words in job.warnings)
