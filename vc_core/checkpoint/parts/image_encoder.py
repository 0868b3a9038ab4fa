"""The image encoder: that of an OpenCLIP model."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

from torch import nn

from ...conditioning.image_encoder import ImageEncoder
from ...network.attention import Attention
from ...specs import ImageEncoderSpec, ModelSpec
from .measuring import Fields, Shapes, count, size
from .part import Base, Layout, Part, merged
from .text_encoder import SHARED

TITLE = "image encoder (CLIP vision)"
HEAD_WIDTH = 64
"""That of OpenCLIP's image encoders but the published one."""


def measure(shapes: Shapes) -> Fields:
    """The fields of `ImageEncoderSpec`."""
    patch = size(shapes, "model.visual.conv1.weight", 2)
    patches = size(shapes, "model.visual.positional_embedding", 0) - 1
    fields: Fields = {
        "image_size": round(patches**0.5) * patch,
        "patch_size": patch,
        "width": size(shapes, "model.visual.class_embedding", 0),
        "layers": count(shapes, r"model\.visual\.transformer\.resblocks\.(\d+)\."),
        "embed_dim": size(shapes, "model.visual.proj", 1),
    }
    if "model.token_embedding.weight" in shapes:
        fields["text_width"] = size(shapes, "model.token_embedding.weight", 1)
        fields["vocab_size"] = size(shapes, "model.token_embedding.weight", 0)
        fields["context_length"] = size(shapes, "model.positional_embedding", 0)
    return fields


def complete(base: Base, measured: Fields) -> ImageEncoderSpec:
    """The base's numbers with the measured ones; the head width of an encoder of unpublished width is assumed."""
    published = ImageEncoderSpec()
    start = replace(base, spec=base.spec or published, exact=base.exact and base.spec is not None)
    image: ImageEncoderSpec = merged(TITLE, start, measured)
    if start.exact or image.width == published.width:
        return image
    return replace(image, head_width=HEAD_WIDTH if image.width % HEAD_WIDTH == 0 else image.width)


def build(spec: ImageEncoderSpec, operations: ModuleType | Any, attention: Attention) -> nn.Module:
    """The network on `meta`. It has layers and an attention of its own."""
    del operations, attention
    return ImageEncoder(spec, device="meta")


def needed(spec: ModelSpec) -> bool:
    """Models that attend to image tokens need it."""
    return spec.reads_images


IMAGE_ENCODER = Part(
    name="image_encoder",
    title=TITLE,
    prefix="embedder.",
    layouts=(
        Layout("visual.class_embedding", ("visual.", *SHARED), add="model."),
        Layout("model.visual.class_embedding", ("model.",)),
    ),
    ignored=(r"embedder\.model\.attn_mask$", r"embedder\.(mean|std)$"),
    divisors=(("head_width", "width"),),
    measure=measure,
    complete=complete,
    build=build,
    file="image",
    needed=needed,
)
