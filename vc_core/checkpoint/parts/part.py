"""What a part of a checkpoint is to everything that reads, checks, builds, saves or reports one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

from torch import nn

from ...errors import UserError
from ...network.attention import Attention
from ...specs import ModelSpec
from .measuring import Fields, Shapes

Build = Callable[[Any, "ModuleType | Any", Attention], nn.Module]


@dataclass(frozen=True)
class Layout:
    """How a part is recognised in a file that has dropped its prefix.

    marker: the name of a tensor that such a file has.
    starts: how the names of the part's tensors begin.
    add: what our module has before these names.
    shape: the shape of the marker, where its name alone could be another part's; None is any size.
    """

    marker: str
    starts: tuple[str, ...]
    add: str = ""
    shape: tuple[int | None, ...] | None = None

    def recognises(self, shapes: Shapes) -> bool:
        """Whether a file with these tensors has the part in this layout."""
        if self.marker not in shapes or self.shape is None:
            return self.marker in shapes
        found = shapes[self.marker]
        return len(found) == len(self.shape) and all(
            want in (None, have) for want, have in zip(self.shape, found, strict=True)
        )


@dataclass(frozen=True)
class Base:
    """What the numbers of a part start from: a model's name and its spec of the part, None where it has none. `exact`
    says that the file must agree with every number."""

    model: str
    spec: Any
    exact: bool


UNET_PREFIX = "model.diffusion_model."
"""What the names of a UNet begin with in a published checkpoint."""


CHANGED = "changed."
"""What our names begin with of a UNet's own tensors that come with a part that is added to it."""


def always(spec: ModelSpec) -> bool:
    """For parts that every model needs."""
    del spec
    return True


def never(spec: ModelSpec) -> bool:
    """For parts that no model needs to make videos."""
    del spec
    return False


def changed_in(shapes: Shapes) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The names and shapes of a UNet's own tensors among those of a part that is added to it."""
    return tuple((name.removeprefix(CHANGED), shape) for name, shape in shapes.items() if name.startswith(CHANGED))


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One part of a checkpoint. Everything that is particular to it is in its record.

    name: its name, and the name of its spec in `ModelSpec` where models hold such a part.
    title: what it is called in messages.
    prefix: what its names begin with in a published checkpoint; empty for one that is published in a file of its own.
    layouts: how it is recognised in a file without the prefix.
    inside: of a part that is added to a UNet, the pattern of the names that lie under the UNet's prefix in a published
        checkpoint; the prefix itself is left out.
    beside: of such a part, what its other names begin with, which have no prefix.
    mark: of such a part that shares names with another, how a name begins that only its own files have.
    renamed: beginnings of names that some published files use, and ours.
    ignored: patterns of names, as in the file, that belong to it and that no video needs.
    measure: shapes by the names in our module -> the numbers they give; raises MissingTensorError.
    complete: a base and the measured numbers -> the part's spec; raises UserError where they contradict each other.
    kind: numbers that distinguish one published model from another; the others are sizes.
    divisors: pairs of numbers in its spec, of which the first divides the second.
    check: raises UserError for a spec that nothing can be built from.
    build: spec, layers, attention -> the network on `meta`; None for a part that is recognised, checked and converted,
        but not run.
    shapes: spec -> the names and shapes of its tensors, for a part without `build`.
    file: how the name of its file ends when a model is split.
    cut: what such a file leaves out of its names, as other programs expect; None keeps names and prefix as published.
    needed: whether a model needs the part to make videos.
    fits: raises UserError where the part does not fit the UNet of the model.
    """

    name: str
    title: str
    prefix: str
    layouts: tuple[Layout, ...]
    measure: Callable[[Shapes], Fields]
    complete: Callable[[Base, Fields], Any]
    file: str
    inside: re.Pattern[str] | None = None
    beside: tuple[str, ...] = ()
    mark: re.Pattern[str] | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    divisors: tuple[tuple[str, str], ...] = ()
    check: Callable[[Any], None] | None = None
    build: Build | None = None
    shapes: Callable[[Any], Shapes] | None = None
    cut: str | None = None
    needed: Callable[[ModelSpec], bool] = always
    fits: Callable[[ModelSpec], None] | None = None

    def added(self, name: str) -> str | None:
        """Our name of a tensor that this part adds to a UNet, by its name in a file; None for other parts' tensors."""
        bare = name.removeprefix(UNET_PREFIX)
        is_inside = self.inside is not None and self.inside.fullmatch(bare) is not None
        return bare if is_inside or (self.beside and name.startswith(self.beside)) else None

    def in_file(self, name: str) -> str:
        """The name in a published checkpoint of a tensor that our module calls `name`."""
        if name.startswith(CHANGED):
            return UNET_PREFIX + name.removeprefix(CHANGED)
        return (UNET_PREFIX if self.inside is not None and self.inside.fullmatch(name) else self.prefix) + name

    def published(self, name: str) -> str:
        """A name in the file, without the prefix, as our module has it."""
        for theirs, ours in self.renamed.items():
            if name.startswith(theirs):
                return ours + name.removeprefix(theirs)
        return name

    def of_kind(self, spec: Any, measured: Fields) -> bool:
        """Whether a spec of this part agrees with the measured numbers in everything but sizes."""
        return all(getattr(spec, name) == measured[name] for name in self.kind)


def merged(title: str, base: Base, measured: Fields) -> Any:
    """The base's spec with the measured numbers. Raises UserError where an exact base contradicts them."""
    if base.exact:
        wrong = [
            f"{name}: {getattr(base.spec, name)} in {base.model}, {value} in the file"
            for name, value in measured.items()
            if getattr(base.spec, name) != value
        ]
        if wrong:
            raise UserError(
                f"The {title} in this file is not that of {base.model} ({'; '.join(wrong)}). Choose the preset "
                "'auto', or the one that belongs to the file."
            )
    return replace(base.spec, **measured)
