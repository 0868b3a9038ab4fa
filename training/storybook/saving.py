"""Trained weights -> the files that ship: half precision, published names, the spec in the metadata."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.checkpoint.reading import METADATA_KEY
from vc_core.checkpoint.saving import save_tensors
from vc_core.specs import ModelSpec, to_json

from .fitting import under
from .lessons import VideoLesson
from .networks import published_names
from .vocabulary import Vocabulary


def save_model(
    folder: Path, lesson: VideoLesson, weights: Mapping[str, Tensor], autoencoder: Autoencoder, words: Vocabulary
) -> Path:
    """Write the file of a network, named after its spec, with the autoencoder; it replaces an older one. `weights` are
    those of the lesson, averaged; `lesson` is changed."""
    lesson.load_state_dict(dict(weights))
    spec: ModelSpec = lesson.network.spec
    tensors = {f"first_stage_model.{key}": value for key, value in autoencoder.state_dict().items()}
    tensors |= published_names(lesson.network, words, lesson.branch)
    half = {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{spec.name}.safetensors"
    return save_tensors(path, half, {METADATA_KEY: to_json(spec)}, overwrite=True)


def take_over(earlier: Path, folder: Path, models: Path) -> tuple[str, ...]:
    """Begin a run with the autoencoder, the image branch and the judge of an earlier one, from the folder of its
    models; returns the stages that are finished by that."""
    video, image = (load_file(earlier / f"storybook_{name}.safetensors") for name in ("t2v", "i2v"))
    autoencoder = {key: value.float() for key, value in under(video, "first_stage_model.").items()}
    torch.save(autoencoder, folder / "normal_autoencoder.pt")
    branch = {f"branch.encoder.{key}": value.float() for key, value in under(image, "embedder.").items()}
    branch |= {f"branch.tokens.{key}": value.float() for key, value in under(image, "image_proj_model.").items()}
    torch.save({"averaged": branch}, folder / "reading.pt")
    models.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(earlier / "storybook_judge.safetensors", models / "storybook_judge.safetensors")
    return "autoencoder", "reading", "judge"
