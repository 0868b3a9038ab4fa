"""Core's samplers, RescaleCFG and context windows on a model that continues pictures and predicts the velocity."""

from __future__ import annotations

import pytest
import torch

from comfyui.limits import skip_without
from vc_core.conditioning import tokens_for_frames
from vc_core.denoising import Sampling
from vc_core.frames.fitting import image_latent
from vc_core.network.layers import to_frames
from vc_core.pipeline import Request, VideoCrafter

SCALE = 0.18215
SAME_SAMPLER = {"euler": 1e-3, "dpmpp_2m": 5e-3}
"""Where no signal is left core needs a finite sigma; a sampler of second order remembers that first step's length."""
FRAMES = 9


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(2, 24, 16, 3, generator=torch.Generator().manual_seed(6))


@pytest.fixture(scope="module")
def conditioning(continuing_model, pictures):
    """positive, negative, picture_only and the latent of a clip between two pictures."""
    return continuing_model.continued(pictures[:1], end_image=pictures[1:], frames=FRAMES)


def by_core(comfy, loaded, conditioning, model=None, **options):
    settings = {"seed": 5, "steps": 4, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    positive, negative, _, latent = conditioning
    return comfy.call(
        "KSampler",
        model=model or loaded.model,
        positive=positive,
        negative=negative,
        latent_image=latent,
        **{**settings, **options},
    ).values[0]["samples"]


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
def test_core_samplers_are_those_of_vc_core_with_velocity_and_rescale(
    base, continuing_model, pictures, conditioning, name
):
    core = VideoCrafter.load(base.model("checkpoints", continuing_model.name))
    request = Request(
        seed=7,
        width=16,
        height=24,
        frames=FRAMES,
        cfg=3.0,
        guidance_rescale=0.7,
        sharp=True,
        sampling=Sampling(steps=6, sampler=name, spacing="trailing"),
    )
    steps = list(core.steps("a red square", pictures[0], request=request, end_image=pictures[1]))
    positive, negative, _, latent = conditioning
    out = continuing_model.sample(
        positive=positive,
        negative=negative,
        latent_image=latent,
        sampler_name=name,
        scheduler="trailing",
        steps=6,
        guidance_rescale=0.7,
    )
    assert relative(out, to_frames(steps[-1].x) / SCALE) < SAME_SAMPLER[name]


def test_rescale_cfg_takes_back_what_guidance_spreads(comfy, continuing_model, conditioning):
    def rescaled(multiplier):
        (model,) = comfy.call("RescaleCFG", model=continuing_model.model, multiplier=multiplier).values
        return by_core(comfy, continuing_model, conditioning, model=model, cfg=12.0)

    plain = by_core(comfy, continuing_model, conditioning, cfg=12.0)
    calm = float(by_core(comfy, continuing_model, conditioning, cfg=1.0).std())
    assert relative(rescaled(0.0), plain) < 1e-2
    spread, less = float(plain.std()), float(rescaled(0.7).std())
    assert spread > calm
    assert abs(less - calm) < 0.7 * (spread - calm)


def test_context_windows_cut_latents_and_tokens_of_the_pictures(comfy, continuing_model, conditioning):
    skip_without("core's context windows over our frames")
    import comfy.patcher_extension as extension

    windows = {"context_length": 5, "context_overlap": 2, "context_schedule": "standard_static", "context_stride": 1}
    windows |= {"closed_loop": False, "fuse_method": "pyramid", "dim": 0, "freenoise": False}
    (model,) = comfy.call("ContextWindowsManual", model=continuing_model.model, **windows).values
    seen = []

    def look(executor, x, timesteps, context, control, options, **conditions):
        clips = options["cond_or_uncond"]
        parts = (x[:, 4:].chunk(len(clips)), conditions["image"].chunk(len(clips)))
        seen.extend(zip(clips, *parts, strict=True))
        return executor(x, timesteps, context, control, options, **conditions)

    model.add_wrapper_with_key(extension.WrappersMP.DIFFUSION_MODEL, "look", look)
    out = by_core(comfy, continuing_model, conditioning, model=model, steps=1)
    assert torch.isfinite(out).all()
    carried = conditioning[0][0][1]
    first, last = (latent * SCALE for latent in carried["videocrafter_pictures"])
    beside = to_frames(image_latent(first, FRAMES, last))
    tokens = tokens_for_frames(carried["videocrafter_image_tokens"][None], FRAMES)[0]
    spans = set()
    for which, latents, image in seen:
        size = len(latents)
        found = [start for start in range(FRAMES - size + 1) if torch.equal(latents, beside[start : start + size])]
        assert found, "the latents beside a window are those of its frames"
        at = [start for start in found if torch.allclose(image, tokens[start : start + size], atol=1e-5)]
        if which == 0:
            assert len(at) == 1, "and so are the tokens"
            spans.add((at[0], at[0] + size))
    assert {frame for start, end in spans for frame in range(start, end)} == set(range(FRAMES))
    assert len(spans) == 3
