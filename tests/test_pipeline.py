"""The whole way, from a checkpoint file and a prompt to frames, against the reference's numbers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
from torch import Tensor

from golden_cases import cases, load, relative_error
from vc_core.conditioning import Conditioning
from vc_core.denoising import Guidance, Sampling, Source, sample
from vc_core.errors import UserError
from vc_core.pipeline import GREY, Request, VideoCrafter
from vc_core.specs import (
    AutoencoderSpec,
    DiffusionSpec,
    ImageEncoderSpec,
    ModelSpec,
    ResamplerSpec,
    SamplingDefaults,
    TextEncoderSpec,
    UNetSpec,
)

TOLERANCE = 1e-4  # up to 20 steps; float32 against float64 is 1e-5 .. 8e-5
TOLERANCE_LONG = 3e-3  # 50 steps; float32 against float64 is 1e-4 .. 4e-4
TOLERANCE_IMAGE = 1e-4  # bicubic coordinates in float32


def spec_of(info: dict[str, Any]) -> ModelSpec:
    config, clip, sizes = info["config"]["params"], info["shrunk"]["clip_arch"], info["shrunk"]["resampler"]
    unet, numbers = config["unet_config"]["params"], config["first_stage_config"]["params"]["ddconfig"]
    text, vision = clip["text_cfg"], clip["vision_cfg"]
    return ModelSpec(
        name=info["case"],
        unet=UNetSpec(
            model_channels=unet["model_channels"],
            channel_mult=tuple(unet["channel_mult"]),
            num_res_blocks=unet["num_res_blocks"],
            attention_levels=tuple(
                i for i in range(len(unet["channel_mult"])) if 2**i in unet["attention_resolutions"]
            ),
            head_channels=unet["num_head_channels"],
            context_dim=unet["context_dim"],
            temporal_conv=unet["temporal_conv"],
            relative_position=unet["use_relative_position"],
            fps_condition=unet["fps_cond"],
            image_attention=unet.get("use_image_attention", False),
        ),
        diffusion=DiffusionSpec(
            timesteps=config["timesteps"],
            beta_start=config["linear_start"],
            beta_end=config["linear_end"],
            rescale=config.get("scale_b", 0.3) if config["use_scale"] else None,
        ),
        autoencoder=AutoencoderSpec(
            channels=numbers["ch"],
            channel_mult=tuple(numbers["ch_mult"]),
            num_res_blocks=numbers["num_res_blocks"],
            scale_factor=config["scale_factor"],
        ),
        text_encoder=TextEncoderSpec(
            width=text["width"], heads=text["heads"], layers=text["layers"], embed_dim=clip["embed_dim"]
        ),
        image_encoder=ImageEncoderSpec(
            width=vision["width"],
            head_width=vision["head_width"],
            layers=vision["layers"],
            embed_dim=clip["embed_dim"],
            text_width=text["width"],
        )
        if sizes
        else None,
        image_tokens=ResamplerSpec(
            dim=sizes["dim"],
            depth=sizes["depth"],
            head_channels=sizes["dim_head"],
            heads=sizes["heads"],
            queries=sizes["num_queries"],
            embedding_dim=sizes["embedding_dim"],
            output_dim=sizes["output_dim"],
            ff_mult=sizes["ff_mult"],
        )
        if sizes
        else None,
        defaults=SamplingDefaults(width=64, height=64),
    )


class Recorded:
    """Hands out noise that was stored, in order; zeros where only the start was stored (eta 0 ignores the rest)."""

    def __init__(self, start: Tensor, steps: Tensor | None) -> None:
        self.draws = iter([start, *(steps if steps is not None else [])])

    def draw(self, shape: Sequence[int], device: torch.device | str, dtype: torch.dtype) -> Tensor:
        drawn = next(self.draws, torch.zeros(tuple(shape)))
        assert drawn.shape == tuple(shape)
        return drawn.to(device, dtype)


@pytest.mark.parametrize("path", cases("e2e"), ids=lambda path: path.stem)
def test_golden_from_prompt_to_frames(path: Path, tmp_path: Path) -> None:
    info, weights, t = load(path)
    buffers = {key[4:]: value for key, value in t.items() if key.startswith("buf/")}
    torch.save({"state_dict": {**weights, **buffers}}, tmp_path / "model.ckpt")
    crafter = VideoCrafter.load(tmp_path / "model.ckpt", preset=spec_of(info))

    pictures = [None] * info["b"]
    if "image/cond" in t:
        pictures = [(picture.permute(1, 2, 0) + 1) / 2 for picture in t["image/cond"]]
    positive, negative = (
        joined([crafter.condition(*told) for told in zip(prompts, shown, info["fps"], strict=True)])
        for prompts, shown in (
            (info["prompts"], pictures),
            ([""] * info["b"], [None if picture is None else GREY for picture in pictures]),
        )
    )
    for ours, golden in ((positive, t["context"]), (negative, t["uncond_context"])):
        tokens = ours.text if ours.image is None else torch.cat([ours.text, ours.image], dim=1)
        assert relative_error(tokens, golden) < TOLERANCE_IMAGE

    assert info["calls"]
    for call in info["calls"]:
        check_run(crafter, call, t, positive, negative)


def joined(told: Sequence[Conditioning]) -> Conditioning:
    """The conditionings of single clips as that of a batch."""
    images = [one.image for one in told if one.image is not None]
    return Conditioning(
        text=torch.cat([one.text for one in told]),
        image=torch.cat(images) if images else None,
        fps=torch.cat([one.fps for one in told if one.fps is not None]),
    )


def check_run(
    crafter: VideoCrafter, call: dict[str, Any], t: dict[str, Tensor], positive: Conditioning, negative: Conditioning
) -> None:
    name = call["name"]
    tolerance = TOLERANCE if call["steps"] <= 20 else TOLERANCE_LONG
    settings = Sampling(steps=call["steps"], eta=call["eta"], guidance=Guidance(scale=call["cfg"]))
    start = t[f"{name}/x_T"]
    noise = Recorded(start, t.get(f"{name}/noise"))
    with torch.inference_mode():
        steps = list(
            sample(
                crafter.predict,
                crafter.parts.schedule,
                positive,
                negative,
                noise=noise,
                shape=start.shape,
                settings=settings,
            )
        )
        videos = [crafter.decode(latents[None]) for latents in steps[-1].x]  # f h w 3
    for row, index in enumerate(call["x_rows_are_steps"]):
        assert relative_error(steps[index].x, t[f"{name}/x"][row]) < tolerance, (name, index)
        if call["steps"] == len(t.get(f"{name}/pred_x0", [])):
            assert relative_error(steps[index].denoised, t[f"{name}/pred_x0"][index]) < tolerance, (name, index)
    for video, stored in zip(videos, t[f"{name}/video_u8"], strict=True):
        golden = stored.permute(1, 2, 3, 0)  # all frames, or the first ones, h w 3
        differing = ((video[: len(golden)] * 255).to(torch.uint8).int() - golden.int()).abs()
        # values at a rounding border move by one; longer runs of a random network carry more rounding error
        assert differing.max() <= (1 if call["steps"] <= 20 else 4), name


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
