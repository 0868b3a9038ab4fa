"""ToonCrafter's sketch encoder (arXiv:2405.17933): a ControlNet of images, published as `sketch_encoder.ckpt`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from .measuring import Fields, Shapes, count, levels, size
from .part import Base, Layout, Part, never

MIDDLE = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
HINTS = "input_hint_block."


@dataclass(frozen=True, kw_only=True)
class SketchEncoderSpec:
    """The encoder half of a UNet of images, with one transformer block in each attention, and a stack of convolutions
    that reads the sketch.

    hint_channels: channels of a sketch; the published encoder reads one, where other ControlNets read three.
    hint_widths: channels after each convolution over the sketch but the last, which has those of the model.
    """

    in_channels: int = 4
    hint_channels: int = 1
    hint_widths: tuple[int, ...] = (16, 16, 32, 32, 96, 96, 256)
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = (0, 1, 2)
    context_dim: int = 1024


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


def shapes(spec: SketchEncoderSpec) -> Shapes:
    """The names and shapes of its tensors."""
    width, embedding = spec.model_channels, 4 * spec.model_channels
    out = _layer("time_embed.0.", embedding, width) | _layer("time_embed.2.", embedding, embedding)
    hints = (spec.hint_channels, *spec.hint_widths, width)
    for number, (before, after) in enumerate(pairwise(hints)):
        out |= _layer(f"{HINTS}{2 * number}.", after, before, 3, 3)
    out |= _layer("input_blocks.0.0.", width, spec.in_channels, 3, 3)
    ends = [width]  # the width at the end of each input block
    for level, factor in enumerate(spec.channel_mult):
        if level:
            out |= _layer(f"input_blocks.{len(ends)}.0.op.", ends[-1], ends[-1], 3, 3)
            ends.append(ends[-1])
        for _ in range(spec.num_res_blocks):
            place, after = f"input_blocks.{len(ends)}.", factor * width
            out |= _residual(f"{place}0.", ends[-1], after, embedding)
            if level in spec.attention_levels:
                out |= _transformer(f"{place}1.", after, spec.context_dim)
            ends.append(after)
    for number, channels in enumerate(ends):
        out |= _layer(f"zero_convs.{number}.0.", channels, channels, 1, 1)
    last = ends[-1]
    out |= _residual("middle_block.0.", last, last, embedding) | _residual("middle_block.2.", last, last, embedding)
    out |= _transformer("middle_block.1.", last, spec.context_dim)
    return out | _layer("middle_block_out.0.", last, last, 1, 1)


def _layer(prefix: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}weight": shape, f"{prefix}bias": shape[:1]}


def _residual(prefix: str, before: int, after: int, embedding: int) -> dict[str, tuple[int, ...]]:
    out = _layer(f"{prefix}in_layers.0.", before) | _layer(f"{prefix}in_layers.2.", after, before, 3, 3)
    out |= _layer(f"{prefix}emb_layers.1.", after, embedding)
    out |= _layer(f"{prefix}out_layers.0.", after) | _layer(f"{prefix}out_layers.3.", after, after, 3, 3)
    return out if before == after else out | _layer(f"{prefix}skip_connection.", after, before, 1, 1)


def _transformer(prefix: str, width: int, context: int) -> dict[str, tuple[int, ...]]:
    out = _layer(f"{prefix}norm.", width) | _layer(f"{prefix}proj_in.", width, width)
    out |= _layer(f"{prefix}proj_out.", width, width)
    block = f"{prefix}transformer_blocks.0."
    for attention, read in (("attn1", width), ("attn2", context)):
        out |= {f"{block}{attention}.to_q.weight": (width, width)}
        out |= {f"{block}{attention}.to_{name}.weight": (width, read) for name in "kv"}
        out |= _layer(f"{block}{attention}.to_out.0.", width, width)
    out |= _layer(f"{block}ff.net.0.proj.", 8 * width, width) | _layer(f"{block}ff.net.2.", width, 4 * width)
    for number in (1, 2, 3):
        out |= _layer(f"{block}norm{number}.", width)
    return out


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
    shapes=shapes,
    file="sketch",
    cut="",
    needed=never,
)
