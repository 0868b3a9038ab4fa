"""The whole way, from a checkpoint file and a prompt to frames, against the reference's numbers."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
from golden_models import conditions, crafter_of, sampling_of
from torch import Tensor

from golden_cases import RecordedNoise, allowed, cases, check_frames, load, relative_error, step_noise
from vc_core.conditions import Conditioning
from vc_core.denoising import Sampling, Source, sample
from vc_core.errors import UserError
from vc_core.pipeline import GREY, Request, VideoCrafter
from vc_core.specs import (
    SamplingDefaults,
)

TOLERANCE = 1e-4  # 5 steps; float32 against float64 is 1e-6 .. 7e-6, and more in each further step
TOLERANCE_LONG = 3e-3  # at most: after 50 steps float32 against float64 is 1e-4 .. 4e-4
TOLERANCE_IMAGE = 1e-4  # bicubic coordinates in float32


@pytest.mark.parametrize("path", cases("e2e"), ids=lambda path: path.stem)
def test_golden_from_prompt_to_frames(path: Path, tmp_path: Path) -> None:
    info, weights, t = load(path)
    crafter = crafter_of(info, weights, t, tmp_path)
    prompts = info["prompts"]
    shown = [(picture.permute(1, 2, 0) + 1) / 2 for picture in t.get("image/cond", [])]
    positive, negative = (
        conditions(crafter, texts, pictures or [None], info["fps"])
        for texts, pictures in ((prompts, shown), ([""] * len(prompts), [GREY] if shown else []))
    )
    for ours, golden in ((positive, t["context"]), (negative, t["uncond_context"])):
        tokens = ours.text if ours.image is None else torch.cat([ours.text, ours.image], dim=1)
        assert relative_error(tokens, golden) < TOLERANCE_IMAGE

    assert info["calls"]
    for call in info["calls"]:
        check_run(crafter, call, t, positive, negative)


def check_run(
    crafter: VideoCrafter, call: dict[str, Any], t: dict[str, Tensor], positive: Conditioning, negative: Conditioning
) -> None:
    name, schedule, settings = call["name"], crafter.parts.schedule, sampling_of(call)
    timesteps = [level.timestep for level in settings.levels(schedule)[:-1]]
    assert timesteps == call["t"], name
    count, start = len(timesteps), t[f"{name}/x_T"]
    noise = RecordedNoise([start, *step_noise(t.get(f"{name}/noise"), start, count, call["eta"])])
    given = {"positive": positive, "negative": negative}
    with torch.inference_mode():
        steps = list(sample(crafter.predict, schedule, given, noise=noise, shape=start.shape, settings=settings))
        videos = [crafter.decode(latents[None]) for latents in steps[-1].x]  # f h w 3
    own = call.get("rel_l2_fp64_per_step")
    for stored, index in enumerate(call["x_rows_are_steps"]):
        tolerance = allowed(TOLERANCE, TOLERANCE_LONG, own, index)
        assert relative_error(steps[index].x, t[f"{name}/x"][stored]) < tolerance, (name, index)
        if count == len(t.get(f"{name}/pred_x0", [])):
            assert relative_error(steps[index].denoised, t[f"{name}/pred_x0"][index]) < tolerance, (name, index)
    for video, golden in zip(videos, t[f"{name}/video_u8"], strict=True):
        # longer runs of a random network carry more rounding error
        check_frames(video, golden, call.get("video_u8_frames"), units=1 if count <= 20 else 4)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VideoCrafter]:
    """A text-to-video and an image-to-video model of random weights, from files of ours."""
    folder = tmp_path_factory.mktemp("models")
    defaults = SamplingDefaults(width=24, height=16, frames=3, steps=3)
    loaded = {}
    for kind, spec in (("text", small_models.TEXT_MODEL), ("image", small_models.IMAGE_MODEL)):
        path = small_models.save(replace(spec, defaults=defaults), folder / f"{kind}.safetensors")
        loaded[kind] = VideoCrafter.load(path)
    return loaded


QUICK = Sampling(steps=2)


def test_frames_are_what_was_asked_for_and_the_seed_decides(models: dict[str, VideoCrafter]) -> None:
    text = models["text"]
    request = Request(seed=2**40, width=32, height=24, frames=5, sampling=QUICK)
    frames = text.generate("a boat", request=request)
    assert frames.shape == (5, 24, 32, 3)
    assert frames.dtype == torch.float32
    assert frames.min() >= 0
    assert frames.max() <= 1
    assert torch.equal(frames, text.generate("a boat", request=request))
    other = Request(seed=2**40 + 2**33, width=32, height=24, frames=5, sampling=QUICK)
    assert not torch.equal(frames, text.generate("a boat", request=other))


def test_every_condition_changes_the_video(models: dict[str, VideoCrafter]) -> None:
    image = models["image"]
    red = torch.zeros(9, 13, 3)
    red[..., 0] = 1
    base = image.generate("a boat", red, request=Request(sampling=QUICK))
    changed = {
        "prompt": image.generate("a car", red, request=Request(sampling=QUICK)),
        "picture": image.generate("a boat", 1 - red, request=Request(sampling=QUICK)),
        "negative": image.generate("a boat", red, request=Request(sampling=QUICK, negative="fog")),
        "fps": image.generate("a boat", red, request=Request(sampling=QUICK, fps=4)),
        "cfg": image.generate("a boat", red, request=Request(sampling=QUICK, cfg=2)),
        "guidance rescale": image.generate("a boat", red, request=Request(sampling=QUICK, guidance_rescale=0.7)),
        "temporal guidance": image.generate("a boat", red, request=Request(sampling=QUICK, temporal_guidance=2)),
    }
    for name, frames in changed.items():
        assert not torch.equal(frames, base), name


def test_video_to_video_stays_nearer_the_weaker_it_is(models: dict[str, VideoCrafter]) -> None:
    text = models["text"]
    video = torch.rand(3, 16, 24, 3, generator=torch.Generator().manual_seed(3))
    latents = text.encode(video)
    assert latents.shape == (1, 4, 3, 2, 3)
    request = Request(sampling=Sampling(steps=10, eta=0.0), cfg=1)
    results = [list(text.steps("a boat", request=request, source=Source(latents, strength=s)))[-1].x for s in (0.1, 1)]
    near, far = ((x - latents).norm() for x in results)
    assert near < far


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(width=20), "Width is 20 pixels; it should be a multiple of 8. The nearest are 16 and 24"),
        (Request(height=1), "Height is 1 pixels; it should be a multiple of 8. The nearest are 8 and 16"),
        (Request(frames=0), "0 frames were asked for; give 1 or more"),
        (Request(fps=0), "fps condition is 0; it should be above 0"),
        (Request(seed=-1), "The seed is -1"),
        (Request(sampling=Sampling(steps=27)), "27 steps cannot be spaced uniformly"),
    ],
)
def test_bad_requests_are_refused_before_any_work(
    models: dict[str, VideoCrafter], request_: Request, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        models["text"].steps("a boat", request=request_)


def test_a_picture_belongs_to_image_models_only(models: dict[str, VideoCrafter]) -> None:
    with pytest.raises(UserError, match="give it a picture"):
        models["image"].steps("a boat")
    with pytest.raises(UserError, match="cannot take a picture"):
        models["text"].steps("a boat", torch.zeros(8, 8, 3))


@pytest.mark.parametrize("prompt", ["", "x " * 5000])
def test_any_prompt_makes_a_video(models: dict[str, VideoCrafter], prompt: str) -> None:
    assert models["text"].generate(prompt, request=Request(sampling=QUICK)).isfinite().all()


def test_half_precision_stays_close(models: dict[str, VideoCrafter]) -> None:
    """On the CPU, bf16: 8 bits of mantissa through a network of this depth leave a few percent."""
    parts = models["text"].parts

    halves = {name: copy.deepcopy(getattr(parts, name)).bfloat16() for name in ("unet", "autoencoder", "text_encoder")}
    half = VideoCrafter(replace(parts, dtype=torch.bfloat16, **halves))
    request = Request(sampling=Sampling(steps=2, eta=0.0), cfg=1)
    full = models["text"].generate("a boat", request=request)
    assert (half.generate("a boat", request=request) - full).abs().mean() < 0.05
