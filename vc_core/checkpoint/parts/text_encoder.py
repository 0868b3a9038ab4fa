"""The text encoder: that of an OpenCLIP model."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

from torch import nn

from ...conditioning.text_encoder import TextEncoder
from ...errors import UserError
from ...network.attention import Attention
from ...specs import ModelSpec, TextEncoderSpec
from .measuring import Fields, Shapes, count, size
from .part import Base, Layout, Part, merged

TITLE = "text encoder (CLIP)"
HEAD_WIDTH = 64
"""That of every text encoder of OpenCLIP."""
SHARED = ("token_embedding.", "positional_embedding", "ln_final.", "text_projection", "logit_scale")
"""Names of a CLIP model beside its image encoder and its text encoder's layers."""
TEXT = ("transformer.", *SHARED)


def measure(shapes: Shapes) -> Fields:
    """The fields of `TextEncoderSpec`."""
    return {
        "width": size(shapes, "model.positional_embedding", 1),
        "layers": count(shapes, r"model\.transformer\.resblocks\.(\d+)\."),
        "context_length": size(shapes, "model.positional_embedding", 0),
        "vocab_size": size(shapes, "model.token_embedding.weight", 0),
        "embed_dim": size(shapes, "model.text_projection", 1),
    }


def complete(base: Base, measured: Fields) -> TextEncoderSpec:
    """Heads are 64 wide. Raises UserError for a ViT-H without its last layer, which would silently give the output of
    another layer."""
    text: TextEncoderSpec = merged(TITLE, base, measured)
    if base.exact:
        return text
    published = TextEncoderSpec()
    if text.width == published.width and text.layers == published.layers - 1:
        raise UserError(
            f"The text encoder in this file has {text.layers} layers instead of {published.layers}: its last layer was "
            "pruned away. Give the unpruned file."
        )
    return replace(text, heads=max(1, text.width // HEAD_WIDTH))


def build(spec: TextEncoderSpec, operations: ModuleType | Any, attention: Attention) -> nn.Module:
    """The network on `meta`. It has layers and an attention of its own."""
    del operations, attention
    return TextEncoder(spec, device="meta")


def fits(spec: ModelSpec) -> None:
    """Raise UserError when the text encoder's tokens are not as wide as the UNet's cross-attention expects."""
    if spec.text_encoder.width != spec.unet.context_dim:
        raise UserError(
            f"The text encoder (CLIP) is {spec.text_encoder.width} wide, but this UNet reads text of "
            f"{spec.unet.context_dim}. Give the text encoder that belongs to the model (published VideoCrafter models: "
            "OpenCLIP ViT-H-14, 1024 wide)."
        )


TEXT_ENCODER = Part(
    name="text_encoder",
    title=TITLE,
    prefix="cond_stage_model.",
    layouts=(
        Layout("transformer.resblocks.0.ln_1.weight", TEXT, add="model."),
        Layout("model.transformer.resblocks.0.ln_1.weight", tuple("model." + start for start in TEXT)),
    ),
    ignored=(r"(cond_stage_model\.model\.|model\.)?attn_mask$", r"cond_stage_model\.model\.visual\."),
    divisors=(("heads", "width"),),
    measure=measure,
    complete=complete,
    build=build,
    file="clip",
    cut="model.",
    fits=fits,
)
