"""The camera layers of CamI2V (arXiv:2410.15957) and of its authors' CameraCtrl (arXiv:2404.02101)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import nn

from ...network.adapters.camera_features import CAMERACTRL, CAMI2V, EPIPOLAR, CameraNetwork
from ...network.attention import Attention
from .measuring import Fields, MissingTensorError, Shapes, count, size
from .part import Base, Part, changed_in, never

ENCODER = "pose_encoder."
ENCODER_BLOCKS = f"{ENCODER}encoder_down_conv_blocks."
TABLE = f"{ENCODER}encoder_down_attention_blocks.0.0.attention_blocks.0.pos_encoder.pe"


@dataclass(frozen=True, kw_only=True)
class CameraLayersSpec:
    """blocks: the names and widths of the temporal transformer blocks with a camera. registers: the tokens that every
    query of the epipolar attentions sees; None for CameraCtrl, which has no such attentions. levels: the channels of
    the pose encoder at each level of the UNet. units: of each level. frames: the most frames that it takes.
    changed: names and shapes of the UNet's own tensors that come with it."""

    blocks: tuple[tuple[str, int], ...]
    registers: int | None
    levels: tuple[int, ...]
    units: int = 2
    frames: int = 16
    changed: tuple[tuple[str, tuple[int, ...]], ...] = ()


def measure(shapes: Shapes) -> Fields:
    """The fields of `CameraLayersSpec`."""
    epipolar = any(EPIPOLAR in name for name in shapes)
    blocks = _blocks(shapes, f"{CAMI2V if epipolar else CAMERACTRL}.weight")
    return {
        "blocks": blocks,
        "registers": size(shapes, f"{blocks[0][0]}{EPIPOLAR}.register_tokens", 1) if epipolar else None,
        "levels": _levels(shapes),
        "units": count(shapes, rf"{re.escape(ENCODER_BLOCKS)}0\.(\d+)\."),
        "frames": size(shapes, TABLE, 1),
        "changed": changed_in(shapes),
    }


def _blocks(shapes: Shapes, end: str) -> tuple[tuple[str, int], ...]:
    """The names and widths of the blocks with a square layer whose name has this end."""
    weights = [name for name in shapes if name.endswith(end)]
    wrong = [name for name in weights if size(shapes, name, 1) != size(shapes, name, 0)]
    if wrong:
        raise MissingTensorError(f"{wrong[0]} is {list(shapes[wrong[0]])}, should be square")
    if not weights:
        raise MissingTensorError("its layers are missing")
    return tuple((name.removesuffix(end), size(shapes, name, 0)) for name in weights)


def _levels(shapes: Shapes) -> tuple[int, ...]:
    """The channels of the pose encoder's levels."""
    number = count(shapes, rf"{re.escape(ENCODER_BLOCKS)}(\d+)\.")
    return tuple(size(shapes, f"{ENCODER_BLOCKS}{level}.0.block1.weight", 0) for level in range(number))


def complete(base: Base, measured: Fields) -> CameraLayersSpec:
    """All of its numbers are measured."""
    del base
    return CameraLayersSpec(**measured)


def build(spec: CameraLayersSpec, operations: ModuleType | Any, attention: Attention) -> nn.Module:
    """The network on `meta`."""
    encoder = {"channels": spec.levels, "units": spec.units, "frames": spec.frames}
    return CameraNetwork(
        dict(spec.blocks),
        encoder,
        spec.registers,
        dict(spec.changed),
        operations=operations,
        attention=attention,
        device="meta",
    )


CAMERA_LAYERS = Part(
    name="cami2v",
    title="camera layers (CamI2V, CameraCtrl)",
    prefix="",
    layouts=(),
    inside=re.compile(r".*\.(cc_projection|pluker_projection|epipolar\.epipolar_attn)\..*"),
    beside=(ENCODER,),
    mark=re.compile(r"pose_encoder\."),
    ignored=(r"depth_predictor\.",),
    measure=measure,
    complete=complete,
    build=build,
    file="camera",
    needed=never,
)
