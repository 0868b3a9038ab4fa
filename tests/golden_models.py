"""What a golden case says of its networks, in the reference's own words, as our specs; and models of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from golden_cases import row
from vc_core.conditions import Conditioning
from vc_core.denoising import Guidance, Level, NoiseSchedule, Sampling
from vc_core.pipeline import VideoCrafter
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

SPACINGS: Mapping[str, Any] = {"uniform": "uniform", "uniform_trailing": "trailing"}


def unet_spec(config: Mapping[str, Any]) -> UNetSpec:
    """Of the arguments of any of the references' UNets; those that are left out have the references' defaults."""
    return UNetSpec(
        in_channels=config["in_channels"],
        concat_channels=config["in_channels"] - config["out_channels"],
        out_channels=config["out_channels"],
        model_channels=config["model_channels"],
        channel_mult=tuple(config["channel_mult"]),
        num_res_blocks=config["num_res_blocks"],
        attention_levels=tuple(
            level for level in range(len(config["channel_mult"])) if 2**level in config["attention_resolutions"]
        ),
        head_channels=config["num_head_channels"],
        transformer_depth=config.get("transformer_depth", 1),
        context_dim=config["context_dim"],
        temporal_conv=config.get("temporal_conv", False),
        relative_position=config.get("use_relative_position", True),
        temporal_length=config["temporal_length"],
        causal=config.get("use_causal_attention", False),
        fps_condition=config.get("fs_condition", config.get("fps_cond", False)),
        default_fps=config.get("default_fs", 16),
        image_attention=config.get("use_image_attention", config.get("image_cross_attention", False)),
        image_gate=config.get("image_cross_attention_scale_learnable", False),
        guidance_width=config.get("time_cond_proj_dim") or 0,
        motion_width=config.get("motion_cond_proj_dim") or 0,
    )


def diffusion_spec(config: Mapping[str, Any], family: str = "") -> DiffusionSpec:
    """Of the arguments of a reference's diffusion, or of the table of them in a case of schedules."""
    given, falls_to = config.get("use_scale", False), config.get("scale_b") or 0.3
    if config.get("use_dynamic_rescale"):
        given, falls_to = True, config.get("base_scale") or 0.7
    return DiffusionSpec(
        timesteps=config.get("timesteps", config.get("num_timesteps", 1000)),
        beta_start=config.get("linear_start", 0.00085),
        beta_end=config.get("linear_end", 0.012),
        prediction=config.get("parameterization", "eps"),
        zero_terminal_snr=config.get("rescale_betas_zero_snr", False),
        rescale=round(falls_to, 6) if given else None,  # some files have float32's nearest number
        rescale_steps=config.get("turning_step", config.get("mid_step", 400)),
        keep_last_rescale=config.get("use_dynamic_rescale", False) and family != "viewcrafter",
    )


def autoencoder_spec(config: Mapping[str, Any], scale_factor: float) -> AutoencoderSpec:
    numbers = config["ddconfig"]
    return AutoencoderSpec(
        channels=numbers["ch"],
        channel_mult=tuple(numbers["ch_mult"]),
        num_res_blocks=numbers["num_res_blocks"],
        latent_channels=numbers["z_channels"],
        scale_factor=scale_factor,
        reference_levels=tuple(config["attn_level"]) if "attn_level" in config else None,
    )


def resampler_spec(config: Mapping[str, Any]) -> ResamplerSpec:
    return ResamplerSpec(
        dim=config["dim"],
        depth=config["depth"],
        head_channels=config["dim_head"],
        heads=config["heads"],
        queries=config["num_queries"],
        embedding_dim=config["embedding_dim"],
        output_dim=config["output_dim"],
        ff_mult=config["ff_mult"],
        frames=config.get("video_length"),
    )


def model_spec(info: Mapping[str, Any]) -> ModelSpec:
    """Of a case that goes from prompts to frames."""
    config, shrunk = info["config"]["params"], info.get("shrunk", info)
    own = config.get("image_proj_stage_config", {}).get("params") if shrunk is info else None
    clip, sizes, family = shrunk["clip_arch"], shrunk.get("resampler", own), info.get("family", "")
    unet = unet_spec(config["unet_config"]["params"])
    scaled = config.get("use_scale", False) and not unet.guidance_width
    diffusion = diffusion_spec({**config, "use_scale": scaled}, family)
    text, vision = clip["text_cfg"], clip["vision_cfg"]
    shared = {
        "embed_dim": clip["embed_dim"],
        "context_length": text["context_length"],
        "vocab_size": text["vocab_size"],
    }
    return ModelSpec(
        name=info["case"],
        unet=unet,
        diffusion=diffusion,
        autoencoder=autoencoder_spec(config["first_stage_config"]["params"], config["scale_factor"]),
        text_encoder=TextEncoderSpec(width=text["width"], heads=text["heads"], layers=text["layers"], **shared),
        image_encoder=ImageEncoderSpec(
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            width=vision["width"],
            head_width=vision["head_width"],
            layers=vision["layers"],
            text_width=text["width"],
            **shared,
        )
        if sizes
        else None,
        image_tokens=resampler_spec(sizes) if sizes else None,
        defaults=SamplingDefaults(width=info["width"], height=info["height"]),
        views=family == "viewcrafter",
    )


def sampling_of(call: Mapping[str, Any], steps: int | None = None) -> Sampling:
    """The settings of a DDIM run. At a guidance scale of 1 the references make one pass, whatever else is given."""
    scale, image_scale = call["cfg"], call.get("cfg_img")
    guidance = Guidance(
        scale=scale,
        rescale=call.get("guidance_rescale", 0.0),
        image_scale=scale if image_scale == "default" else image_scale,
    )
    return Sampling(
        steps=call["steps"] if steps is None else steps,
        eta=call["eta"],
        spacing=SPACINGS[call.get("timestep_spacing", "uniform")],
        guidance=Guidance(scale=1) if scale == 1 else guidance,
    )


def consistency_levels(schedule: NoiseSchedule, steps: int, origin: int) -> list[Level]:
    """The levels of a run of a consistency model. Of `Sampling` they are those of the published apps, with an origin
    of 200."""
    levels = schedule.levels(schedule.lcm_timesteps(steps, origin), "clean")
    if origin == 200:
        assert levels == Sampling(steps=steps, sampler="lcm").levels(schedule)
    return levels


def crafter_of(
    info: Mapping[str, Any], weights: Mapping[str, Tensor], t: Mapping[str, Tensor], folder: Path
) -> VideoCrafter:
    """The model of a case, read from a checkpoint of its weights and schedule as the authors save one."""
    buffers = {key[4:]: value for key, value in t.items() if key.startswith("buf/")}
    torch.save({"state_dict": {**weights, **buffers}}, folder / "model.ckpt")
    return VideoCrafter.load(folder / "model.ckpt", preset=model_spec(info))


def conditions(
    crafter: VideoCrafter, prompts: Sequence[str], pictures: Sequence[Tensor | None], fps: Any
) -> Conditioning:
    """The conditioning of a batch: a prompt for each clip, a picture h w 3 in 0..1 for each or one for all, and their
    fps as the case says it."""
    shown = list(pictures) * (len(prompts) if len(pictures) == 1 else 1)
    conditionings = [crafter.condition(prompt, picture, 1) for prompt, picture in zip(prompts, shown, strict=True)]
    images = [one.image for one in conditionings if one.image is not None]
    return Conditioning(
        text=torch.cat([one.text for one in conditionings]),
        image=torch.cat(images) if images else None,
        fps=row(fps, len(conditionings)),
    )
