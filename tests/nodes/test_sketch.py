"""Sketches in ComfyUI: the node gives what vc_core gives, with ToonCrafter's chain and with core's sampler."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models import sketch_encoder

from vc_core.control import Sketch
from vc_core.denoising import Sampling
from vc_core.network.layers import to_frames
from vc_core.pipeline import Request, VideoCrafter

SCALE = 0.18215
EXACT = 1e-4
SETTINGS = {"steps": 4, "eta": 0.0, "scheduler": "trailing"}
SIZE = {"width": 16, "height": 24, "frames": 3}


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def file(base) -> Path:
    path = base.model("controlnet", "sketch_encoder.ckpt")
    torch.save({"state_dict": sketch_encoder()}, path)
    return path


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 24, 16, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def sketches():
    generator = torch.Generator().manual_seed(2)
    return (torch.rand(2, 30, 20, 1, generator=generator) > 0.2).float().expand(-1, -1, -1, 3)


def guided(comfy, loaded, file, sketches, **given):
    values = {"file": file.name, "images": sketches, "frames": "0 2", "strength": 1.0, **given}
    return comfy.call("VideoCrafterSketchControl", model=loaded.model, **values).values[0]


def sampled(loaded, images, model=None):
    positive, negative, _, latent = loaded.continued(images[:1], end_image=images[1:])
    given = {"positive": positive, "negative": negative, "latent_image": latent}
    return loaded.sample(model, **given, **SETTINGS)


def by_vc_core(base, name, images, *controls):
    core = VideoCrafter.load(base.model("checkpoints", name))
    sampling = Sampling(steps=4, eta=0.0, spacing="trailing")
    wanted = Request(seed=7, cfg=3.0, sharp=True, sampling=sampling, guidance_rescale=0.0, controls=controls, **SIZE)
    steps = list(core.steps("a red square", images[0], request=wanted, end_image=images[1]))
    return to_frames(steps[-1].x) / SCALE


def test_the_node_gives_what_vc_core_gives(comfy, base, toon_model, file, images, sketches):
    plain = sampled(toon_model, images)
    out = sampled(toon_model, images, guided(comfy, toon_model, file, sketches))
    control = Sketch(file=file, images=tuple(sketches), frames="0 2", strength=1.0)
    assert relative(out, by_vc_core(base, toon_model.name, images, control)) < EXACT
    assert relative(out, plain) > 1e-3
    assert torch.equal(sampled(toon_model, images, guided(comfy, toon_model, file, sketches, strength=0.0)), plain)
    assert torch.equal(sampled(toon_model, images), plain)


def test_core_ksampler_follows_sketches(comfy, toon_model, file, images, sketches):
    positive, negative, _, latent = toon_model.continued(images[:1], end_image=images[1:])
    settings = {"seed": 1, "steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    given = {"positive": positive, "negative": negative, "latent_image": latent}
    model = guided(comfy, toon_model, file, sketches)
    plain, out = (
        comfy.call("KSampler", model=each, **settings, **given).values[0]["samples"]
        for each in (toon_model.model, model)
    )
    assert bool(out.isfinite().all())
    assert relative(out, plain) > 1e-3


def test_what_does_not_fit_is_refused(comfy, toon_model, text_model, file, images, sketches):
    with pytest.raises(Exception, match="There are 2 sketches for a clip of 3 frames"):
        sampled(toon_model, images, guided(comfy, toon_model, file, sketches, frames=""))
    with pytest.raises(Exception, match="Sketches guide ToonCrafter, and small_t2v is another kind of model"):
        text_model.sample(guided(comfy, text_model, file, sketches))
