"""The autoencoder: Stable Diffusion's, or the one with ToonCrafter's decoder."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import nn

from ...autoencoder.autoencoder import Autoencoder
from ...errors import UserError
from ...network.attention import Attention
from ...specs import AutoencoderSpec
from .measuring import Fields, Shapes, count, size
from .part import Base, Layout, Part, merged

TITLE = "autoencoder (VAE)"
REFINED = "decoder.attn_refinement."


def measure(shapes: Shapes) -> Fields:
    """The fields of `AutoencoderSpec`."""
    channels = size(shapes, "encoder.conv_in.weight", 0)
    number = count(shapes, r"encoder\.down\.(\d+)\.")
    widths = [size(shapes, f"encoder.down.{level}.block.0.conv1.weight", 0) for level in range(number)]
    attending = tuple(level for level in range(number) if f"{REFINED}{level}.to_q.weight" in shapes)
    return {
        "channels": channels,
        "channel_mult": tuple(width // channels for width in widths),
        "num_res_blocks": count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "latent_channels": size(shapes, "post_quant_conv.weight", 1),
        "reference_levels": attending if any(name.startswith(REFINED) for name in shapes) else None,
    }


def complete(base: Base, measured: Fields) -> AutoencoderSpec:
    """The base's numbers with the measured ones."""
    spec: AutoencoderSpec = merged(TITLE, base, measured)
    return spec


def check(spec: AutoencoderSpec) -> None:
    """Raise UserError for an autoencoder that does not divide into its norm groups: one narrower than the published
    ones, in a file without a spec. How many groups it was trained with cannot be read from its tensors."""
    if spec.channels % spec.norm_groups:
        raise UserError(
            f"The autoencoder in this file is {spec.channels} channels wide, narrower than the published ones, and "
            "the file does not say in how many groups it normalises them: its metadata was lost. Take the model's own "
            "checkpoint, or its VAE in a file that was made by `python -m vc_core convert`."
        )


def build(spec: AutoencoderSpec, operations: ModuleType | Any, attention: Attention) -> nn.Module:
    """The network on `meta`. It has an attention of its own."""
    del attention
    return Autoencoder(spec, operations=operations, device="meta")


AUTOENCODER = Part(
    name="autoencoder",
    title=TITLE,
    prefix="first_stage_model.",
    layouts=(Layout("decoder.conv_in.weight", ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")),),
    ignored=(r"(first_stage_model\.)?loss\.",),
    kind=("reference_levels",),
    divisors=(("norm_groups", "channels"),),
    measure=measure,
    complete=complete,
    check=check,
    build=build,
    file="vae",
    cut="",
)
