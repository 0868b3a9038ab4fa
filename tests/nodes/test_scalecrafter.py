"""VideoCrafter ScaleCrafter: the numbers of vc_core, with every sampler."""

from __future__ import annotations

import pytest
import torch

from vc_core.control import ScaleCrafter
from vc_core.denoising import Sampling
from vc_core.network.layers import to_frames
from vc_core.pipeline import Request, VideoCrafter

SCALE = 0.18215
SIZE = {"width": 96, "height": 80, "frames": 2}
DAMPED = {"factors": "level 1: 3, up 0: 2", "dilated_steps": 2, "damped_steps": 1, "course": "progressive"}


def relative(a, b):
    return float((a - b).norm() / b.norm())


def with_scale(comfy, model, **given):
    return comfy.call("VideoCrafterScaleCrafterControl", model=model, **given).values[0]


@pytest.mark.parametrize("given", [{}, DAMPED, {"dispersed_steps": 1}], ids=["by size", "damped", "dispersed"])
def test_clips_are_those_of_vc_core(base, comfy, text_model, given):
    core = VideoCrafter.load(base.model("checkpoints", text_model.name))
    sampling = Sampling(steps=4, eta=0.0)
    wanted = Request(seed=7, cfg=3.0, sampling=sampling, controls=(ScaleCrafter(**given),), **SIZE)
    *_, last = core.steps("a red square", request=wanted)
    settings = {"latent_image": text_model.latent(**SIZE), "eta": 0.0, "steps": 4}
    out = text_model.sample(model=with_scale(comfy, text_model.model, **given), **settings)
    assert relative(out, to_frames(last.x) / SCALE) < 1e-4
    assert relative(text_model.sample(**settings), out) > 1e-4


def test_the_trained_size_changes_no_bit_and_smaller_ones_are_refused(comfy, text_model):
    model = with_scale(comfy, text_model.model)
    latent = text_model.latent(width=64, height=64, frames=2)
    plain = text_model.sample(latent_image=latent, steps=2)
    assert torch.equal(text_model.sample(model=model, latent_image=latent, steps=2), plain)
    with pytest.raises(Exception, match="ScaleCrafter is for videos above the trained size"):
        text_model.sample(model=model)
