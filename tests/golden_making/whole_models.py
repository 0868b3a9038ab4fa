"""Cases of whole models, from a prompt to frames."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from golden_cases import RecordedNoise
from vc_core.checkpoint import PARTS
from vc_core.checkpoint.building import build_empty
from vc_core.conditioning import text_over_time
from vc_core.conditions import Conditioning, Evaluation
from vc_core.denoising import Guidance, NoiseSchedule
from vc_core.denoising.freenoise import reordered, with_motion_injection
from vc_core.denoising.guidance import guide
from vc_core.frames.fitting import fit, image_latent
from vc_core.image_latents import latent_of
from vc_core.network.unet import VideoUNet
from vc_core.pipeline import GREY, VideoCrafter
from vc_core.specs import (
    AutoencoderSpec,
    DiffusionSpec,
    ImageEncoderSpec,
    ModelSpec,
    ResamplerSpec,
    TextEncoderSpec,
    UNetSpec,
    Windows,
)

from .parts import (
    CONTINUING,
    OUR_TOKENS,
    OURS,
    PLAIN,
    RELATIVE,
    SIZES,
    TEXT,
    TOKENS,
    VAE,
    VISION,
    Draws,
    by_recipe,
    write,
)
from .trajectories import consistent, walked


def model_case(
    folder: Path, unet: UNetSpec, diffusion: DiffusionSpec, tokens: ResamplerSpec | None = None
) -> tuple[VideoCrafter, dict[str, Tensor], dict[str, Tensor]]:
    """A whole model with weights of the recipe, those, and the buffers that stand beside them."""
    spec = ModelSpec(
        name="made",
        unet=unet,
        diffusion=diffusion,
        autoencoder=AutoencoderSpec(channels=32, channel_mult=(1, 2), num_res_blocks=1, scale_factor=0.3),
        text_encoder=TextEncoderSpec(**TEXT, embed_dim=12),
        image_encoder=ImageEncoderSpec(**VISION, embed_dim=12, text_width=16) if tokens else None,
        image_tokens=tokens,
    )
    weights: dict[str, Tensor] = {}
    for part, record in PARTS.items():
        if getattr(spec, part, None) is not None:
            weights.update(by_recipe(build_empty(spec, part), record.prefix))
    schedule = NoiseSchedule.from_spec(diffusion)
    buffers = {"buf/alphas_cumprod": schedule.alphas_cumprod.float()}
    if diffusion.rescale is not None:
        buffers["buf/scale_arr"] = schedule.scale.float()
    torch.save({"state_dict": {**weights, **{key[4:]: value for key, value in buffers.items()}}}, folder / "whole.ckpt")
    return VideoCrafter.load(folder / "whole.ckpt", preset=spec), weights, buffers


def model_info(unet: dict[str, Any], diffusion: dict[str, Any], tokens: dict[str, Any] | None = None) -> dict[str, Any]:
    """The description of the models of `model_case`, of 4 frames of 12 x 16 pixels."""
    params = {
        "timesteps": 1000,
        "linear_start": 0.00085,
        "linear_end": 0.012,
        "scale_factor": 0.3,
        **diffusion,
        "unet_config": {"params": {**SIZES, **unet}},
        "first_stage_config": {"params": {"ddconfig": VAE}},
    }
    clip = {"embed_dim": 12, "vision_cfg": VISION, "text_cfg": TEXT}
    shrunk = {"clip_arch": clip, "resampler": tokens}
    return {"config": {"params": params}, "shrunk": shrunk, "t": 4, "height": 12, "width": 16}


def as_bytes(video: Tensor) -> Tensor:
    """f h w 3 in 0..1 -> 3 f h w"""
    return (video * 255).to(torch.uint8).permute(3, 0, 1, 2)


def unit(picture: Tensor) -> Tensor:
    return picture.float() / 255


def e2e(folder: Path) -> Path:
    spec = UNetSpec(**OURS, image_attention=True)
    tokens = ResamplerSpec(**OUR_TOKENS, queries=5)
    crafter, weights, tensors = model_case(folder, spec, DiffusionSpec(rescale=0.45), tokens)
    draw, prompts, timesteps = Draws(), ["a boat", "red fireworks"], [997, 831, 665, 499, 333, 167, 1]
    pictures = torch.stack([draw.picture(20, 30) for _ in prompts]).permute(0, 3, 1, 2).float() / 127.5 - 1
    fps = torch.tensor([7.0, 12.0])

    def conditioning(texts: list[str], shown: list[Tensor]) -> Conditioning:
        parts = [crafter.condition(text, picture, 1) for text, picture in zip(texts, shown, strict=True)]
        return Conditioning(
            text=torch.cat([part.text for part in parts]), image=torch.cat([part.image for part in parts]), fps=fps
        )

    positive = conditioning(prompts, [(picture.permute(1, 2, 0) + 1) / 2 for picture in pictures])
    negative = conditioning(["", ""], [GREY, GREY])
    x, noise = draw(2, 4, 4, 6, 8), draw(7, 2, 4, 4, 6, 8)
    predict = guide(crafter.predict, {"positive": positive, "negative": negative}, Guidance(scale=5.0))
    run = walked(predict, crafter.parts.schedule, timesteps, x, noise, 0.7)
    tensors.update({"image/cond": pictures, "run0/x_T": x, "run0/noise": noise, "run0/pred_x0": run["pred_x0"]})
    tensors["run0/x"] = run["x"][[0, 3, 6]]
    tensors["context"] = torch.cat([positive.text, positive.image], dim=1)
    tensors["uncond_context"] = torch.cat([negative.text, negative.image], dim=1)
    tensors["run0/video_u8"] = torch.stack([as_bytes(crafter.decode(clip[None]))[:, :3] for clip in run["x"][-1]])
    info = model_info(
        {**PLAIN, "use_image_attention": True}, {"use_scale": True, "scale_b": 0.45}, {**TOKENS, "num_queries": 5}
    )
    call = {
        "name": "run0",
        "steps": 6,
        "n_calls": 7,
        "eta": 0.7,
        "cfg": 5.0,
        "t": timesteps,
        "x_rows_are_steps": [0, 3, 6],
    }
    info.update({"prompts": prompts, "fps": [7, 12], "b": 2, "calls": [call]})
    return write(folder, "e2e", info, tensors, weights)


def dc_e2e(folder: Path) -> Path:
    """Between two pictures, with a scale for the picture; 5 x 16 tokens for a clip of 4 frames."""
    spec = UNetSpec(**OURS, in_channels=8, concat_channels=4, image_attention=True, default_fps=11)
    diffusion = DiffusionSpec(prediction="v", zero_terminal_snr=True, rescale=0.45, keep_last_rescale=True)
    crafter, weights, tensors = model_case(folder, spec, diffusion, ResamplerSpec(**OUR_TOKENS, queries=16, frames=5))
    draw, timesteps = Draws(), [999, 799, 599, 399, 199]
    whole = [draw.picture(20, 30), draw.picture(32, 22)]
    cropped = [fit(unit(picture), 12, 16, "published") for picture in whole]
    posterior = draw(4, 4, 6, 8)
    ends = [
        latent_of(crafter.parts, picture, RecordedNoise([noise[None]]))
        for picture, noise in zip(cropped, (posterior[0], posterior[3]), strict=True)
    ]
    concat = image_latent(ends[0], 4, ends[1])
    conditionings = {}
    for which, (prompt, picture) in {
        "context": ("a boat", cropped[0]),
        "uncond_context": ("", GREY),
        "img_nonetext_context": ("", cropped[0]),
    }.items():
        one = crafter.condition(prompt, picture, 1)
        conditionings[which] = Conditioning(
            text=one.text, image=one.image.flatten(1, 2), fps=torch.tensor([7.0]), concat=concat
        )
        tensors[f"run/{which}"] = torch.cat([one.text, conditionings[which].image], dim=1)
    x, noise = draw(1, 4, 4, 6, 8), draw(5, 1, 4, 4, 6, 8)
    guidance = Guidance(scale=3.0, rescale=0.4, image_scale=2.0)
    names = {"positive": "context", "negative": "uncond_context", "image_only": "img_nonetext_context"}
    predict = guide(crafter.predict, {name: conditionings[which] for name, which in names.items()}, guidance)
    run = walked(predict, crafter.parts.schedule, timesteps, x, noise, 0.5)
    for number, picture in enumerate(whole):
        tensors[f"image/u8_{number}"] = picture
        tensors[f"image/cropped_{number}"] = (cropped[number] * 2 - 1).permute(2, 0, 1)[None]
    tensors.update({"run/c_concat": concat, "run/posterior_noise": posterior, "run/x_T": x, "run/noise": noise})
    tensors.update({"run/x": run["x"], "run/video_u8": as_bytes(crafter.decode(run["x"][-1]))[:, [0, 2, 3]]})
    info = model_info(
        CONTINUING,
        {"parameterization": "v", "rescale_betas_zero_snr": True, "use_dynamic_rescale": True, "base_scale": 0.45},
        {**TOKENS, "num_queries": 16, "video_length": 5},
    )
    call = {"name": "run", "steps": 5, "n_calls": 5, "eta": 0.5, "cfg": 3.0, "guidance_rescale": 0.4, "cfg_img": 2.0}
    call.update({"mode": "interp", "path": "cli", "text_input": True, "timestep_spacing": "uniform_trailing"})
    call.update({"t": timesteps, "video_u8_frames": [0, 2, 3]})
    info.update({"prompt": "a boat", "fs": 7, "perframe_ae": True, "calls": [call]})
    return write(folder, "dc_e2e", info, tensors, weights)


def turbo_e2e(folder: Path) -> Path:
    """Motion guidance in 0.45 of the noise: at the first two timesteps of three."""
    spec = UNetSpec(**OURS, guidance_width=24, motion_width=12)
    crafter, weights, tensors = model_case(folder, spec, DiffusionSpec(rescale=None))
    draw, prompts, timesteps = Draws(), ["a boat", "red fireworks"], [999, 679, 359]
    text = torch.cat([crafter.condition(prompt, None, 1).text for prompt in prompts])
    x, noise = draw(2, 4, 4, 6, 8), draw(3, 2, 4, 4, 6, 8)

    def predict(x: Tensor, timestep: Tensor, _: Evaluation) -> Tensor:
        motion = torch.full((2,), 0.2 if float(timestep[0]) > 550 else 0.0)
        network: VideoUNet = crafter.parts.unet
        scales = {"guidance": torch.full((2,), 4.0), "motion": motion}
        return network(x, timestep, Conditioning(text, fps=torch.full((2,), 9.0), **scales))

    run = consistent(predict, timesteps, x, noise)
    tensors.update({"run0/x_T": x, "run0/noise": noise, "run0/x": run["x"], "run0/denoised": run["denoised"]})
    videos = [as_bytes(crafter.decode(clip[None])) for clip in run["denoised"][-1]]
    tensors["run0/video_u8"] = torch.stack(videos)[:, :, [1, 3]]
    info = model_info(
        {**PLAIN, "time_cond_proj_dim": 24, "motion_cond_proj_dim": 12}, {"use_scale": True, "scale_b": 0.7}
    )
    call = {"name": "run0", "steps": 3, "origin": 50, "w": 4.0, "fps": 9, "motion_gs": 0.2, "percentage": 0.45}
    info.update({"prompts": prompts, "b": 2, "calls": [{**call, "t": timesteps}]})
    return write(folder, "turbo_e2e", info, tensors, weights)


def freenoise_e2e(folder: Path) -> Path:
    """Two prompts over 10 frames in windows of 6, with fresh noise in every step."""
    spec = UNetSpec(**OURS, temporal_conv=False, relative_position=True)
    crafter, weights, tensors = model_case(folder, spec, DiffusionSpec(rescale=0.45))
    draw, prompts, timesteps = Draws(), ["a boat", "red fireworks"], list(range(951, 0, -50))
    windows, before, noise = Windows(size=6, stride=2), draw(1, 4, 10, 6, 8), draw(20, 1, 4, 10, 6, 8)
    x = reordered(before, windows, [[1, 0], [0, 1]])
    texts = torch.cat([crafter.condition(prompt, None, 1).text for prompt in prompts])
    positive = Conditioning(text=text_over_time(texts, 10), early_text=texts[1:], fps=torch.tensor([5.0]))
    schedule = crafter.parts.schedule

    model = with_motion_injection(partial(crafter.predict, windows=windows))
    given = {"positive": positive, "negative": crafter.condition("", None, 5)}
    predict = guide(model, given, Guidance(scale=2.0))
    run = walked(predict, schedule, timesteps, x, noise, 0.6)
    tensors.update({"noise_before": before, "x_T": x, "noise": noise, "x": run["x"], "text/emb": texts})
    tensors["video_u8"] = as_bytes(crafter.decode(run["x"][-1]))[None]
    info = model_info(RELATIVE, {"use_scale": True, "scale_b": 0.45})
    call = {"name": "run0", "steps": 20, "eta": 0.6, "cfg": 2.0, "fps": 5, "mp": True, "t": timesteps}
    call["shuffled_source_lists"] = [[1, 0], [2, 3]]
    info.update({"prompts": prompts, "multi_prompt": True, "t": 10, "window": [6, 2], "calls": [call]})
    return write(folder, "freenoise_e2e", info, tensors, weights)
