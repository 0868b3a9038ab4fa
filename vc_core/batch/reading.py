"""FILE -> rows: JSON Lines, or CSV as spreadsheets save it. What the values mean is not looked at here."""

from __future__ import annotations

import codecs
import csv
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import expanded
from ..json_text import parse

log = logging.getLogger(__name__)

JSON_LINES = (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv", ".txt")
SEPARATORS = ",;\t"
COMMENT = "#"
LIMIT = 2**24
"""Characters of a cell; more would be a quotation mark that is never closed."""


@dataclass(frozen=True)
class Row:
    """The values of a line by the names of their options. line: its number in the file, from 1."""

    line: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """What is wrong with a line."""

    line: int
    message: str


@dataclass(frozen=True)
class Read:
    """The rows of a file, and the lines that are not rows."""

    rows: Sequence[Row]
    problems: Sequence[Problem]


def read_rows(path: Path) -> Read:
    """The rows of a file, without blank lines and comments. Raises UserError where the file as a whole cannot be
    used."""
    file = expanded(path)
    suffix = file.suffix.lower()
    if suffix not in JSON_LINES + TABLES:
        raise UserError(
            f"{str(path)!r} does not end in {', '.join(JSON_LINES + TABLES)}. Give a file with one JSON object in each "
            "line, or a table saved as CSV."
        )
    try:
        data = file.read_bytes()
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise UserError(f"{str(path)!r} cannot be read ({what}). Check the name and the folder.") from error
    text = _text(data, path, table=suffix in TABLES)
    read = _read_json(text) if suffix in JSON_LINES else _read_table(text, "\t" if suffix == ".tsv" else "")
    if not read.rows and not read.problems:
        raise UserError(f"{str(path)!r} has no lines. Give one line for each video, see docs/batches.md.")
    return read


def name_of(name: str) -> str:
    """The name of an option as columns and keys may write it: `end-picture`, `--end-picture`, `End_Picture`."""
    return name.strip().removeprefix("--").lower().replace("-", "_").replace(" ", "_")


def _text(data: bytes, path: Path, *, table: bool) -> str:
    """UTF-8, UTF-16 with a byte order mark, or for tables Windows-1252."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if not table:
            line = data.count(b"\n", 0, error.start) + 1
            raise UserError(f"Line {line} of {str(path)!r} is not UTF-8. Save the file as UTF-8.") from error
    log.warning("%s is not UTF-8; it is read as Windows-1252. Save it as 'CSV UTF-8' if letters look wrong.", path)
    return data.decode("cp1252", "replace")


def _read_json(text: str) -> Read:
    rows: list[Row] = []
    problems: list[Problem] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith((COMMENT, "//")):
            continue
        try:
            rows.append(Row(number, _object(line)))
        except UserError as error:
            problems.append(Problem(number, str(error)))
    return Read(rows, problems)


def _object(line: str) -> dict[str, Any]:
    try:
        found = parse(line, pairs=_pairs, constant=_no_constant)
    except json.JSONDecodeError as error:
        raise UserError(
            f"This is not JSON ({error.msg}, column {error.colno}). Write one object in each line."
        ) from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"This JSON cannot be read ({error}).") from error
    if not isinstance(found, dict):
        raise UserError('This is not a JSON object. Write one in each line, as in {"prompt": "a boat", "seed": 7}.')
    return found


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name_of(name) in found:
            raise UserError(f"{name!r} is given twice. Leave one out; several values are a list.")
        found[name_of(name)] = value
    return found


def _no_constant(name: str) -> Any:
    raise UserError(f"{name} is not a number that JSON has. Give a finite number.")


def _read_table(text: str, separator: str) -> Read:
    """The first line that is neither blank nor a comment names the columns. A name may be used for several."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    first = _first(lines)
    said = re.fullmatch(r'sep=([^"])\s*', lines[first], re.IGNORECASE)
    if said:  # by Excel
        separator, lines[first] = said[1], ""
        first = _first(lines)
    separator = separator or max(SEPARATORS, key=lines[first].count)
    try:
        header, *rest = list(_cells([line + "\n" for line in lines], separator)) or [(0, [])]
    except _UnreadableError as error:
        return Read((), [Problem(error.line, str(error))])
    names = list(map(name_of, header[1]))
    return _sorted([_row(line, names, row) for line, row in rest])


def _sorted(found: Sequence[Row | Problem]) -> Read:
    return Read([row for row in found if isinstance(row, Row)], [row for row in found if isinstance(row, Problem)])


def _first(lines: Sequence[str]) -> int:
    """The first line that is neither blank nor a comment, counted from 0; 0 if there is none."""
    return next((number for number, line in enumerate(lines) if _has_cells(line)), 0)


def _has_cells(line: str) -> bool:
    """Whether a line is neither blank nor a comment."""
    return bool(line.strip(" " + SEPARATORS)) and not line.startswith(COMMENT)


class _UnreadableError(UserError):
    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def _cells(lines: Sequence[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row that is neither blank nor a comment, with the number of its first line."""
    reader = csv.reader(lines, delimiter=separator, strict=True)
    before = csv.field_size_limit(LIMIT)
    first = 1
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells) and not cells[0].startswith(COMMENT):
                yield first, cells
            first = reader.line_num + 1
    except csv.Error as error:
        raise _UnreadableError(
            first,
            f"The row that begins here cannot be read ({error}). Is a quotation mark missing, or one not doubled?",
        ) from error
    finally:
        csv.field_size_limit(before)


def _row(line: int, names: Sequence[str], cells: Sequence[str]) -> Row | Problem:
    """A row by the names of its columns; empty cells are left out, several of one name are a list."""
    more = [cell for cell in cells[len(names) :] if cell]
    if more:
        return Problem(
            line,
            f"There are {len(cells)} cells, but {len(names)} columns. Put a text that contains the separator in "
            "quotation marks.",
        )
    values: dict[str, Any] = {}
    for name, cell in zip(names, cells, strict=False):
        if not cell:
            continue
        if not name:
            return Problem(line, f"{cell!r} is in a column without a name. Name it in the first line.")
        if name in values:
            known = values[name]
            values[name] = [*(known if isinstance(known, list) else [known]), cell]
        else:
            values[name] = cell
    return Row(line, values)
