"""A row -> its combinations: lists of values, and ranges of seeds."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..options import SEEDS
from .lines import PICTURE, SEED, Takes, command_of, option_of

MOST = 100_000
"""Videos of one line."""
SEED_NAMES = (SEED, "noise_seed")
"""The second is a widget of ComfyUI."""
RANGE = re.compile(r"\s*(\d{1,20})\s*(?:-|\.\.)\s*(\d{1,20})\s*")


@dataclass(frozen=True)
class Combination:
    """One value for each option, and which of them differ between the combinations of the line."""

    values: dict[str, Any]
    varying: tuple[str, ...]


def combinations(values: Mapping[str, Any], several: Callable[[str], bool]) -> list[Combination]:
    """All combinations of the values of a line, the last list varying fastest. several: whether an option of that name
    has several values in one video. Raises UserError for lists that mean nothing."""
    found = {name: _alternatives(name, value, several(name)) for name, value in values.items()}
    count = math.prod(len(each) for each in found.values())
    if count > MOST:
        raise UserError(f"This line asks for {count} videos, and {MOST} are allowed. Give shorter lists.")
    varying = tuple(name for name, each in found.items() if len(each) > 1)
    return [Combination(_chosen(found, each), varying) for each in itertools.product(*found.values())]


def _chosen(names: Iterable[str], values: Sequence[Any]) -> dict[str, Any]:
    """The values by their names; those that are left to their default are left out."""
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


def of_command(values: Mapping[str, Any]) -> Callable[[str], bool]:
    """Which options of the command that a line stands for have several values. It raises UserError for others."""
    pictures = values.get(PICTURE)
    command = command_of({PICTURE: pictures if pictures not in ([], [None]) else None})
    return lambda name: option_of(name, command).takes is Takes.SEVERAL


def _alternatives(name: str, value: Any, several: bool) -> Sequence[Any]:
    if isinstance(value, dict):
        raise UserError(f"{name} is {json.dumps(value)}; it should be a text, a number or a list.")
    if value == []:
        raise UserError(f"{name} is an empty list. Give its values, or leave it out.")
    if name.rpartition(".")[2] in SEED_NAMES:
        return _seeds(value)
    if not isinstance(value, list):
        return [value]
    return _of_several(name, value) if several else _of_one(name, value)


def _of_one(name: str, values: list[Any]) -> Sequence[Any]:
    """A list of an option with one value: each for a video of its own."""
    if any(isinstance(each, list) for each in values):
        raise UserError(f"{name} has one value in each video, so its list cannot contain lists.")
    return values


def _of_several(name: str, values: list[Any]) -> Sequence[Any]:
    """A list of an option with several values: those of one video, or a list for each of several."""
    nested = {isinstance(each, list) for each in values}
    if len(nested) > 1:
        raise UserError(f"{name} mixes values and lists. Give values for one video, or a list for each of several.")
    return values if nested == {True} else [values]


def _seeds(value: Any) -> Sequence[Any]:
    """Seeds of a number, of a text such as `1-4`, `1..4` or `1, 5, 10-12`, or of a list of these."""
    parts = [part for each in (value if isinstance(value, list) else [value]) for part in _parts(each)]
    spans = [_span(part) for part in parts]
    count = sum(_length(span) for span in spans)
    if count > MOST:
        raise UserError(f"seed asks for {count} videos, and {MOST} are allowed. Give a shorter range.")
    return [seed for span in spans for seed in (range(span[0], span[1] + 1) if isinstance(span, tuple) else [span])]


def _parts(value: Any) -> list[Any]:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else [value]


def _span(part: Any) -> Any:
    """First and last seed of a range; everything else as it is, for the parser."""
    match = RANGE.fullmatch(part) if isinstance(part, str) else None
    if match is None:
        return part
    first, last = int(match[1]), int(match[2])
    if not first <= last < SEEDS:
        raise UserError(f"The seeds {part} should run from a lower to a higher number below 2^64.")
    return (first, last)


def _length(span: Any) -> int:
    """How many seeds a part of the list has."""
    return span[1] - span[0] + 1 if isinstance(span, tuple) else 1
