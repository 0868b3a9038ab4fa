"""The way through ComfyUI gives the numbers of vc_core."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vc_core.denoising import NoiseSchedule, Sampling, Source
from vc_core.network.layers import to_clips, to_frames
from vc_core.pipeline import Request, VideoCrafter

SCALE = 0.18215
WIDTH, HEIGHT, FRAMES = 16, 24, 3

EXACT = 1e-4
"""Single precision in another order of operations, carried through ten steps of a network that does not denoise."""

SAME_SAMPLER = 1e-3


def relative(a, b):
    return float((a - b).norm() / b.norm())


def crafter(base, name):
    return VideoCrafter.load(base.model("checkpoints", name))


def by_vc_core(core, prompt="a red square", picture=None, source=None, **request):
    settings = {"negative": "", "seed": 7, "width": WIDTH, "height": HEIGHT, "frames": FRAMES, "cfg": 3.0, **request}
    steps = list(core.steps(prompt, picture, request=Request(**settings), source=source))
    return to_frames(steps[-1].x) / SCALE


@pytest.mark.weightless
@pytest.mark.parametrize("kind", ["text", "relative"])
@pytest.mark.parametrize(
    ("node", "request_"),
    [
        ({}, {}),
        ({"eta": 0.0, "cfg": 1.0}, {"cfg": 1.0, "eta": 0.0}),
        ({"scheduler": "trailing", "fps": 21.0}, {"spacing": "trailing", "fps": 21.0}),
        ({"guidance_rescale": 0.7}, {"guidance_rescale": 0.7}),
        ({"temporal_guidance": 1.5, "guidance_rescale": 0.4}, {"temporal_guidance": 1.5, "guidance_rescale": 0.4}),
        ({"seed": 2**64 - 3}, {"seed": 2**64 - 3}),
    ],
)
def test_exact_ddim_is_that_of_vc_core(request, base, checkpoints, kind, node, request_):
    loaded = request.getfixturevalue(f"{kind}_model")
    wanted = dict(request_)
    sampling = Sampling(steps=10, eta=wanted.pop("eta", 1.0), spacing=wanted.pop("spacing", "uniform"))
    expected = by_vc_core(crafter(base, checkpoints[kind]), sampling=sampling, **wanted)
    out = loaded.sample(**{"steps": 10, **node})
    assert relative(out, expected) < EXACT


def test_a_picture_counts_as_in_vc_core(base, checkpoints, image_model):
    picture = torch.rand(23, 37, 3, generator=torch.Generator().manual_seed(1))
    core = crafter(base, checkpoints["image"])
    expected = by_vc_core(core, picture=picture, sampling=Sampling(steps=10))
    positive, negative = image_model.picture(picture[None])
    out = image_model.sample(steps=10, positive=positive, negative=negative)
    assert relative(out, expected) < EXACT


@pytest.mark.weightless
@pytest.mark.parametrize("masked", [False, True])
def test_starting_from_a_clip_is_that_of_vc_core(base, checkpoints, text_model, masked):
    latents = torch.randn(FRAMES, 4, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(FRAMES, HEIGHT // 8, WIDTH // 8)
    mask[1:, :, 1:] = 1
    source = Source(to_clips(latents * SCALE, FRAMES), 0.6, mask[None, None] if masked else None)
    expected = by_vc_core(crafter(base, checkpoints["text"]), source=source, sampling=Sampling(steps=10))
    given = {"samples": latents, **({"noise_mask": mask[:, None]} if masked else {})}
    out = text_model.sample(steps=10, latent_image=given, denoise=0.6)
    assert relative(out, expected) < EXACT


@pytest.mark.weightless
@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
def test_core_samplers_are_ours_of_the_same_name(base, checkpoints, text_model, name):
    expected = by_vc_core(crafter(base, checkpoints["text"]), sampling=Sampling(steps=10, sampler=name))
    assert relative(text_model.sample(steps=10, sampler_name=name), expected) < SAME_SAMPLER


@pytest.mark.weightless
@pytest.mark.parametrize("name", ["euler", "ddim"])
def test_core_ksampler_is_our_euler(base, checkpoints, comfy, text_model, name):
    """ComfyUI's KSampler with its own noise, from the very last timestep on."""
    latent = text_model.latent(WIDTH, HEIGHT, FRAMES)
    settings = {"seed": 3, "steps": 10, "cfg": 3.0, "sampler_name": name, "scheduler": "normal", "denoise": 1.0}
    conditioning = {"positive": text_model.text("a red square"), "negative": text_model.text("")}
    (out,) = comfy.call("KSampler", model=text_model.model, latent_image=latent, **settings, **conditioning).values
    out = out["samples"]
    noise = torch.randn(latent["samples"].shape, generator=torch.manual_seed(3))
    sampler = comfy.call("VideoCrafterSampler", sampler="euler").values[0]
    sigmas = comfy.call("BasicScheduler", model=text_model.model, scheduler="normal", steps=10, denoise=1.0).values[0]
    ours = custom(comfy, text_model, sampler, sigmas, noise)
    assert relative(out, ours) < SAME_SAMPLER


def custom(comfy, loaded, sampler, sigmas, noise, seed=3, cfg=3.0, latent=None):
    import comfy.sample as host

    latent = torch.zeros_like(noise) if latent is None else latent
    with torch.inference_mode():
        return host.sample_custom(
            loaded.model, noise, cfg, sampler, sigmas, loaded.text("a red square"), loaded.text(""), latent, seed=seed
        )


def test_two_stages_are_one_run(comfy, text_model):
    sampler = comfy.call("VideoCrafterSampler", sampler="ddim_exact", eta=0.0).values[0]
    sigmas = comfy.call("VideoCrafterScheduler", model=text_model.model, steps=10).values[0]
    noise = torch.randn(FRAMES, 4, 3, 2, generator=torch.Generator().manual_seed(4))
    whole = custom(comfy, text_model, sampler, sigmas, noise)
    first = custom(comfy, text_model, sampler, sigmas[:5], noise)
    second = custom(comfy, text_model, sampler, sigmas[4:], torch.zeros_like(noise), latent=first)
    assert relative(second, whole) < EXACT


def test_prompts_are_encoded_as_in_vc_core(base, checkpoints, text_model):
    core = crafter(base, checkpoints["text"])
    for prompt in ("", "A red square, moving to the left!", "word " * 200):
        ((text, _),) = text_model.text(prompt)
        with torch.inference_mode():
            assert torch.allclose(text, core.parts.text_encoder([prompt]), atol=2e-5)


def test_latents_decode_as_in_vc_core(base, checkpoints, comfy, text_model):
    latents = torch.randn(7, 4, 5, 3, generator=torch.Generator().manual_seed(5))
    expected = crafter(base, checkpoints["text"]).decode(to_clips(latents * SCALE, 7))
    for chunk in (1, 3, 16):
        out = comfy.call("VideoCrafterDecode", samples={"samples": latents}, vae=text_model.vae, frames_per_chunk=chunk)
        assert torch.allclose(out.values[0], expected, atol=1e-4)


def test_frames_encode_as_in_vc_core(base, checkpoints, comfy, text_model):
    frames = torch.rand(3, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(6))
    expected = to_frames(crafter(base, checkpoints["text"]).encode(frames)) / SCALE
    out = comfy.call("VAEEncode", pixels=frames, vae=text_model.vae).values[0]["samples"]
    assert relative(out, expected) < EXACT


def test_schedule_speaks_for_the_rescale(text_model):
    sampling = text_model.model.get_model_object("model_sampling")
    schedule = NoiseSchedule.from_spec(replace(text_model.model.model.spec.diffusion))
    sigmas = schedule.sigmas.float()
    assert torch.equal(sampling.sigmas, sigmas)
    assert torch.equal(sampling.timestep(sigmas), torch.arange(1000.0))
    between = torch.tensor([3.25, 400.5, 998.75])
    sigma = schedule.sigma_of(between)
    assert torch.allclose(sampling.timestep(sigma), between, atol=2e-3)
    x = torch.ones(3, 4, 1, 1)
    assert torch.allclose(sampling.calculate_input(sigma, x)[:, 0, 0, 0], schedule.signal_of(sigma), rtol=1e-5)
