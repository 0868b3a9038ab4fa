"""The bundled camera layers of the small text model: found, loaded, and what they do."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from evaluation.camera import seen
from vc_core import bundled
from vc_core.checkpoint import open_checkpoint
from vc_core.control import MotionCtrl
from vc_core.control.motionctrl import check_base
from vc_core.control.options import add_control_options, controls_of
from vc_core.denoising import Sampling
from vc_core.network.adapters.motionctrl import MotionCtrlNetwork
from vc_core.pipeline import Request, VideoCrafter

PROMPT = "a red square stands still on a grey background"


@pytest.fixture(scope="module")
def crafter() -> VideoCrafter:
    return VideoCrafter.load(bundled.TEXT)


def test_the_file_is_recognised_by_its_keys_and_fits_the_small_model(crafter: VideoCrafter) -> None:
    assert bundled.CAMERA.stat().st_size < 2**20
    weights = open_checkpoint(bundled.CAMERA).build("motionctrl", device="cpu", dtype=crafter.parts.dtype)
    assert isinstance(weights, MotionCtrlNetwork)
    assert weights.omcm is None
    check_base(weights, crafter.parts.spec.unet)
    transformers = {name.removesuffix(".transformer_blocks.0") for name in weights.projections}
    assert crafter.parts.unet is not None
    assert transformers <= {name for name, _ in crafter.parts.unet.named_modules()}


def test_the_short_name_is_the_bundled_file(crafter: VideoCrafter) -> None:
    options = argparse.ArgumentParser()
    add_control_options(options)
    given = options.parse_args(["--motionctrl", "small", "--motionctrl-camera", "pan left"])
    (control,) = controls_of(given, Request().settle(crafter.parts.spec))
    assert control == MotionCtrl(file=str(bundled.CAMERA), camera="pan left")
    other = options.parse_args(["--cami2v", "small"])
    (control,) = controls_of(other, Request().settle(crafter.parts.spec))
    assert control.file == "small"


def test_everything_moves_against_the_camera(crafter: VideoCrafter) -> None:
    def shift(camera: str) -> float:
        control = MotionCtrl(file=bundled.CAMERA, camera=camera)
        request = Request(seed=1, sampling=Sampling(steps=6, eta=0.0), controls=(control,))
        return float(seen(np.asarray(crafter.generate(PROMPT, request=request).numpy()))[0])

    left, right = shift("pan left"), shift("pan right")
    assert left > 0.1
    assert right < -0.1
