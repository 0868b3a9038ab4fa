"""JSON from files and from users, which may hold anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

MOST_LEVELS = 100
"""Lists and objects inside of each other."""
MOST_DIGITS = 25
"""Of a whole number; a longer one becomes a float, as JavaScript reads all numbers."""


def parse(
    text: str | bytes,
    *,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
    constant: Callable[[str], Any] | None = None,
) -> Any:
    """The value of a JSON text. pairs, constant: `object_pairs_hook` and `parse_constant` of `json.loads`.

    Raises ValueError for what is not JSON, and for values that are nested more than `MOST_LEVELS` deep.
    """
    try:
        found = json.loads(text, parse_int=_whole, object_pairs_hook=pairs, parse_constant=constant)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    if _levels(found) > MOST_LEVELS:
        raise ValueError(TOO_DEEP)
    return found


TOO_DEEP = f"its lists and objects are nested more than {MOST_LEVELS} deep"


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= MOST_DIGITS else float(digits)


def _levels(found: Any) -> int:
    """How deep lists and objects are nested, counted no further than is allowed."""
    level, count = [found], 0
    while level and count <= MOST_LEVELS:
        below = [
            item
            for each in level
            if isinstance(each, list | dict)
            for item in (each.values() if isinstance(each, dict) else each)
        ]
        count += any(isinstance(each, list | dict) for each in level)
        level = below
    return count
