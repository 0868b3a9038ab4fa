"""The temporal transformers that StyleCrafter (arXiv:2312.00330) puts in the place of the UNet's, published as
`temporal_v1_1.pth`: for each, its name in the UNet and its tensors."""

from __future__ import annotations

from dataclasses import dataclass

from ...specs import ModelSpec
from .measuring import Fields, MissingTensorError, Shapes
from .part import Base, Layout, Part

FIRST = "init_attn.0."
NORM = "norm.weight"


@dataclass(frozen=True, kw_only=True)
class StyleTemporalSpec:
    """One temporal transformer after the other: their names in the UNet, and the shapes of their tensors."""

    tensors: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def transformers(self) -> tuple[str, ...]:
        """The names of the transformers."""
        return tuple(name.removesuffix(f".{NORM}") for name, _ in self.tensors if name.endswith(f".{NORM}"))


def measure(shapes: Shapes) -> Fields:
    """The fields of `StyleTemporalSpec`. Raises MissingTensorError where a transformer lacks a tensor that the first
    one has."""
    owners = [name.removesuffix(NORM) for name in shapes if name.endswith(f".{NORM}")]
    inside = [name.removeprefix(FIRST) for name in shapes if name.startswith(FIRST)]
    missing = [owner + name for owner in owners for name in inside if owner + name not in shapes]
    if missing:
        raise MissingTensorError(f"the tensor {missing[0]} is missing")
    return {"tensors": tuple((name, tuple(shape)) for name, shape in shapes.items())}


def complete(base: Base, measured: Fields) -> StyleTemporalSpec:
    """All of its numbers are measured."""
    del base
    return StyleTemporalSpec(**measured)


def shapes(spec: StyleTemporalSpec) -> Shapes:
    """The names and shapes of its tensors."""
    return dict(spec.tensors)


def needed(spec: ModelSpec) -> bool:
    """No model needs it to make videos."""
    del spec
    return False


STYLE_TEMPORAL = Part(
    name="style_temporal",
    title="temporal layers (StyleCrafter)",
    prefix="",
    layouts=(Layout(f"{FIRST}proj_in.weight", ("input_blocks.", "init_attn.", "middle_block.", "output_blocks.")),),
    measure=measure,
    complete=complete,
    shapes=shapes,
    file="temporal",
    cut="",
    needed=needed,
)
