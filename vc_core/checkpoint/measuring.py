"""SHAPES -> NUMBERS: every number of a spec that the names and shapes of a part's tensors give.

Each function takes `{name in the module: shape}` and returns the fields it can tell; those it cannot tell (head widths,
norm groups, the noise schedule) are absent from what it returns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from .keys import Part

Shapes = Mapping[str, tuple[int, ...]]
Fields = dict[str, Any]

INIT_ATTENTION_HEADS = 8
"""Heads of the attention after the UNet's first convolution, the same in every model: their width is told by it."""


class MissingTensorError(ValueError):
    """A part lacks a tensor that its numbers are read from, or the tensor has the wrong number of dimensions."""


def _size(shapes: Shapes, name: str, axis: int) -> int:
    if name not in shapes:
        raise MissingTensorError(f"the tensor {name} is missing")
    shape = shapes[name]
    if len(shape) <= axis:
        raise MissingTensorError(f"the tensor {name} has shape {list(shape)}: too few dimensions")
    return shape[axis]


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the highest number that the pattern's group finds; 0 when it never matches."""
    found = [int(match[1]) for name in shapes if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1


def unet(shapes: Shapes) -> Fields:
    """The fields of `UNetSpec`."""
    model_channels = _size(shapes, "time_embed.0.weight", 1)
    widths, blocks, attention = _levels(shapes)
    fields: Fields = {
        "in_channels": _size(shapes, "input_blocks.0.0.weight", 1),
        "out_channels": _size(shapes, "out.2.weight", 0),
        "model_channels": model_channels,
        "channel_mult": tuple(width // model_channels for width in widths),
        "num_res_blocks": blocks,
        "attention_levels": attention,
        "head_channels": _size(shapes, "init_attn.0.proj_in.weight", 0) // INIT_ATTENTION_HEADS,
        "transformer_depth": _count(shapes, r"middle_block\.1\.transformer_blocks\.(\d+)\."),
        "context_dim": _size(shapes, "middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1),
        "temporal_conv": any("temopral_conv." in name for name in shapes),
        "relative_position": any("relative_position_k." in name for name in shapes),
        "fps_condition": "fps_embedding.0.weight" in shapes,
        "image_attention": any(".to_k_ip." in name for name in shapes),
        "image_gate": any(name.endswith("attn2.alpha") for name in shapes),
    }
    # A picture's latent has as many channels as the noised one, which has those of the prediction.
    fields["concat_channels"] = fields["out_channels"] if fields["in_channels"] == 2 * fields["out_channels"] else 0
    for name, tensor in (("guidance_width", "time_cond_proj.weight"), ("motion_width", "motion_cond_proj.weight")):
        fields[name] = _size(shapes, tensor, 1) if tensor in shapes else 0
    if fields["relative_position"]:
        table = "init_attn.0.transformer_blocks.0.attn1.relative_position_k.embeddings_table"
        fields["temporal_length"] = (_size(shapes, table, 0) - 1) // 2
    return fields


def _levels(shapes: Shapes) -> tuple[list[int], int, tuple[int, ...]]:
    """Width of each level, residual blocks per level, and the levels that have attention."""
    widths: list[int] = []
    counts: list[int] = []
    attention: list[int] = []
    new_level = True
    for i in range(1, _count(shapes, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{i}.0.op.weight" in shapes:
            new_level = True
            continue
        width = _size(shapes, f"input_blocks.{i}.0.out_layers.3.weight", 0)
        if new_level:
            widths.append(width)
            counts.append(0)
            new_level = False
        counts[-1] += 1
        if f"input_blocks.{i}.1.proj_in.weight" in shapes and len(widths) - 1 not in attention:
            attention.append(len(widths) - 1)
    if not counts or len(set(counts)) != 1:
        raise MissingTensorError(f"its levels have {counts} residual blocks, which should be the same number")
    return widths, counts[0], tuple(attention)


def autoencoder(shapes: Shapes) -> Fields:
    """The fields of `AutoencoderSpec`."""
    channels = _size(shapes, "encoder.conv_in.weight", 0)
    levels = _count(shapes, r"encoder\.down\.(\d+)\.")
    widths = [_size(shapes, f"encoder.down.{level}.block.0.conv1.weight", 0) for level in range(levels)]
    refined = "decoder.attn_refinement."
    attending = tuple(level for level in range(levels) if f"{refined}{level}.to_q.weight" in shapes)
    return {
        "channels": channels,
        "channel_mult": tuple(width // channels for width in widths),
        "num_res_blocks": _count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "latent_channels": _size(shapes, "post_quant_conv.weight", 1),
        "reference_levels": attending if any(name.startswith(refined) for name in shapes) else None,
    }


def text_encoder(shapes: Shapes) -> Fields:
    """The fields of `TextEncoderSpec`."""
    return {
        "width": _size(shapes, "model.positional_embedding", 1),
        "layers": _count(shapes, r"model\.transformer\.resblocks\.(\d+)\."),
        "context_length": _size(shapes, "model.positional_embedding", 0),
        "vocab_size": _size(shapes, "model.token_embedding.weight", 0),
        "embed_dim": _size(shapes, "model.text_projection", 1),
    }


def image_encoder(shapes: Shapes) -> Fields:
    """The fields of `ImageEncoderSpec`."""
    patch = _size(shapes, "model.visual.conv1.weight", 2)
    patches = _size(shapes, "model.visual.positional_embedding", 0) - 1
    fields: Fields = {
        "image_size": round(patches**0.5) * patch,
        "patch_size": patch,
        "width": _size(shapes, "model.visual.class_embedding", 0),
        "layers": _count(shapes, r"model\.visual\.transformer\.resblocks\.(\d+)\."),
        "embed_dim": _size(shapes, "model.visual.proj", 1),
    }
    if "model.token_embedding.weight" in shapes:
        fields["text_width"] = _size(shapes, "model.token_embedding.weight", 1)
        fields["vocab_size"] = _size(shapes, "model.token_embedding.weight", 0)
        fields["context_length"] = _size(shapes, "model.positional_embedding", 0)
    return fields


def resampler(shapes: Shapes) -> Fields:
    """The fields of `ResamplerSpec`; `inner` is the width of all its heads together. `queries` are those of all frames
    together: the shapes do not tell how many frames there are."""
    dim = _size(shapes, "latents", 2)
    return {
        "dim": dim,
        "depth": _count(shapes, r"layers\.(\d+)\."),
        "inner": _size(shapes, "layers.0.0.to_q.weight", 0),
        "queries": _size(shapes, "latents", 1),
        "embedding_dim": _size(shapes, "proj_in.weight", 1),
        "output_dim": _size(shapes, "proj_out.weight", 0),
        "ff_mult": _size(shapes, "layers.0.1.1.weight", 0) // dim,
    }


def linear_tokens(shapes: Shapes) -> Fields:
    """The fields of `LinearTokensSpec`."""
    width = _size(shapes, "norm.weight", 0)
    return {
        "tokens": _size(shapes, "proj.weight", 0) // width,
        "embedding_dim": _size(shapes, "proj.weight", 1),
        "output_dim": width,
    }


MEASURES: dict[Part, Callable[[Shapes], Fields]] = {
    "unet": unet,
    "autoencoder": autoencoder,
    "text_encoder": text_encoder,
    "image_encoder": image_encoder,
}
