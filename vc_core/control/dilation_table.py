"""Dilation factors of the convolutions of a UNet as a table: the published ones by size, and those that users write."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from ..errors import UserError
from ..network.adapters.dilation import Convolution, Dilation, convolutions
from ..specs import UNetSpec

MOST = 8.0
"""The largest factor."""
MOST_SKIPPED = 99
WHERE = re.compile(r"(?:(level|down|up|downsample|skip)\s+(\d+)|(middle))\s*:\s*(\d+(?:\.\d+)?)")
SYNTAX = "level 1: 2, down 2: 3, downsample 2: 4, up 0: 2, middle: 4"


@dataclass(frozen=True)
class Entry:
    """A row of a table.

    where: "down", the convolutions of the encoder at a level, "up" those of the decoder, "level" both, "downsample" the
    layer that leads from a level to the next coarser one, "middle", or "skip", all but those of the `level` outermost
    blocks of the encoder and of the decoder. level: from 0, the size of the latents; not read for the middle.
    """

    where: str
    level: int
    factor: float

    def meets(self, convolution: Convolution) -> bool:
        """Whether this row is about a convolution."""
        if self.where == "skip":
            return convolution.block >= self.level
        if self.where == "middle":
            return convolution.stage == "middle"
        if convolution.level != self.level or convolution.stage == "middle" or convolution.kind == "first":
            return False
        if self.where == "downsample":
            return convolution.kind == "op"
        return self.where in ("level", convolution.stage)


Table = tuple[Entry, ...]
"""Later rows go before earlier ones."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The published settings for a size.

    table: the factors. share: of the steps, from the first one on. course: of the factors over these steps, a name in
    `COURSES`. damped: whether the guidance is damped in them.
    """

    table: Table = ()
    share: float = 0.0
    course: str = "constant"
    damped: bool = False


def uniform(factor: float) -> Table:
    """One factor at all levels but the finest."""
    return (*(Entry("level", level, factor) for level in (1, 2, 3)), Entry("middle", 0, factor))


WIDE: Table = (Entry("level", 1, 2), Entry("level", 2, 3), Entry("level", 3, 4), Entry("middle", 0, 4))
"""For twice the height and four times the width."""
LARGE: Table = (
    Entry("down", 2, 3),
    Entry("downsample", 2, 4),
    Entry("level", 3, 4),
    Entry("middle", 0, 4),
    Entry("up", 2, 4),
    Entry("up", 1, 3),
    Entry("up", 0, 2),
)
"""For four times both sides."""
FULL = 4
"""The ratio that these two are for."""
LEAST_SHARE, MOST_SHARE = 0.4, 0.74
"""20 of 50 steps at twice the trained size, 37 at four times; 30 at 2.5 times lie on a line with the first."""


def plan_for(ratios: Sequence[float]) -> Plan:
    """The plan for the ratios of height and width to the trained ones: the published one, and in between what follows
    from its neighbors. Nothing where no side is larger than in training."""
    small, large = min(ratios), max(ratios)
    if large <= 1:
        return Plan()
    share = min(MOST_SHARE, LEAST_SHARE * max(1.0, large - 1))
    if large < 3:
        return Plan(table=uniform(large), share=share)
    table = LARGE if small >= 3 else WIDE
    table = tuple(replace(entry, factor=max(1.0, entry.factor * large / FULL)) for entry in table)
    return Plan(table=table, share=MOST_SHARE, course="progressive", damped=small >= 3)


def weaker(table: Table) -> Table:
    """The table of the damped guidance's base: without the finest level of the decoder, as published."""
    return tuple(entry for entry in table if not (entry.level == 0 and entry.where in ("up", "level")))


def table_of(text: str, title: str, levels: int) -> Table:
    """The table in a text, rows separated by commas or lines. levels: of the network. Raises UserError for anything
    else, and for levels and factors out of range."""
    rows = [row.strip() for row in re.split(r"[,;\n]", text) if row.strip()]
    found = []
    for row in rows:
        match = WHERE.fullmatch(row.lower())
        if match is None:
            raise UserError(f"The factors of {title} have {row!r}; write rows such as {SYNTAX}.")
        where, level, middle, factor = match.groups()
        entry = Entry(where or middle, int(level or 0), float(factor))
        last = {"downsample": levels - 2, "skip": MOST_SKIPPED}.get(entry.where, levels - 1)
        if entry.level > last:
            raise UserError(
                f"The factors of {title} have {row!r}, but {entry.where} can have the levels 0 to {last} in this "
                "model. Choose one of them."
            )
        if not 1 <= entry.factor <= MOST:
            raise UserError(f"The factors of {title} have {entry.factor:g}; each should be 1 to {MOST:g}.")
        found.append(entry)
    return tuple(found)


def factors_of(table: Table, spec: UNetSpec) -> dict[str, float]:
    """The factor of each convolution of a network that has one, by its published name."""
    found: dict[str, float] = {}
    for name, convolution in convolutions(spec).items():
        for entry in table:
            if entry.meets(convolution):
                found[name] = entry.factor
    return found


def constant(factor: float, step: int, steps: int) -> float:
    """The same factor in all of the dilated steps."""
    return factor


def progressive(factor: float, step: int, steps: int) -> float:
    """Whole factors that fall in a straight line to 2."""
    return float(max(math.ceil(factor * (steps - step) / steps), 2))


def in_stages(factor: float, step: int, steps: int) -> float:
    """Whole factors down to 2, each for equally many steps; the first for one step less."""
    stages = max(1, math.ceil(factor) - 1)
    stage = min((step + 1) // math.ceil(steps / stages), stages - 1)
    return float(math.ceil(factor) - stage)


COURSES: dict[str, Callable[[float, int, int], float]] = {
    "constant": constant,
    "progressive": progressive,
    "stages": in_stages,
}
"""(factor above 1, step from 0, number of dilated steps) -> the factor of the step"""


def dilations(
    factors: Mapping[str, float],
    steps: int,
    *,
    course: str = "constant",
    dispersed_steps: int = 0,
    owner: str = "",
    instead: bool = False,
) -> list[Dilation]:
    """The adapters that dilate convolutions in the first `steps` steps: one for each row of steps with the same
    factors, so that each is recorded as a graph of its own. factors: by published names. dispersed_steps: in how many
    of the first steps those with the largest factor have dispersed kernels. owner, instead: as `Dilation` has them."""
    dilated = {name: factor for name, factor in factors.items() if factor != 1}
    most = frozenset(name for name, factor in dilated.items() if factor == max(dilated.values()))
    moments = [
        ({name: COURSES[course](factor, step, steps) for name, factor in dilated.items()}, step < dispersed_steps)
        for step in range(steps if dilated else 0)
    ]
    found, first = [], 0
    for (now, dispersed), alike in groupby(moments):
        last = first + len(list(alike))
        kernels = most if dispersed else frozenset()
        found.append(Dilation(now, dispersed=kernels, first=first, steps=last, owner=owner, instead=instead))
        first = last
    return found
