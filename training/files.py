"""Writes the model files: half precision, published names, the spec in the metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.checkpoint.reading import METADATA_KEY
from vc_core.checkpoint.saving import save_tensors
from vc_core.specs import ModelSpec, to_json

from .network import IMAGE_TO_VIDEO, TEXT_TO_VIDEO, PictureNetwork, published_names


def save_model(path: Path, spec: ModelSpec, autoencoder: Autoencoder, tensors: Mapping[str, Tensor]) -> Path:
    """Writes a file with the autoencoder and `tensors` (under published names), replacing an older one."""
    everything = {f"first_stage_model.{key}": value for key, value in autoencoder.state_dict().items()}
    everything |= tensors
    half = {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in everything.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_tensors(path, half, {METADATA_KEY: to_json(spec)}, overwrite=True)


def save_both(folder: Path, autoencoder: Autoencoder, network: PictureNetwork) -> tuple[Path, Path]:
    """Writes the text-to-video and the image-to-video model."""
    text, image = (folder / f"{spec.name}.safetensors" for spec in (TEXT_TO_VIDEO, IMAGE_TO_VIDEO))
    save_model(text, TEXT_TO_VIDEO, autoencoder, published_names(network, pictured=False))
    save_model(image, IMAGE_TO_VIDEO, autoencoder, published_names(network, pictured=True))
    return text, image


def save_network(folder: Path, autoencoder: Autoencoder, network: PictureNetwork) -> Path:
    """Writes one network with its image branch, to a file named after its spec."""
    path = folder / f"{network.spec.name}.safetensors"
    return save_model(path, network.spec, autoencoder, published_names(network, pictured=True))
