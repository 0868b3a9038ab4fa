"""Workflows that were saved on Windows name their files with backslashes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from comfyui.base import Base
from comfyui.inprocess import Comfy

pytestmark = pytest.mark.weightless

LOADERS = {
    "VideoCrafterCheckpointLoader": ("checkpoints", "ckpt_name"),
    "VideoCrafterUNETLoader": ("diffusion_models", "unet_name"),
    "VideoCrafterVAELoader": ("vae", "vae_name"),
    "VideoCrafterCLIPLoader": ("text_encoders", "clip_name"),
    "VideoCrafterCLIPVisionLoader": ("clip_vision", "clip_name"),
    "VideoCrafterMotionCtrlControl": ("checkpoints", "file"),
    "VideoCrafterAnalyticInit": ("checkpoints", "statistics"),
}


@pytest.fixture
def named(base: Base, comfy: Comfy) -> str:
    """A file in a folder of each folder of models, as a list on this system names it."""
    for folder in {folder for folder, _ in LOADERS.values()}:
        place = base.model(folder, "in a folder")
        place.mkdir(exist_ok=True)
        (place / "model.safetensors").touch()
    return "in a folder/model.safetensors"


def _errors(node: str, widget: str, value: object) -> list[str]:
    """What ComfyUI says of a value before it runs a prompt; of other widgets and sockets nothing."""
    import execution

    prompt: dict[str, Any] = {"1": {"class_type": node, "inputs": {widget: value}}}
    _, errors, _ = asyncio.run(execution.validate_inputs("prompt", prompt, "1", {}))
    return [each["details"] for each in errors if each["extra_info"].get("input_name") == widget]


@pytest.mark.parametrize("node", LOADERS)
def test_a_file_in_a_folder_is_found_with_either_separator(node: str, named: str, comfy: Comfy) -> None:
    folder, widget = LOADERS[node]
    files = comfy.module("nodes.host.files")
    for name in (named, named.replace("/", "\\")):
        assert files.resolve(folder, name).parts[-2:] == ("in a folder", "model.safetensors")
        assert comfy.classes[node].validate_inputs(**{widget: name}) is True


def test_comfyui_accepts_both_and_refuses_others_with_a_cure(named: str, comfy: Comfy) -> None:
    node, widget = "VideoCrafterVAELoader", "vae_name"
    assert _errors(node, widget, named) == []
    assert _errors(node, widget, named.replace("/", "\\")) == []
    for wrong in ("..\\..\\secret.safetensors", "in a folder\\other.safetensors", 5):
        (said,) = _errors(node, widget, wrong)
        assert "There is no model file" in said
        assert "Put the file there" in said


def test_a_name_from_another_node_is_checked_when_it_is_there(comfy: Comfy) -> None:
    for node in LOADERS:
        assert comfy.classes[node].validate_inputs() is True
