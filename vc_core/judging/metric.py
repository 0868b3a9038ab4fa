"""What a metric is: a record of what it measures, of its range and its needs, and of how it is computed.

A metric is written once, in a file of its own, and is a row of the table `judging.METRICS`. Python, the command line,
the node, the documentation and the JSON read everything about it from its record.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from ..parameters import Parameter, parameter_of
from .moment import Frame, Moment

Better = Literal["higher", "lower", "near 1", "neither"]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What is known at the end of a video. frames: their number."""

    first: Frame
    last: Frame
    frames: int


@dataclass(frozen=True, kw_only=True)
class Metric(ABC):
    """A figure of a video. The fields are its parameters; the description is in attributes of the class.

    name: as users and JSON name it. help: what it measures, in a sentence. low, high: its range; no high for none.
    unit: of the figure, "" for none. better: which values are better.
    reads: how many consecutive frames `at` reads, 1 to 3.
    needs: the parameters without which it cannot be measured.
    vbench: how it compares with the figure of VBench (arXiv:2311.17982), "" where that has none.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    low: ClassVar[float] = 0.0
    high: ClassVar[float | None] = 1.0
    unit: ClassVar[str] = ""
    better: ClassVar[Better]
    reads: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ()
    vbench: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for item in self.parameters():
            if isinstance(item.default, float | int):
                item.check(getattr(self, item.name), self.name)

    @classmethod
    def parameters(cls) -> tuple[Parameter, ...]:
        """The parameters, in the order in which they are shown."""
        return tuple(parameter_of(item) for item in fields(cls))

    @classmethod
    def range(cls) -> str:
        """The range of the figure in words."""
        return f"{cls.low:g} or more" if cls.high is None else f"{cls.low:g} to {cls.high:g}"

    @property
    def fewest(self) -> int:
        """Frames that a video needs."""
        return self.reads

    def missing(self) -> str:
        """What it needs and does not have, as users name it; "" where it can be measured."""
        absent = [name for name in self.needs if not getattr(self, name)]
        return f"needs {' and '.join(absent)}" if absent else ""

    @abstractmethod
    def at(self, moment: Moment) -> float | None:
        """The figure at a moment with `reads` frames at least; None where there is none."""

    def total(self, values: Sequence[float], clip: Clip) -> float:
        """The figure of the video, of those at its moments, of which there is at least one."""
        del clip
        return sum(values) / len(values)
