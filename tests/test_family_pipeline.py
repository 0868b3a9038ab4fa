"""The whole way for DynamiCrafter, T2V-Turbo and FreeNoise, from files, prompts and pictures to frames."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_pipeline import Recorded
from torch import Tensor

from golden_cases import cases, load, relative_error
from vc_core.conditioning import Conditioning, text_over_time
from vc_core.denoising import SAMPLERS, Guidance, Sampling
from vc_core.denoising.denoiser import denoiser
from vc_core.denoising.freenoise import injected, reordered
from vc_core.denoising.guidance import guide
from vc_core.frames.fitting import fit, picture_latent
from vc_core.pipeline import GREY, VideoCrafter
from vc_core.specs import (
    AutoencoderSpec,
    DiffusionSpec,
    ImageEncoderSpec,
    ModelSpec,
    ResamplerSpec,
    SamplingDefaults,
    TextEncoderSpec,
    UNetSpec,
    Windows,
)

CONDITIONS = 1e-4  # bicubic coordinates in float32 for the image tokens; the latent and the text are at 1e-5
LATENT = 1e-5
ONE_STEP = 2e-5  # float32 against float64 is 5e-8 .. 5e-6
FIRST_STEP_WITH_NOISE = 3e-4  # from t = 999 with eta 1 rounding stands where the exact value is 0
SHORT, LONG, PROMPTS = 1e-4, 1e-3, 1e-2  # T2V-Turbo; FreeNoise with one prompt and with two: noise 1e-6 gives 7e-4
TEXT = 77
SPACINGS = {"uniform": "uniform", "uniform_trailing": "trailing"}


def spec_of(info: dict[str, Any]) -> ModelSpec:
    config, clip = info["config"]["params"], info["shrunk"]["clip_arch"]
    unet, numbers = config["unet_config"]["params"], config["first_stage_config"]["params"]["ddconfig"]
    text, vision, sizes = clip["text_cfg"], clip["vision_cfg"], info["shrunk"].get("resampler")
    scaled = config.get("use_dynamic_rescale") or config.get("use_scale")
    return ModelSpec(
        name=info["case"],
        unet=UNetSpec(
            in_channels=unet["in_channels"],
            concat_channels=unet["in_channels"] - unet["out_channels"],
            model_channels=unet["model_channels"],
            channel_mult=tuple(unet["channel_mult"]),
            num_res_blocks=unet["num_res_blocks"],
            attention_levels=tuple(
                i for i in range(len(unet["channel_mult"])) if 2**i in unet["attention_resolutions"]
            ),
            head_channels=unet["num_head_channels"],
            context_dim=unet["context_dim"],
            default_fps=unet.get("default_fs", 16),
            image_attention=unet.get("image_cross_attention", False),
            image_gate=unet.get("image_cross_attention_scale_learnable", False),
            guidance_width=unet.get("time_cond_proj_dim", 0),
        ),
        diffusion=DiffusionSpec(
            prediction=config.get("parameterization", "eps"),
            zero_terminal_snr=config.get("rescale_betas_zero_snr", False),
            rescale=config.get("base_scale", config.get("scale_b"))
            if scaled and "time_cond_proj_dim" not in unet
            else None,
            keep_last_rescale=unet["in_channels"] == 8,
        ),
        autoencoder=AutoencoderSpec(
            channels=numbers["ch"], channel_mult=tuple(numbers["ch_mult"]), num_res_blocks=numbers["num_res_blocks"]
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
            frames=sizes["video_length"],
        )
        if sizes
        else None,
        defaults=SamplingDefaults(width=64, height=64),
    )


def crafter_of(info: dict[str, Any], weights: dict[str, Tensor], t: dict[str, Tensor], folder: Path) -> VideoCrafter:
    buffers = {key[4:]: value for key, value in t.items() if key.startswith("buf/")}
    torch.save({"state_dict": {**weights, **buffers}}, folder / "model.ckpt")
    return VideoCrafter.load(folder / "model.ckpt", preset=spec_of(info))


def unit(picture: Tensor) -> Tensor:
    """3 h w in -1..1 -> h w 3 in 0..1"""
    return (picture.permute(1, 2, 0) + 1) / 2


def golden_told(context: Tensor, fps: float, concat: Tensor) -> Conditioning:
    image = context[:, TEXT:].unflatten(1, (concat.shape[2], -1))
    return Conditioning(text=context[:, :TEXT], image=image, fps=torch.tensor([fps]), concat=concat)


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("dc_e2e"), ids=lambda path: path.stem)
@torch.inference_mode()
def test_golden_dynamicrafter(path: Path, tmp_path: Path) -> None:
    info, weights, t = load(path)
    crafter = crafter_of(info, weights, t, tmp_path)
    size = (info["height"], info["width"])
    for number in (0, 1):
        fitted = fit(t[f"image/u8_{number}"].float() / 255, *size, "published")
        torch.testing.assert_close(fitted, unit(t[f"image/cropped_{number}"][0]), atol=2e-6, rtol=0)
    for call in info["calls"]:
        name = call["name"]
        cropped = [t.get(f"{name}/cropped_{number}", t[f"image/cropped_{number}"]) for number in (0, 1)]
        first, second = (unit(picture[0]) for picture in cropped)
        concat = t[f"{name}/c_concat"]
        check_concat(crafter, call, [first, second], t[f"{name}/posterior_noise"], concat)
        if call["path"] == "cli":
            prompt = info["prompt"] if call["text_input"] else ""
            told = [(crafter.condition(prompt, first, info["fs"]), t[f"{name}/context"])]
            if call["cfg"] != 1:
                told.append((crafter.condition("", GREY, info["fs"]), t[f"{name}/uncond_context"]))
            for which, golden in told:
                assert which.image is not None
                joined = torch.cat([which.text, which.image.flatten(1, 2)], dim=1)
                assert relative_error(joined, golden) < CONDITIONS, name
        check_steps(crafter, info, call, t)


def check_concat(
    crafter: VideoCrafter, call: dict[str, Any], pictures: list[Tensor], noise: Tensor, golden: Tensor
) -> None:
    """The command draws noise for every frame and uses that of the ends; the web page draws for each picture."""
    frames = golden.shape[2]
    at = len(noise) - 1 if call["path"] == "cli" else (len(noise) - 1 if call["mode"] == "interp" else 0)
    latents = [
        crafter._picture_latent(picture, Recorded(noise[place : place + 1], None))
        for picture, place in ((pictures[0], 0), (pictures[0 if call["mode"] == "loop" else 1], at))
    ]
    ours = picture_latent(latents[0], frames, None if call["mode"] == "i2v" else latents[1])
    assert relative_error(ours, golden) < LATENT, call["name"]


def check_steps(crafter: VideoCrafter, info: dict[str, Any], call: dict[str, Any], t: dict[str, Tensor]) -> None:
    """Each step from the golden latent before it: guided v-prediction with random weights multiplies rounding errors
    by 3 to 9, which would hide mistakes at the end of a run."""
    name, fps = call["name"], float(info["fs"])
    concat = t[f"{name}/c_concat"]
    told = {
        which: golden_told(t[f"{name}/{which}"], fps, concat)
        for which in ("context", "uncond_context", "img_nonetext_context")
        if f"{name}/{which}" in t
    }
    image_scale = call["cfg"] if call["cfg_img"] == "default" else call["cfg_img"]
    settings = Sampling(
        steps=call["steps"],
        eta=call["eta"],
        spacing=SPACINGS[call["timestep_spacing"]],
        guidance=Guidance(scale=call["cfg"], rescale=call["guidance_rescale"], image_scale=image_scale),
    )
    schedule = crafter.parts.schedule
    predict = guide(
        crafter.predict,
        told["context"],
        told.get("uncond_context"),
        settings.guidance,
        told.get("img_nonetext_context"),
    )
    denoise = denoiser(predict, schedule.prediction)
    levels = settings.levels(schedule)
    assert [level.timestep for level in levels[:-1]] == call["t"]
    noise = t.get(f"{name}/noise", torch.zeros(call["n_calls"], *t[f"{name}/x_T"].shape))
    for index in range(call["n_calls"]):
        x = t[f"{name}/x_T"] if index == 0 else t[f"{name}/x"][index - 1]
        step = next(SAMPLERS["ddim"](denoise, x, levels[index : index + 2], Recorded(noise[index], None), call["eta"]))
        tolerance = FIRST_STEP_WITH_NOISE if call["t"][index] == 999 and call["eta"] else ONE_STEP
        assert relative_error(step.x, t[f"{name}/x"][index]) < tolerance, (name, index)


def check_frames(video: Tensor, golden: Tensor, units: int = 1) -> None:
    """Frames f h w 3 in 0..1 against bytes 1 3 f h w, of all frames or of the first and last."""
    frames = golden[0].permute(1, 2, 3, 0)
    kept = video if len(frames) == len(video) else video[[0, -1]]
    assert ((kept * 255).to(torch.uint8).int() - frames.int()).abs().max() <= units


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("turbo_e2e"), ids=lambda path: path.stem)
@torch.inference_mode()
def test_golden_turbo(path: Path, tmp_path: Path) -> None:
    info, weights, t = load(path)
    crafter = crafter_of(info, weights, t, tmp_path)
    for call in info["calls"]:
        name = call["name"]
        x_t = t[f"{name}/x_T"]
        told = replace(
            crafter.condition(info.get("prompt") or info["prompts"][0], None, float(call["fps"])),
            guidance=torch.tensor([call["w"]]),
        )
        settings = Sampling(steps=call["steps"], sampler="lcm", guidance=Guidance(scale=1))
        levels = settings.levels(crafter.parts.schedule)
        assert [level.timestep for level in levels[:-1]] == call["t"]
        denoise = denoiser(partial(lambda told, x, timestep: crafter.predict(x, timestep, told), told), "eps")
        recorded = Recorded(t[f"{name}/noise"][0], t[f"{name}/noise"][1:])
        steps = list(SAMPLERS["lcm"](denoise, x_t, levels, recorded, 0.0))
        for step in steps:
            assert relative_error(step.denoised, t[f"{name}/denoised"][step.index]) < SHORT, (name, step.index)
        video = crafter.decode(steps[-1].x)
        if t[f"{name}/video_u8"].shape[2] in (2, len(video)):
            check_frames(video, t[f"{name}/video_u8"])


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("freenoise_e2e"), ids=lambda path: path.stem)
@torch.inference_mode()
def test_golden_freenoise(path: Path, tmp_path: Path) -> None:
    info, weights, t = load(path)
    crafter = crafter_of(info, weights, t, tmp_path)
    size, stride = info["window"]
    windows = Windows(size=size, stride=stride)
    for call in info["calls"]:
        orders = [[i - g * stride for i in row] for g, row in enumerate(call["shuffled_source_lists"])]
        x = reordered(t["noise_before"], windows, orders)
        assert torch.equal(x, t["x_T"])
        texts = torch.cat([crafter.condition(prompt, None, 16).text for prompt in info["prompts"]])
        assert relative_error(texts, t["text/emb"]) < LATENT
        told = replace(crafter.condition(info["prompts"][0], None, float(call["fps"])))
        if len(texts) > 1:
            told = replace(told, text=text_over_time(texts, info["t"]), early_text=texts[-1:])
        settings = Sampling(steps=call["steps"], eta=call["eta"], guidance=Guidance(scale=call["cfg"]))
        levels = settings.levels(crafter.parts.schedule)
        model = injected(partial(crafter.predict, windows=windows), levels)
        negative = crafter.condition("", None, float(call["fps"]))
        denoise = denoiser(guide(model, told, negative, settings.guidance), "eps")
        steps = list(SAMPLERS["ddim"](denoise, x, levels, Recorded(x * 0, None), call["eta"]))
        for step in steps:
            where = (call["name"], step.index)
            assert relative_error(step.x, t["x"][step.index]) < (PROMPTS if call["mp"] else LONG), where
        if not call["mp"]:
            check_frames(crafter.decode(steps[-1].x), t["video_u8"])
