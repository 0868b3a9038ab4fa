"""What a control is: a record of its parameters, of what it is for, and of how it acts on a run.

A control is written once, in a file of its own, and is a row of the table `control.CONTROLS`. Python, the command line,
the nodes and the documentation read everything about it from its record.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from os import PathLike
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ..features import Feature
from ..parameters import Parameter, about, parameter_of
from .attachment import Attachment, Encoders, Scene

FILE = "file"
"""The field of a control whose weights are in a file."""


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
        return tuple(parameter_of(item) for item in fields(cls) if item.name != FILE)

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
