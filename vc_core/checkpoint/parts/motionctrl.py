"""MotionCtrl's added layers (arXiv:2312.03641): those for camera poses, and perhaps the encoder of trajectories."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import nn

from ...network.adapters.motionctrl import CELL, POSE, PROJECTION, MotionCtrlNetwork
from ...network.attention import Attention
from .measuring import Fields, MissingTensorError, Shapes, count, size
from .part import Base, Part, changed_in, never

TRAJECTORIES = "omcm."


@dataclass(frozen=True, kw_only=True)
class MotionCtrlSpec:
    """blocks: the names and widths of the temporal transformer blocks that read camera poses. levels: the channels of
    the trajectory encoder at each level of the UNet, () where the file has none. units: of each level. changed:
    names and shapes of the UNet's own tensors that come with it."""

    blocks: tuple[tuple[str, int], ...]
    levels: tuple[int, ...] = ()
    units: int = 2
    changed: tuple[tuple[str, tuple[int, ...]], ...] = ()


def measure(shapes: Shapes) -> Fields:
    """The fields of `MotionCtrlSpec`."""
    weights = [name for name in shapes if name.endswith(f"{PROJECTION}.weight")]
    blocks = tuple((name.removesuffix(f"{PROJECTION}.weight"), size(shapes, name, 0)) for name in weights)
    wrong = [name for name in weights if size(shapes, name, 1) != size(shapes, name, 0) + POSE]
    if wrong or not blocks:
        raise MissingTensorError(
            f"the layers for camera poses should read {POSE} numbers beside the tokens"
            + (f", but {wrong[0]} is {list(shapes[wrong[0]])}" if wrong else ", and there are none")
        )
    return {"blocks": blocks, "changed": changed_in(shapes), **_trajectories(shapes)}


def _trajectories(shapes: Shapes) -> Fields:
    """The fields of the trajectory encoder, where there is one."""
    first = f"{TRAJECTORIES}conv_in.weight"
    if first not in shapes:
        return {}
    if size(shapes, first, 1) != 2 * CELL**2:
        raise MissingTensorError(f"the trajectory encoder should read {2 * CELL**2} channels")
    number = count(shapes, r"omcm\.body\.(\d+)\.")
    # The first unit that changes the channels opens the second level.
    changes = [unit for unit in range(number) if f"{TRAJECTORIES}body.{unit}.in_conv.weight" in shapes]
    units = changes[0] if changes else MotionCtrlSpec.units
    levels = [size(shapes, f"{TRAJECTORIES}body.{unit}.block2.weight", 0) for unit in range(0, number, units)]
    return {"levels": tuple(levels), "units": units}


def complete(base: Base, measured: Fields) -> MotionCtrlSpec:
    """All of its numbers are measured."""
    del base
    return MotionCtrlSpec(**measured)


def build(spec: MotionCtrlSpec, operations: ModuleType | Any, attention: Attention) -> nn.Module:
    """The network on `meta`."""
    del attention
    blocks, changed = dict(spec.blocks), dict(spec.changed)
    return MotionCtrlNetwork(blocks, spec.levels, spec.units, changed, operations=operations, device="meta")


MOTIONCTRL = Part(
    name="motionctrl",
    title="camera and trajectory layers (MotionCtrl)",
    prefix="",
    layouts=(),
    inside=re.compile(r".*\.cc_projection\.(weight|bias)"),
    beside=(TRAJECTORIES,),
    measure=measure,
    complete=complete,
    build=build,
    file="motionctrl",
    cut="",
    needed=never,
)
