"""MotionCtrl's files: the published one by its keys and shapes, small ones that are read, split and joined again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoint.test_manifests import manifest
from safetensors.torch import load_file, save_file
from small_models import TEXT_MODEL, motionctrl_weights, state_dict
from torch import Tensor

from vc_core.checkpoint import METADATA_KEY, build_empty, convert, detect, inspect_checkpoint, load
from vc_core.checkpoint.building import Checkpoint
from vc_core.checkpoint.parts import PARTS
from vc_core.checkpoint.report import describe, table
from vc_core.errors import UserError
from vc_core.network.adapters.motionctrl import MotionCtrlNetwork
from vc_core.specs import PRESETS, TITLES, to_json

LEVELS = (32, 64, 128)


def inside(name: str) -> str:
    return name if name.startswith("omcm.") else f"model.diffusion_model.{name}"


def whole() -> dict[str, Tensor]:
    """A model with MotionCtrl's layers in the same file, by the published names."""
    added = motionctrl_weights(TEXT_MODEL, levels=LEVELS)
    return {**state_dict(TEXT_MODEL), **{inside(name): tensor for name, tensor in added.items()}}


def test_the_published_file_is_recognised_with_every_name_and_shape() -> None:
    published = manifest("motionctrl")
    found = detect(published)
    assert found.parts == ("unet", "motionctrl")
    assert found.contents.unknown == found.contents.ignored == ()
    assert found.spec.unet == PRESETS["motionctrl_256"].unet
    assert found.title == TITLES["motionctrl_256"]
    spec = found.part_spec("motionctrl")
    assert (spec.levels, spec.units, len(spec.blocks)) == ((320, 640, 1280, 1280), 2, 17)
    checkpoint = Checkpoint(found, (), {})
    for part in found.parts:
        assert not checkpoint.difference(part)
    added = PARTS["motionctrl"]
    ours = {added.in_file(name) for name in found.contents.parts["motionctrl"]}
    assert ours | {f"model.diffusion_model.{name}" for name in build_empty(found.spec, "unet").state_dict()} == {
        *published
    }


def test_added_layers_alone_are_recognised_with_and_without_the_prefix() -> None:
    added = motionctrl_weights(TEXT_MODEL)
    for tensors in (added, {inside(name): tensor for name, tensor in added.items()}):
        found = detect(tensors)
        assert found.parts == ("motionctrl",)
        assert found.part_spec("motionctrl").levels == ()
        assert found.title == "the camera and trajectory layers (MotionCtrl) without a UNet"


def test_square_projections_are_those_of_another_method() -> None:
    added = {
        name: tensor[:, :-12] if tensor.ndim == 2 else tensor for name, tensor in motionctrl_weights(TEXT_MODEL).items()
    }
    with pytest.raises(UserError, match="the layers for camera poses should read 12 numbers beside the tokens"):
        detect(added)


def test_it_is_reported_loaded_split_and_joined(tmp_path: Path) -> None:
    path = tmp_path / "motionctrl.safetensors"
    save_file(whole(), path, {METADATA_KEY: to_json(TEXT_MODEL)})
    opened = inspect_checkpoint(path)
    report = describe(opened)
    assert report["unknown"] == []
    assert report["parts"]["motionctrl"]["missing"] == report["parts"]["motionctrl"]["unexpected"] == []
    assert "camera and trajectory layers (MotionCtrl)" in table(report)
    loaded = load(path)
    network = loaded.added["motionctrl"]
    assert isinstance(network, MotionCtrlNetwork)
    assert network.omcm is not None
    files = convert(path, tmp_path / "made", split=True)
    (own,) = [file for file in files if file.stem.endswith("_motionctrl")]
    assert load_file(str(own)).keys() == motionctrl_weights(TEXT_MODEL, levels=LEVELS).keys()
    (again,) = convert(path, tmp_path / "again.safetensors")
    assert {name for name in load_file(str(again)) if "cc_projection" in name or "omcm" in name} == {
        inside(name) for name in motionctrl_weights(TEXT_MODEL, levels=LEVELS)
    }
    joined = load([files[0], own])
    assert torch.equal(joined.added["motionctrl"].state_dict()["omcm.conv_in.weight"], network.omcm.conv_in.weight)
