"""What values a number in a spec may have, kept with the field itself.

A field without bounds is a number above 0. `checkpoint.plausible` reads the bounds of specs that come with a file.
"""

from __future__ import annotations

from dataclasses import Field, field
from typing import Any

ZERO, MOST = "may_be_zero", "most"


def bounded(default: Any, *, zero: bool = False, most: float | None = None) -> Any:
    """A dataclass field with this default. `zero` allows 0, `most` is the largest value allowed."""
    return field(default=default, metadata={ZERO: zero, MOST: most})


def may_be_zero(item: Field[Any]) -> bool:
    """Whether 0 is a value of this field."""
    return bool(item.metadata.get(ZERO, False))


def largest(item: Field[Any], otherwise: float) -> float:
    """The largest value of this field; `otherwise` where it has no limit of its own."""
    most: float | None = item.metadata.get(MOST)
    return otherwise if most is None else most
