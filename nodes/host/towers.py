"""Text and image encoders by two sets of names: OpenCLIP's, as in published files, and those of ComfyUI's modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from ...vc_core.checkpoint.parts import PARTS
from ...vc_core.specs import ImageEncoderSpec, TextEncoderSpec

CLIP_NAME = "clip_h"
"""ComfyUI's name for this text encoder; LoRA files of Stable Diffusion 2 use it."""

TEXT = f"{CLIP_NAME}.transformer."
TEXT_NAMES = {
    "token_embedding.weight": TEXT + "text_model.embeddings.token_embedding.weight",
    "positional_embedding": TEXT + "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": TEXT + "text_model.final_layer_norm.weight",
    "ln_final.bias": TEXT + "text_model.final_layer_norm.bias",
    "text_projection": TEXT + "text_projection.weight",
    "logit_scale": f"{CLIP_NAME}.logit_scale",
}
UNUSED_TEXT = (f"{CLIP_NAME}.logit_scale", f"{TEXT}text_projection.weight")
"""Tensors of the text encoder, by ComfyUI's names, that the video models do not use."""

IMAGE_NAMES = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "ln_post.weight": "vision_model.post_layernorm.weight",
    "ln_post.bias": "vision_model.post_layernorm.bias",
    "proj": "visual_projection.weight",
}
TRANSPOSED = ("text_projection", "proj")
LAYER_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
QUERY_KEY_VALUE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
"""Three in ComfyUI's modules, one (`attn.in_proj`) in OpenCLIP's."""

PUBLISHED_TEXT = PARTS["text_encoder"].prefix + "model."
PUBLISHED_IMAGE = PARTS["image_encoder"].prefix + "model.visual."


Shapes = dict[str, tuple[int, ...]]


def text_shapes(spec: TextEncoderSpec) -> Shapes:
    """The tensors of a text encoder, by ComfyUI's names."""
    width, model = spec.width, TEXT + "text_model."
    return {
        model + "embeddings.token_embedding.weight": (spec.vocab_size, width),
        model + "embeddings.position_embedding.weight": (spec.context_length, width),
        **_layer_shapes(model + "encoder.layers.", spec.layers, width),
        **_linear(model + "final_layer_norm.", width),
        TEXT + "text_projection.weight": (spec.embed_dim, width),
        f"{CLIP_NAME}.logit_scale": (),
    }


def image_shapes(spec: ImageEncoderSpec) -> Shapes:
    """The tensors of an image encoder, by ComfyUI's names."""
    width, model, patch = spec.width, "vision_model.", spec.patch_size
    return {
        model + "embeddings.class_embedding": (width,),
        model + "embeddings.patch_embedding.weight": (width, 3, patch, patch),
        model + "embeddings.position_embedding.weight": ((spec.image_size // patch) ** 2 + 1, width),
        **_linear(model + "pre_layrnorm.", width),
        **_layer_shapes(model + "encoder.layers.", spec.layers, width),
        **_linear(model + "post_layernorm.", width),
        "visual_projection.weight": (spec.embed_dim, width),
    }


def _layer_shapes(prefix: str, layers: int, width: int) -> Shapes:
    """Those of the transformer blocks, whose hidden layer is four times as wide."""
    out: Shapes = {}
    for layer in range(layers):
        place = f"{prefix}{layer}."
        out |= _linear(place + "layer_norm1.", width) | _linear(place + "layer_norm2.", width)
        for name in (*QUERY_KEY_VALUE, "self_attn.out_proj"):
            out |= _linear(f"{place}{name}.", width, width)
        out |= _linear(place + "mlp.fc1.", 4 * width, width) | _linear(place + "mlp.fc2.", width, 4 * width)
    return out


def _linear(prefix: str, *shape: int) -> Shapes:
    return {prefix + "weight": shape, prefix + "bias": shape[:1]}


def text_to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From `model.transformer.resblocks...`, as in our text encoder, to the names of ComfyUI's text model."""
    return _to_host(tensors, "model.", TEXT_NAMES, TEXT + "text_model.encoder.layers.")


def image_to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From `model.visual...`, as in our image encoder, to ComfyUI's names; its text tensors are left out."""
    return _to_host(tensors, "model.visual.", IMAGE_NAMES, "vision_model.encoder.layers.")


def text_to_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the names of ComfyUI's text model to those of a published checkpoint."""
    return _to_published(tensors, PUBLISHED_TEXT, TEXT_NAMES, TEXT + "text_model.encoder.layers.")


def image_to_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the names of ComfyUI's image encoder to those of a published checkpoint."""
    return _to_published(tensors, PUBLISHED_IMAGE, IMAGE_NAMES, "vision_model.encoder.layers.")


def _to_host(tensors: Mapping[str, Tensor], prefix: str, names: Mapping[str, str], layers: str) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            continue
        inner = name.removeprefix(prefix)
        layer = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", inner)
        if layer is not None:
            out.update(_layer_to_host(f"{layers}{layer[1]}.", layer[2], tensor))
        elif inner in names:
            out[names[inner]] = tensor.T.contiguous() if inner in TRANSPOSED else tensor
    return out


def _layer_to_host(layer: str, name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
    if name.startswith("attn.in_proj_"):
        kind = name.removeprefix("attn.in_proj_")
        return [(f"{layer}{part}.{kind}", rows) for part, rows in zip(QUERY_KEY_VALUE, tensor.chunk(3), strict=True)]
    module, _, kind = name.rpartition(".")
    return [(f"{layer}{LAYER_NAMES[module]}.{kind}", tensor)]


def _to_published(
    tensors: Mapping[str, Tensor], prefix: str, names: Mapping[str, str], layers: str
) -> dict[str, Tensor]:
    theirs = {host: ours for ours, host in names.items()}
    modules = {host: ours for ours, host in LAYER_NAMES.items()}
    out: dict[str, Tensor] = {}
    for name in tensors:
        if name.startswith(layers):
            index, _, inner = name.removeprefix(layers).partition(".")
            module, _, kind = inner.rpartition(".")
            place = f"{prefix}transformer.resblocks.{index}."
            if module in modules:
                out[f"{place}{modules[module]}.{kind}"] = tensors[name]
            elif module == QUERY_KEY_VALUE[0]:
                rows = [tensors[f"{layers}{index}.{part}.{kind}"] for part in QUERY_KEY_VALUE]
                out[f"{place}attn.in_proj_{kind}"] = _joined(rows)
        elif name in theirs:
            ours = theirs[name]
            out[prefix + ours] = _turned(tensors[name]) if ours in TRANSPOSED else tensors[name]
    return out


def _joined(rows: list[Tensor]) -> Tensor:
    return torch.cat([_settled(row) for row in rows])


def _turned(tensor: Tensor) -> Tensor:
    return _settled(tensor).T.contiguous()


def _settled(tensor: Tensor) -> Tensor:
    """The values of a weight that ComfyUI may still have to patch (it passes lazy tensors while it saves)."""
    move: Callable[[str], Tensor] = tensor.to
    return move("cpu")
