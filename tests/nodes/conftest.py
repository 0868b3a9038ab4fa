"""Small models in the folders of the tests' ComfyUI, and shorthands for what most tests do."""

from __future__ import annotations

import pytest
import small_models as small
from loaded_models import Loaded

from comfyui.base import Base
from comfyui.inprocess import Comfy


@pytest.fixture(scope="session")
def checkpoints(base: Base) -> dict[str, str]:
    """Kind of model -> the name of its file in `checkpoints`."""
    for kind, spec in small.MODELS.items():
        small.save(spec, base.model("checkpoints", f"{kind}.safetensors"))
    return {kind: f"{kind}.safetensors" for kind in small.MODELS}


@pytest.fixture(scope="session")
def text_model(comfy: Comfy, checkpoints: dict[str, str]) -> Loaded:
    return Loaded(comfy, checkpoints["text"], weight_dtype="fp32")


@pytest.fixture(scope="session")
def boxed_model(comfy: Comfy) -> Loaded:
    """The text-to-video model that comes with this pack, and has learnt something."""
    return Loaded(comfy, "videocrafter_small_t2v.safetensors", weight_dtype="fp32")


@pytest.fixture(scope="session")
def relative_model(comfy: Comfy, checkpoints: dict[str, str]) -> Loaded:
    return Loaded(comfy, checkpoints["relative"], weight_dtype="fp32")


@pytest.fixture(scope="session")
def image_model(comfy: Comfy, checkpoints: dict[str, str]) -> Loaded:
    return Loaded(comfy, checkpoints["image"], weight_dtype="fp32")


@pytest.fixture(scope="session")
def viewed_model(comfy: Comfy, checkpoints: dict[str, str]) -> Loaded:
    return Loaded(comfy, checkpoints["viewed"], weight_dtype="fp32")


@pytest.fixture(scope="session")
def continuing_model(comfy: Comfy, checkpoints: dict[str, str]) -> Loaded:
    return Loaded(comfy, checkpoints["continuing"], weight_dtype="fp32")


@pytest.fixture(scope="session")
def toon_model(comfy: Comfy, checkpoints: dict[str, str]) -> Loaded:
    return Loaded(comfy, checkpoints["toon"], weight_dtype="fp32")


@pytest.fixture(scope="session")
def turbo_model(comfy: Comfy, checkpoints: dict[str, str]) -> Loaded:
    return Loaded(comfy, checkpoints["turbo"], weight_dtype="fp32")
