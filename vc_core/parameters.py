"""Parameters that a record declares as dataclass fields: their help, kinds, ranges and choices.

Controls and metrics have them; the command line, the nodes and the documentation read them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass
from enum import Enum, auto
from typing import Any

from .errors import UserError


class Kind(Enum):
    """What the value of a parameter is. On the command line, images, masks, videos and documents are named files."""

    NUMBER = auto()  # float
    INTEGER = auto()  # int
    SWITCH = auto()  # bool
    CHOICE = auto()  # str, one of the choices
    FILE = auto()  # str, the path of a file of further weights; empty for none
    TEXT = auto()  # str of one line
    DOCUMENT = auto()  # str of many lines; on the command line the text itself, or a file that holds it
    TRACKS = auto()  # as DOCUMENT: points over time, see `control.tracks`
    BOXES = auto()  # as DOCUMENT: boxes over time
    IMAGES = auto()  # a tuple of Tensors h w 3 in 0..1; () for none
    MASK = auto()  # Tensor n h w in 0..1, one mask for all frames or one for each; None for none
    VIDEO = auto()  # Tensor f h w 3 in 0..1; None for none


WRITTEN = (Kind.TEXT, Kind.DOCUMENT, Kind.TRACKS, Kind.BOXES)
"""The kinds whose values are text."""
PICTURED = (Kind.IMAGES, Kind.MASK, Kind.VIDEO)
"""The kinds whose values are tensors, and have no default."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter, as front ends show it. low, high: of a number. choices: the only values, for a choice. required:
    whether nothing is done without it."""

    name: str
    default: Any
    help: str
    kind: Kind
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    required: bool = False

    def check(self, value: Any, owner: str) -> None:
        """Raises UserError for a value out of range. owner: whose parameter it is."""
        if self.kind is Kind.CHOICE and value not in self.choices:
            raise UserError(f"The {self.name} of {owner} is {value!r}; it should be one of {', '.join(self.choices)}.")
        if self.kind in (Kind.NUMBER, Kind.INTEGER):
            low, high = self.low, self.high
            inside = math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high)
            if not inside:
                raise UserError(f"The {self.name} of {owner} is {value:g}; it should be {self.range}.")

    @property
    def range(self) -> str:
        """The range of a number in words."""
        if self.low is None or self.high is None:
            ends = (
                f"{self.low:g} or more" if self.low is not None else "",
                f"{self.high:g} or less" if self.high else "",
            )
            return next((end for end in ends if end), "a finite number")
        return f"{self.low:g} to {self.high:g}"


def about(
    text: str,
    *,
    kind: Kind | None = None,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
    required: bool = False,
) -> dict[str, Any]:
    """The metadata of a field that users set: what it means, its kind, and its range or its choices. Without a kind it
    is that of the default: a number, an integer, a switch, a choice where there are choices, or a line of text."""
    return {"help": text, "kind": kind, "low": low, "high": high, "choices": tuple(choices), "required": required}


def parameter_of(item: Field[Any]) -> Parameter:
    """The parameter of a dataclass field."""
    about = dict(item.metadata)
    default = None if item.default is MISSING else item.default
    kind = about.pop("kind") or _kind_of(default, about["choices"])
    return Parameter(name=item.name, default=default, kind=kind, **about)


def _kind_of(default: Any, choices: Sequence[str]) -> Kind:
    if choices:
        return Kind.CHOICE
    if default == ():
        return Kind.IMAGES
    kinds = {bool: Kind.SWITCH, int: Kind.INTEGER, float: Kind.NUMBER, str: Kind.TEXT}
    return kinds[type(default)]
