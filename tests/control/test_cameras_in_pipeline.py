"""The cameras of DynamiCrafter in vc_core's pipeline, on a small model with layers at random."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_models import CONTINUING_MODEL, camera_weights, motionctrl_weights, save
from torch import Tensor

from vc_core.checkpoint import PARTS
from vc_core.control import CamI2V, MotionCtrlI2V
from vc_core.denoising import Sampling
from vc_core.denoising.windows import ContextWindows
from vc_core.errors import UserError
from vc_core.network.adapters.motionctrl import PROJECTION
from vc_core.pipeline import VideoCrafter
from vc_core.request import Request

SPEC = CONTINUING_MODEL
REQUEST = Request(width=128, height=64, frames=5, seed=3, sampling=Sampling(steps=2, spacing="trailing"), cfg=5.0)
IMAGE = torch.linspace(0, 1, 90 * 150 * 3).reshape(90, 150, 3)


def saved(part: str, path: Path, layers: dict[str, Tensor], **more: Tensor) -> Path:
    save_file({**{PARTS[part].in_file(name): tensor for name, tensor in layers.items()}, **more}, path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VideoCrafter:
    return VideoCrafter.load(save(SPEC, tmp_path_factory.mktemp("model") / "model.safetensors"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind, and one that brings tensors of the network with it."""
    folder, poses = tmp_path_factory.mktemp("files"), motionctrl_weights(SPEC)
    block, _, _ = next(iter(poses)).partition(PROJECTION)
    width = len(poses[f"{block}{PROJECTION}.weight"])
    trained = {
        f"model.diffusion_model.{block}.attn2.to_q.weight": torch.randn(
            width, width, generator=torch.Generator().manual_seed(1)
        )
    }
    return {
        "cami2v": saved("cami2v", folder / "cami2v.safetensors", camera_weights(SPEC)),
        "cameractrl": saved("cami2v", folder / "cameractrl.safetensors", camera_weights(SPEC, registers=None)),
        "motionctrl": saved("motionctrl", folder / "motionctrl.safetensors", poses),
        "trained": saved("motionctrl", folder / "trained.safetensors", poses, **trained),
    }


KINDS = {"cami2v": CamI2V, "cameractrl": CamI2V, "motionctrl": MotionCtrlI2V, "trained": MotionCtrlI2V}


@pytest.mark.parametrize("name", KINDS)
def test_a_camera_changes_the_video_and_leaves_the_model_as_it_was(
    model: VideoCrafter, files: dict[str, Path], name: str
) -> None:
    plain = model.generate("a boat", IMAGE, request=REQUEST)
    camera = KINDS[name](file=files[name], camera="pan left, zoom in")
    moved = model.generate("a boat", IMAGE, request=REQUEST, controls=[camera])
    assert not torch.equal(moved, plain)
    assert torch.equal(model.generate("a boat", IMAGE, request=REQUEST, controls=[camera]), moved)
    still = model.generate("a boat", IMAGE, request=REQUEST, controls=[KINDS[name](file=files[name])])
    assert torch.equal(still, plain)
    assert torch.equal(model.generate("a boat", IMAGE, request=REQUEST), plain)


def test_tensors_that_come_with_a_file_are_used(model: VideoCrafter, files: dict[str, Path]) -> None:
    made = [
        model.generate("a boat", IMAGE, request=REQUEST, controls=[MotionCtrlI2V(file=files[name], camera="zoom in")])
        for name in ("motionctrl", "trained")
    ]
    assert not torch.equal(*made)


def test_the_camera_guidance_is_a_third_pass(model: VideoCrafter, files: dict[str, Path]) -> None:
    made = []
    for guidance, course in ((1.0, "constant"), (2.0, "constant"), (2.0, "cosine")):
        camera = CamI2V(file=files["cami2v"], camera="zoom in", guidance=guidance, guidance_course=course)
        frames = [
            model.generate("a boat", IMAGE, request=replace(REQUEST, together=together), controls=[camera])
            for together in (False, True)
        ]
        assert torch.allclose(*frames, atol=2e-3)
        made.append(frames[0])
    assert not torch.equal(made[0], made[1])
    assert not torch.equal(made[1], made[2])


def test_the_authors_settings_are_the_defaults(files: dict[str, Path]) -> None:
    spec = replace(SPEC, defaults=replace(SPEC.defaults, spacing="uniform", guidance_rescale=0.0))
    request = Request(controls=(CamI2V(file=files["cami2v"], camera="still"),))
    sampling = request.settle(spec).sampling
    assert (sampling.spacing, sampling.guidance.rescale) == ("trailing", 0.7)
    sampling = replace(request, guidance_rescale=0.2).settle(spec).sampling
    assert sampling.guidance.rescale == 0.2
    sampling = Request(controls=(CamI2V(file=files["cami2v"]),)).settle(spec).sampling
    assert (sampling.spacing, sampling.guidance.rescale) == ("uniform", 0.0)


def test_long_clips_are_made_in_windows(model: VideoCrafter, files: dict[str, Path]) -> None:
    """With windows of whole passes, each of which sees its own part of the path."""
    long = replace(REQUEST, frames=9, context=ContextWindows(size=5, stride=4))
    camera = CamI2V(file=files["cami2v"], camera="pan left")
    plain = model.generate("a boat", IMAGE, request=long)
    moved = model.generate("a boat", IMAGE, request=long, controls=[camera])
    assert moved.shape == plain.shape == (9, 64, 128, 3)
    assert not torch.equal(moved, plain)
    with pytest.raises(UserError, match=r"at most 16 frames at once, but the network would see 20"):
        model.generate("a boat", IMAGE, request=replace(REQUEST, frames=20), controls=[camera])


def test_a_file_without_the_layers_is_refused(model: VideoCrafter, files: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"There is no camera layers"):
        model.generate("a boat", IMAGE, request=REQUEST, controls=[CamI2V(file=files["motionctrl"], camera="still")])
