"""What a control is: a record of its parameters, of what it is for, and of how it acts on a run.

A control is written once, in a file of its own, and is a row of the table `control.CONTROLS`. Python, the command line,
the nodes and the documentation read everything about it from its record.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum, auto
from os import PathLike
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ..errors import UserError
from ..features import Feature
from .attachment import Attachment, Encoders, Scene

FILE = "file"
"""The field of a control whose weights are in a file."""


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
    """One parameter of a control, as front ends show it. low, high: of a number. choices: the only values, for a
    choice. required: whether the control does nothing without it."""

    name: str
    default: Any
    help: str
    kind: Kind
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    required: bool = False

    def check(self, value: Any, control: str) -> None:
        """Raises UserError for a value out of range."""
        if self.kind is Kind.CHOICE and value not in self.choices:
            raise UserError(
                f"The {self.name} of {control} is {value!r}; it should be one of {', '.join(self.choices)}."
            )
        if self.kind in (Kind.NUMBER, Kind.INTEGER):
            low, high = self.low, self.high
            inside = math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high)
            if not inside:
                raise UserError(f"The {self.name} of {control} is {value:g}; it should be {self.range}.")

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


@dataclass(frozen=True, kw_only=True)
class Control(ABC):
    """A control of what a video shows. The fields are its parameters; the description is in attributes of the class.

    name: as users choose it, and as branches without it name it. title: as people read it, and without its spaces the
        end of its node's id. summary: what it does, in a line. use: what it is for. models: which models it works with.
    search: further words by which people look for it.
    part: the part of a checkpoint that holds its weights (a name in `checkpoint.parts.PARTS`), and `folder` the kind of
        folder that its file belongs in; None for a control without weights.
    encoders: what `encode` needs, "text" or "image".
    wants_step: whether its adapters read the number of the step, which some front ends have to look for.
    rounds_of_noise: whether it samples in rounds of its own for the first noise.
    node_title: the title of its node where ComfyUI has a node with the same title; else the same.
    timed: whether it can have a value for each frame; see `is_timed`.
    conflicts: the features, and the names of other controls, that it does not support, and why.
    needs: the features without which it has nothing to act on, and how to give them.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    use: ClassVar[str]
    models: ClassVar[str]
    search: ClassVar[tuple[str, ...]] = ()
    part: ClassVar[str | None] = None
    folder: ClassVar[str] = "checkpoints"
    encoders: ClassVar[tuple[Literal["text", "image"], ...]] = ()
    wants_step: ClassVar[bool] = False
    rounds_of_noise: ClassVar[bool] = False
    node_title: ClassVar[str] = ""
    timed: ClassVar[bool] = True
    conflicts: ClassVar[Mapping[Feature | str, str]] = {}
    needs: ClassVar[Mapping[Feature, str]] = {}

    def __post_init__(self) -> None:
        for item in self.parameters():
            item.check(getattr(self, item.name), self.title)

    @property
    def is_timed(self) -> bool:
        """Whether it has a value for each frame, with its present parameters."""
        return self.timed

    @classmethod
    def parameters(cls) -> tuple[Parameter, ...]:
        """The parameters, in the order in which they are shown. The file of the weights is none of them."""
        return tuple(_parameter(item) for item in fields(cls) if item.name != FILE)

    def check(self, scene: Scene) -> None:
        """Raises UserError where it cannot act on the scene, before work starts. What it does not support is checked by
        `control.table`; the scene has no conditionings yet."""

    def defaults(self) -> Mapping[str, Any]:
        """The fields of `SamplingDefaults` in which its authors run the model in another way."""
        return {}

    def encode(self, encoders: Encoders) -> Mapping[str, Tensor]:
        """What it takes from encoders, before the network is in memory; the scene has it as `encoded`."""
        del encoders
        return {}

    def replaced(self, weights: nn.Module | None) -> Mapping[str, Tensor]:
        """Tensors that take the place of the network's in a run, by their names in its state dict."""
        del weights
        return {}

    @abstractmethod
    def attach(self, scene: Scene, weights: nn.Module | None) -> Attachment:
        """What it adds to a run. weights: the network of its part, on the scene's device while this is called and while
        the run lasts; None for a control without weights. Raises UserError for weights of another model."""


@dataclass(frozen=True, kw_only=True)
class WeightedControl(Control):
    """A control with weights of its own.

    file: the file that holds them; empty for those in the model's own file.
    """

    part: ClassVar[str | None]

    file: str | PathLike[str] = field(default="", metadata=about("the file with its weights"))


def _parameter(item: Any) -> Parameter:
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
