"""ToonCrafter's sketch encoder (arXiv:2405.17933): a ControlNet of images, published as `sketch_encoder.ckpt`."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import nn

from ...network.adapters.sketch import SketchEncoder
from ...network.attention import Attention
from ...specs.sketch import SketchEncoderSpec
from .measuring import Fields, Shapes, count, levels, size
from .part import Base, Layout, Part, never

MIDDLE = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
HINTS = "input_hint_block."


def measure(shapes: Shapes) -> Fields:
    """The fields of `SketchEncoderSpec`."""
    model_channels = size(shapes, "time_embed.0.weight", 1)
    widths, blocks, attention = levels(shapes)
    convolutions = range(0, count(shapes, r"input_hint_block\.(\d+)\.") - 1, 2)
    return {
        "in_channels": size(shapes, "input_blocks.0.0.weight", 1),
        "hint_channels": size(shapes, f"{HINTS}0.weight", 1),
        "hint_widths": tuple(size(shapes, f"{HINTS}{index}.weight", 0) for index in convolutions),
        "model_channels": model_channels,
        "channel_mult": tuple(width // model_channels for width in widths),
        "num_res_blocks": blocks,
        "attention_levels": attention,
        "context_dim": size(shapes, MIDDLE, 1),
    }


def complete(base: Base, measured: Fields) -> SketchEncoderSpec:
    """All of its numbers are measured."""
    del base
    return SketchEncoderSpec(**measured)


def build(spec: SketchEncoderSpec, operations: ModuleType | Any, attention: Attention) -> nn.Module:
    """The network on `meta`."""
    return SketchEncoder(spec, operations=operations, attention=attention, device="meta")


SKETCH_ENCODER = Part(
    name="sketch_encoder",
    title="sketch encoder (ToonCrafter's ControlNet)",
    prefix="",
    layouts=(
        Layout(
            "input_hint_block.0.weight",
            ("time_embed.", "input_blocks.", HINTS, "zero_convs.", "middle_block.", "middle_block_out."),
            shape=(None, 1, 3, 3),
        ),
    ),
    measure=measure,
    complete=complete,
    build=build,
    file="sketch",
    cut="",
    needed=never,
)
