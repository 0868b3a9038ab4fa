"""The video UNet."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

from torch import nn

from ...network.attention import Attention
from ...network.unet import VideoUNet
from ...specs import UNetSpec
from .measuring import Fields, Shapes, count, levels, size
from .part import UNET_PREFIX, Base, Layout, Part, merged

TITLE = "video UNet"
INIT_ATTENTION_HEADS = 8
"""Heads of the attention after the UNet's first convolution, the same in every model: they give the head width."""


def measure(shapes: Shapes) -> Fields:
    """The fields of `UNetSpec`."""
    model_channels = size(shapes, "time_embed.0.weight", 1)
    widths, blocks, attention = levels(shapes)
    fields: Fields = {
        "in_channels": size(shapes, "input_blocks.0.0.weight", 1),
        "out_channels": size(shapes, "out.2.weight", 0),
        "model_channels": model_channels,
        "channel_mult": tuple(width // model_channels for width in widths),
        "num_res_blocks": blocks,
        "attention_levels": attention,
        "head_channels": size(shapes, "init_attn.0.proj_in.weight", 0) // INIT_ATTENTION_HEADS,
        "transformer_depth": count(shapes, r"middle_block\.1\.transformer_blocks\.(\d+)\."),
        "context_dim": size(shapes, "middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1),
        "temporal_conv": any("temopral_conv." in name for name in shapes),
        "relative_position": any("relative_position_k." in name for name in shapes),
        "fps_condition": "fps_embedding.0.weight" in shapes,
        "image_attention": any(".to_k_ip." in name for name in shapes),
        "image_gate": any(name.endswith("attn2.alpha") for name in shapes),
    }
    # The latent of an image has as many channels as the noised one, which has those of the prediction.
    fields["concat_channels"] = fields["out_channels"] if fields["in_channels"] == 2 * fields["out_channels"] else 0
    for name, tensor in (("guidance_width", "time_cond_proj.weight"), ("motion_width", "motion_cond_proj.weight")):
        fields[name] = size(shapes, tensor, 1) if tensor in shapes else 0
    if fields["relative_position"]:
        table = "init_attn.0.transformer_blocks.0.attn1.relative_position_k.embeddings_table"
        fields["temporal_length"] = (size(shapes, table, 0) - 1) // 2
    return fields


def complete(base: Base, measured: Fields) -> UNetSpec:
    """Published UNets normalise in 32 groups; one too narrow for that gets the most that divide it."""
    unet: UNetSpec = merged(TITLE, base, measured)
    groups = unet.norm_groups
    while not base.exact and unet.model_channels % groups:
        groups //= 2
    return replace(unet, norm_groups=groups)


def build(spec: UNetSpec, operations: ModuleType | Any, attention: Attention) -> nn.Module:
    """The network on `meta`."""
    return VideoUNet(spec, operations=operations, attention=attention, device="meta")


UNET = Part(
    name="unet",
    title=TITLE,
    prefix=UNET_PREFIX,
    layouts=(
        Layout(
            "input_blocks.0.0.weight",
            (
                "time_embed.",
                "fps_embedding.",
                "framestride_embed.",
                "time_cond_proj.",
                "motion_cond_proj.",
                "combine_proj.",
                "input_blocks.",
                "init_attn.",
                "middle_block.",
                "output_blocks.",
                "out.",
            ),
        ),
    ),
    renamed={"framestride_embed.": "fps_embedding."},
    kind=(
        "temporal_conv",
        "relative_position",
        "fps_condition",
        "image_attention",
        "concat_channels",
        "image_gate",
        "guidance_width",
        "motion_width",
    ),
    divisors=(("norm_groups", "model_channels"),),
    measure=measure,
    complete=complete,
    build=build,
    file="unet",
    cut="",
)
