"""CLIP_VISION: the image encoder as ComfyUI's own, and images prepared for it as the reference does."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_management
import torch
from torch import Tensor

from ...vc_core.checkpoint.building import Checkpoint, compare_shapes
from ...vc_core.checkpoint.foreign import some
from ...vc_core.conditioning.image_encoder import preprocess
from ...vc_core.errors import UserError
from ...vc_core.specs import ImageEncoderSpec
from . import towers
from .compat import fill
from .model import remember
from .reading import open_file, read_mapped

HOST_MARK = "vision_model.encoder.layers.0.layer_norm1.weight"


def load_clip_vision(checkpoint: Checkpoint) -> Any:
    """CLIP_VISION of an opened file that has an image encoder."""
    checkpoint.require("image_encoder")
    spec = checkpoint.spec.image_encoder or ImageEncoderSpec()
    tensors = towers.image_to_host(checkpoint.weights("image_encoder"))
    difference = compare_shapes(towers.image_shapes(spec), tensors)
    if difference:
        left = [*difference.missing, *difference.unexpected, *difference.misshapen]
        raise UserError(
            f"The image encoder in this file is not complete ({len(left)} tensors do not fit: {some(left)}). Download "
            "the file again."
        )
    with tempfile.TemporaryDirectory() as folder:  # older hosts read the configuration from a file only
        place = Path(folder) / "config.json"
        place.write_text(json.dumps(_config(spec)), encoding="utf-8")
        encoder = comfy.clip_vision.ClipVisionModel(str(place))
    fill(encoder.model, tensors, encoder.patcher)
    return encoder


def load_clip_vision_file(path: Path) -> Any:
    """CLIP_VISION of a file: one of ours, OpenCLIP's, or one with the names that are usual in ComfyUI."""
    file = read_mapped(path)
    if any(name.endswith(HOST_MARK) for name in file.tensors):
        encoder = comfy.clip_vision.load(str(path))
        if encoder is None:
            raise UserError(
                f"{path} holds an image encoder that ComfyUI does not know. VideoCrafter's is OpenCLIP ViT-H-14."
            )
    else:
        encoder = load_clip_vision(open_file(path))
    remember(encoder.patcher, load_clip_vision_patcher, (path,))
    return encoder


def load_clip_vision_patcher(path: Path, disable_dynamic: bool = False) -> Any:
    """The patcher alone, made again."""
    del disable_dynamic  # image encoders have no part that depends on it
    return load_clip_vision_file(path).patcher


def encode_images(encoder: Any, images: Tensor, *, pooled: bool = False) -> Tensor:
    """All tokens before the last norm, n tokens width, of images n 3 h w in -1..1; or `pooled`, CLIP's embedding.

    Prepared as the reference does: the whole image resized to a square, not its centre cropped.
    """
    if not hasattr(encoder, "encode_image"):
        raise UserError(f"The clip_vision input is {type(encoder).__name__}, not an image encoder.")
    if not hasattr(encoder, "model"):
        encoder.encode_image(images)  # raises, and says why there is no encoder
    comfy.model_management.load_model_gpu(encoder.patcher)
    prepared = preprocess(images, size=encoder.image_size).to(encoder.load_device, torch.float32)
    with torch.inference_mode():
        out = encoder.model(pixel_values=prepared, intermediate_output=-2)
    tokens: Tensor = out[2] if pooled else out[0]
    return tokens.float().cpu()


def normed(encoder: Any, tokens: Tensor) -> Tensor:
    """Tokens n width of `encode_images` behind the encoder's last norm."""
    comfy.model_management.load_model_gpu(encoder.patcher)
    with torch.inference_mode():
        out: Tensor = encoder.model.vision_model.post_layernorm(tokens.to(encoder.load_device))
    return out.float().cpu()


def encoded_image(output: Any, *, pooled: bool = False) -> Tensor:
    """The same of one image, 1 tokens width or 1 width, from the output of core's CLIP Vision Encode."""
    found: Tensor | None = getattr(output, "image_embeds" if pooled else "last_hidden_state", None)
    if found is None:
        raise UserError(
            f"The clip_vision_output input is {type(output).__name__}, not the output of CLIP Vision Encode. Connect "
            "that node, or an image."
        )
    if found.shape[0] != 1:
        raise UserError(
            f"The clip_vision_output input holds {found.shape[0]} images and the model takes one. Choose it with "
            "Image From Batch before CLIP Vision Encode."
        )
    return found.float().cpu()


def _config(spec: ImageEncoderSpec) -> dict[str, Any]:
    """The encoder as ComfyUI's configuration files describe it."""
    return {
        "model_type": "clip_vision_model",
        "hidden_size": spec.width,
        "intermediate_size": 4 * spec.width,
        "num_attention_heads": spec.width // spec.head_width,
        "num_hidden_layers": spec.layers,
        "num_channels": 3,
        "image_size": spec.image_size,
        "patch_size": spec.patch_size,
        "projection_dim": spec.embed_dim,
        "hidden_act": "gelu",
    }
