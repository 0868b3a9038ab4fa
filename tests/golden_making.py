"""Further golden cases, made by our own code in the format of the reference's files, of numbers that no kept case has.

They say nothing about the reference. They show that the golden tests read a case instead of assuming it: each maker
states its specs and settings a second time, in our terms, beside the description in the reference's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from golden_cases import RecordedNoise, digest, recipe_tensor
from vc_core.checkpoint import PREFIXES
from vc_core.checkpoint.building import build_empty
from vc_core.checkpoint.lora import apply, read_lora
from vc_core.conditioning import Conditioning, ImageEncoder, Resampler, TextEncoder, text_over_time, tokenize
from vc_core.denoising import SAMPLERS, Guidance, NoiseSchedule
from vc_core.denoising.denoiser import denoiser
from vc_core.denoising.freenoise import injected, reordered
from vc_core.denoising.guidance import guide
from vc_core.frames.autoencoder import Autoencoder
from vc_core.frames.fitting import fit, picture_latent
from vc_core.network.layers import scale_sinusoid
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

RECIPE = {"seed": 7, "profile": "normal"}
SIZES: dict[str, Any] = {
    "out_channels": 4,
    "model_channels": 32,
    "attention_resolutions": [2],
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "num_head_channels": 8,
    "context_dim": 16,
    "temporal_length": 6,
}
OURS: dict[str, Any] = {
    "model_channels": 32,
    "channel_mult": (1, 2),
    "attention_levels": (1,),
    "num_res_blocks": 1,
    "head_channels": 8,
    "context_dim": 16,
    "temporal_length": 6,
}
PLAIN = {"in_channels": 4, "temporal_conv": True, "use_relative_position": False, "fps_cond": True}
RELATIVE = {"in_channels": 4, "temporal_conv": False, "use_relative_position": True, "fps_cond": True}
CONTINUING = {
    "in_channels": 8,
    "temporal_conv": True,
    "use_relative_position": False,
    "image_cross_attention": True,
    "fs_condition": True,
    "default_fs": 11,
}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
VISION = {"image_size": 224, "patch_size": 32, "width": 24, "head_width": 8, "layers": 1}
VAE = {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "z_channels": 4}
TOKENS = {"dim": 24, "depth": 1, "dim_head": 8, "heads": 2, "embedding_dim": 24, "output_dim": 16, "ff_mult": 3}
OUR_TOKENS: dict[str, Any] = {
    "dim": 24,
    "depth": 1,
    "head_channels": 8,
    "heads": 2,
    "embedding_dim": 24,
    "output_dim": 16,
    "ff_mult": 3,
}


class Draws:
    """Normal numbers of a seed of their own."""

    def __init__(self, seed: int = 1) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def picture(self, height: int, width: int) -> Tensor:
        return torch.randint(0, 256, (height, width, 3), generator=self.generator, dtype=torch.uint8)


def write(
    folder: Path, kind: str, info: dict[str, Any], tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor] = {}
) -> Path:
    name = f"{kind}_made"
    described = {"case": name, "kind": kind, "file": f"{name}.safetensors", **info}
    if weights:
        keys = {key: list(value.shape) for key, value in weights.items()}
        described["weights"] = {**RECIPE, "storage": "recipe", "keys": keys, "sha256": digest(weights)}
    save_file({key: value.clone().contiguous() for key, value in tensors.items()}, folder / described["file"])
    path = folder / f"{name}.json"
    path.write_text(json.dumps(described), encoding="utf-8")
    return path


def by_recipe(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {
        prefix + key: recipe_tensor(prefix + key, value.shape, RECIPE) for key, value in module.state_dict().items()
    }


def filled(module: nn.Module) -> tuple[Any, dict[str, Tensor]]:
    """A module built on meta, with weights of the recipe; and those."""
    weights = by_recipe(module)
    module.load_state_dict(weights, assign=True)
    return module.eval(), weights


def unet_case(
    folder: Path,
    kind: str,
    config: dict[str, Any],
    spec: UNetSpec,
    calls: list[tuple[dict[str, Any], dict[str, Any]]],
    **more: Tensor,
) -> Path:
    """Calls of a UNet: what the case says of each, beside the arguments of ours. Names with a slash are stored."""
    model, weights = filled(VideoUNet(spec, device="meta"))
    tensors, described = dict(more), []
    for number, (told, given) in enumerate(calls):
        name = f"c{number}"
        clips, _, frames, height, width = given["x"].shape
        described.append({"name": name, "b": clips, "t": frames, "h": height, "w": width, **told})
        stored = {key: given.pop(key) for key in list(given) if "/" in key}
        tensors.update({f"{name}/{key.removeprefix('/')}": value for key, value in stored.items()})
        tensors[f"{name}/in/timesteps"] = given["timesteps"]
        tensors.setdefault(f"{name}/in/x", given["x"])
        tensors[f"{name}/out/y"] = model(**given)
    return write(folder, kind, {"config": {**SIZES, **config}, "calls": described}, tensors, weights)


def unet(folder: Path) -> Path:
    draw, calls = Draws(), []
    for fps, given in ((None, torch.tensor([7, 30, 4])), (13, None), ("default", None)):
        context = draw(3, 82, 16)
        ours = torch.full((3,), 13) if fps == 13 else given
        stored = {"in/context": context} if given is None else {"in/context": context, "in/fps": given}
        inputs = {"x": draw(3, 4, 5, 4, 6), "timesteps": torch.tensor([3, 640, 999])}
        calls.append(
            ({"fps": fps}, {**inputs, "text": context[:, :77], "image": context[:, 77:], "fps": ours, **stored})
        )
    spec = UNetSpec(
        **OURS, temporal_conv=False, relative_position=True, causal=True, image_attention=True, transformer_depth=2
    )
    config = {**RELATIVE, "use_causal_attention": True, "use_image_attention": True, "transformer_depth": 2}
    return unet_case(folder, "unet", config, spec, calls)


def dc_unet(folder: Path) -> Path:
    draw, calls = Draws(), []
    for tokens in (96, 32):  # 16 for each of 6 frames; fewer, for all
        x, context = draw(2, 8, 6, 4, 6), draw(2, 77 + tokens, 16)
        image = context[:, 77:].unflatten(1, (6, 16)) if tokens == 96 else context[:, 77:]
        given = {"x": x[:, :4], "concat": x[:, 4:], "timesteps": torch.tensor([20, 700]), "text": context[:, :77]}
        given.update({"image": image, "fps": torch.full((2,), 9), "in/x": x, "in/context": context})
        calls.append(({"fs": 9}, given))
    spec = UNetSpec(**OURS, in_channels=8, concat_channels=4, image_attention=True, default_fps=11)
    return unet_case(folder, "dc_unet", CONTINUING, spec, calls)


def turbo_unet(folder: Path) -> Path:
    draw, text = Draws(), Draws(2)(2, 77, 16)
    guidance, motion = torch.tensor([3.5, 9.0]), torch.tensor([0.2, 0.0])
    given = {"x": draw(2, 4, 5, 4, 6), "timesteps": torch.tensor([999, 250]), "text": text, "in/context": text}
    given.update({"guidance": guidance, "motion": motion, "fps": torch.full((2,), 10)})
    given.update({"in/timestep_cond": scale_sinusoid(guidance, 24), "in/motion_cond": scale_sinusoid(motion, 12)})
    config = {**PLAIN, "time_cond_proj_dim": 24, "motion_cond_proj_dim": 12}
    told = {"guidance": [3.5, 9.0], "motion": [0.2, 0.0], "fps": 10}
    return unet_case(
        folder, "turbo_unet", config, UNetSpec(**OURS, guidance_width=24, motion_width=12), [(told, given)]
    )


def freenoise_unet(folder: Path) -> Path:
    draw, text = Draws(), Draws(2)(2, 77, 16)
    given = {"x": draw(2, 4, 11, 4, 6), "timesteps": torch.tensor([999, 250]), "text": text, "in/context": text}
    given.update({"fps": torch.full((2,), 5), "windows": Windows(size=6, stride=2, cover_rest=False)})
    views = [[0, 6], [2, 8], [4, 10]]
    told = {"fps": 5, "window": [6, 2], "views": views, "weights_per_window": [1, 2, 3, 3, 2, 1]}
    spec = UNetSpec(**OURS, temporal_conv=False, relative_position=True)
    return unet_case(folder, "freenoise_unet", RELATIVE, spec, [(told, given)])


def freenoise_mp_unet(folder: Path) -> Path:
    draw = Draws()
    prompts = draw(2, 77, 16)
    text = text_over_time(prompts, 10)
    given = {"x": draw(1, 4, 10, 4, 6), "timesteps": torch.tensor([300]), "text": text, "fps": torch.tensor([5])}
    given.update({"windows": Windows(size=6, stride=2), "early_text": prompts[1:]})
    views = [[0, 6], [2, 8], [4, 10]]
    told = {"fps": 5, "views": views, "use_injection": True}
    given["/frame_context_first_token"] = text[0, :, 0]
    return unet_case(folder, "freenoise_mp_unet", PLAIN, UNetSpec(**OURS), [(told, given)], prompts=prompts)


def turbo_lora(folder: Path) -> Path:
    spec, draw = UNetSpec(**OURS, guidance_width=24), Draws()
    model, weights = filled(VideoUNet(spec, device="meta"))
    order = [key for key, value in weights.items() if key.endswith(".weight") and value.ndim in (2, 4, 5)]
    items = []
    for key in order:
        out, *rest = weights[key].shape
        items += [draw(out, 3, *(1 for _ in rest[1:])) * 0.1, draw(3, *rest) * 0.1]
    torch.save(items, folder / "made.pt")
    x, when, text = draw(1, 4, 5, 4, 6), torch.tensor([400]), draw(1, 77, 16)
    given = (x, when, text, None, torch.tensor([23]))
    guidance = torch.tensor([3.25])
    tensors = {f"lora/{index:04}": item for index, item in enumerate(items)}
    tensors.update(
        {"in/x": x, "in/timesteps": when, "in/context": text, "in/timestep_cond": scale_sinusoid(guidance, 24)}
    )
    tensors["out/base"] = model(*given, guidance=guidance)
    apply(model, read_lora(folder / "made.pt", spec))
    tensors["out/merged"] = model(*given, guidance=guidance)
    info = {"config": {**SIZES, **PLAIN, "time_cond_proj_dim": 24}, "list_file": "made.pt"}
    info.update({"order": [[key] for key in order], "calls": [{"name": "c0", "fps": 23}]})
    return write(folder, "turbo_lora", info, tensors, weights)


def image_encoder(folder: Path) -> Path:
    spec = ImageEncoderSpec(embed_dim=12, text_width=16, vocab_size=9, **VISION)
    model, weights = filled(ImageEncoder(spec, device="meta"))
    pictures = Draws().picture(2 * 50, 70).view(2, 50, 70, 3).permute(0, 3, 1, 2)
    save_file({"c0/in/image_u8": pictures.contiguous()}, folder / "pictures.safetensors")
    tokens = model((pictures.float() / 255 - 0.5) * 2)
    info = {"config": VISION, "embed_dim": 12, "images": "pictures.safetensors c*/in/image_u8"}
    info["calls"] = [{"name": "c0", "token_stride": 2, "shape": [2, 50, 24]}]
    return write(folder, "image_encoder", info, {"c0/out/tokens": tokens[:, ::2]}, weights)


def text_encoder(folder: Path) -> Path:
    config = {**TEXT, "context_length": 20}
    model, weights = filled(TextEncoder(TextEncoderSpec(**config, embed_dim=12), device="meta"))
    prompts = ["a boat", "red and blue fireworks " * 9]
    tokens = tokenize(prompts, 20)
    tensors = {"c0/in/tokens": tokens, "c0/out/penultimate": model.encode(tokens)}
    tensors["c0/out/last_layer"] = model.encode(tokens, skip=0)
    info = {"config": config, "embed_dim": 12, "prompts": prompts, "calls": [{"name": "c0"}]}
    return write(folder, "text_encoder", info, tensors, weights)


def dc_resampler(folder: Path) -> Path:
    model, weights = filled(Resampler(ResamplerSpec(**OUR_TOKENS, queries=5, frames=3), device="meta"))
    x = Draws()(2, 11, 24)
    info = {"config": {**TOKENS, "num_queries": 5, "video_length": 3}, "calls": [{"name": "c0"}]}
    return write(folder, "dc_resampler", info, {"c0/in/x": x, "c0/out/y": model(x).flatten(1, 2)}, weights)


def vae(folder: Path) -> Path:
    spec = AutoencoderSpec(channels=32, channel_mult=(1, 2), num_res_blocks=1, scale_factor=0.3)
    model, weights = filled(Autoencoder(spec))
    draw = Draws()
    image, noise, latent = draw(1, 3, 12, 20), draw(1, 4, 6, 10), draw(2, 4, 5, 3, 4)
    mean, logvar = model.moments(image)
    decoded = model.decode(latent.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 5)).transpose(1, 2)
    tensors = {"in/image": image, "in/noise": noise, "in/latent": latent, "out/mean": mean, "out/logvar": logvar}
    tensors.update({"out/decoded": decoded, "out/scaled_mode": 0.3 * mean})
    info = {"config": {"ddconfig": VAE}, "scale_factor": 0.3, "calls": [{"name": "c0"}]}
    return write(folder, "vae", info, {f"c0/{key}": value for key, value in tensors.items()}, weights)


def wave(x: Tensor, timestep: Tensor, told: Conditioning, *, temporal: bool = True) -> Tensor:
    phase = 0.003 * timestep + told.text.mean(dim=(1, 2)) + (0 if told.fps is None else 0.01 * told.fps)
    return 0.6 * x + 0.4 * torch.sin(1.7 * x + phase.view(-1, 1, 1, 1, 1))


def walked(
    predict: Any, schedule: NoiseSchedule, timesteps: list[int], x: Tensor, noise: Tensor, eta: float
) -> dict[str, Tensor]:
    """What DDIM gives at these timesteps, with an end of its schedule: x, and x0 as the references return it."""
    levels = schedule.levels(timesteps)
    steps = list(SAMPLERS["ddim"](denoiser(predict, schedule.prediction), x, levels, RecordedNoise(noise), eta))
    ends = [level.scale if schedule.keep_last_scale else 1.0 for level in levels[1:]]
    pred_x0 = torch.stack([step.denoised * end for step, end in zip(steps, ends, strict=True)])
    return {"x": torch.stack([step.x for step in steps]), "pred_x0": pred_x0}


def ddim_analytic(folder: Path) -> Path:
    draw, timesteps = Draws(), [997, 831, 665, 499, 333, 167, 1]  # 6 steps are 7
    x, noise, cond, uncond = draw(3, 4, 5, 2, 3), draw(7, 3, 4, 5, 2, 3), draw(3, 6, 4), draw(3, 6, 4)
    schedule = NoiseSchedule.from_spec(DiffusionSpec(rescale=0.45))
    predict = guide(wave, Conditioning(text=cond), Conditioning(text=uncond), Guidance(scale=15.0))
    run = walked(predict, schedule, timesteps, x, noise, 0.8)
    tensors = {"x_T": x, "cond": cond, "uncond": uncond, "noise/S7": noise}
    tensors.update({f"run/{key}": value for key, value in run.items()})
    info = {"per_config": {"ours": {"use_scale": True, "scale_b": 0.45}}}
    info["calls"] = [{"name": "run", "steps": 6, "eta": 0.8, "cfg": 15.0, "setting": "ours"}]
    return write(folder, "ddim_analytic", info, tensors)


def dc_ddim_analytic(folder: Path) -> Path:
    draw, timesteps = Draws(), [999, 832, 666, 499, 332, 166]
    x, noise, fs = draw(3, 4, 5, 2, 3), draw(6, 3, 4, 5, 2, 3), torch.tensor([3, 9, 30])
    texts = {name: draw(3, 6, 4) for name in ("cond", "uncond", "img_nonetext")}
    told = {name: Conditioning(text=text, fps=fs) for name, text in texts.items()}
    schedule = NoiseSchedule.from_spec(
        DiffusionSpec(prediction="v", zero_terminal_snr=True, rescale=0.45, keep_last_rescale=True)
    )
    guidance = Guidance(scale=4.0, rescale=0.3, image_scale=2.0)
    predict = guide(wave, told["cond"], told["uncond"], guidance, told["img_nonetext"])
    run = walked(predict, schedule, timesteps, x, noise, 0.8)
    tensors = {"x_T": x, "fs": fs, "noise/S6": noise, **texts, **{f"run/{key}": value for key, value in run.items()}}
    config = {"parameterization": "v", "rescale_betas_zero_snr": True, "use_dynamic_rescale": True, "base_scale": 0.45}
    call = {"name": "run", "setting": "ours", "S": 6, "steps": 6, "timestep_spacing": "uniform_trailing", "eta": 0.8}
    call.update({"cfg": 4.0, "guidance_rescale": 0.3, "cfg_img": 2.0, "t": timesteps})
    return write(folder, "dc_ddim_analytic", {"per_config": {"ours": config}, "calls": [call]}, tensors)


def consistent(predict: Any, timesteps: list[int], x: Tensor, noise: Tensor) -> dict[str, Tensor]:
    schedule = NoiseSchedule.from_spec(DiffusionSpec(rescale=None))
    levels = schedule.levels(timesteps, "clean")
    steps = list(SAMPLERS["lcm"](denoiser(predict, "eps"), x, levels, RecordedNoise(noise), 0.0))
    return {"x": torch.stack([s.x for s in steps]), "denoised": torch.stack([s.denoised for s in steps])}


def turbo_lcm_analytic(folder: Path) -> Path:
    draw, timesteps = Draws(), [999, 679, 359]
    x, noise, cond = draw(3, 4, 5, 2, 3), draw(3, 3, 4, 5, 2, 3), draw(3, 6, 4)
    run = consistent(guide(wave, Conditioning(text=cond), None, Guidance(scale=1)), timesteps, x, noise)
    tensors = {"x_T": x, "cond": cond, "run/noise": noise, **{f"run/{key}": value for key, value in run.items()}}
    call = {"name": "run", "steps": 3, "lcm_origin_steps": 50, "t": timesteps}
    return write(folder, "turbo_lcm_analytic", {"calls": [call]}, tensors)


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
    for part, prefix in PREFIXES.items():
        if getattr(spec, part) is not None:
            weights.update(by_recipe(build_empty(spec, part), prefix))
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

    def told(texts: list[str], shown: list[Tensor]) -> Conditioning:
        parts = [crafter.condition(text, picture, 1) for text, picture in zip(texts, shown, strict=True)]
        return Conditioning(
            text=torch.cat([part.text for part in parts]), image=torch.cat([part.image for part in parts]), fps=fps
        )

    positive = told(prompts, [(picture.permute(1, 2, 0) + 1) / 2 for picture in pictures])
    negative = told(["", ""], [GREY, GREY])
    x, noise = draw(2, 4, 4, 6, 8), draw(7, 2, 4, 4, 6, 8)
    predict = guide(crafter.predict, positive, negative, Guidance(scale=5.0))
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
        crafter._picture_latent(picture, RecordedNoise([noise[None]]))
        for picture, noise in zip(cropped, (posterior[0], posterior[3]), strict=True)
    ]
    concat = picture_latent(ends[0], 4, ends[1])
    told = {}
    for which, (prompt, picture) in {
        "context": ("a boat", cropped[0]),
        "uncond_context": ("", GREY),
        "img_nonetext_context": ("", cropped[0]),
    }.items():
        one = crafter.condition(prompt, picture, 1)
        told[which] = Conditioning(text=one.text, image=one.image.flatten(1, 2), fps=torch.tensor([7.0]), concat=concat)
        tensors[f"run/{which}"] = torch.cat([one.text, told[which].image], dim=1)
    x, noise = draw(1, 4, 4, 6, 8), draw(5, 1, 4, 4, 6, 8)
    guidance = Guidance(scale=3.0, rescale=0.4, image_scale=2.0)
    predict = guide(crafter.predict, told["context"], told["uncond_context"], guidance, told["img_nonetext_context"])
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

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        motion = torch.full((2,), 0.2 if float(timestep[0]) > 550 else 0.0)
        network: VideoUNet = crafter.parts.unet
        return network(x, timestep, text, fps=torch.full((2,), 9.0), guidance=torch.full((2,), 4.0), motion=motion)

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

    def windowed(x: Tensor, timestep: Tensor, told: Conditioning, *, temporal: bool = True) -> Tensor:
        return crafter.predict(x, timestep, told, windows=windows)

    predict = guide(
        injected(windowed, schedule.levels(timesteps)), positive, crafter.condition("", None, 5), Guidance(scale=2.0)
    )
    run = walked(predict, schedule, timesteps, x, noise, 0.6)
    tensors.update({"noise_before": before, "x_T": x, "noise": noise, "x": run["x"], "text/emb": texts})
    tensors["video_u8"] = as_bytes(crafter.decode(run["x"][-1]))[None]
    info = model_info(RELATIVE, {"use_scale": True, "scale_b": 0.45})
    call = {"name": "run0", "steps": 20, "eta": 0.6, "cfg": 2.0, "fps": 5, "mp": True, "t": timesteps}
    call["shuffled_source_lists"] = [[1, 0], [2, 3]]
    info.update({"prompts": prompts, "multi_prompt": True, "t": 10, "window": [6, 2], "calls": [call]})
    return write(folder, "freenoise_e2e", info, tensors, weights)


MAKERS: dict[str, Callable[[Path], Path]] = {
    maker.__name__: maker
    for maker in (
        unet, dc_unet, turbo_unet, freenoise_unet, freenoise_mp_unet, turbo_lora,
        image_encoder, text_encoder, dc_resampler, vae,
        ddim_analytic, dc_ddim_analytic, turbo_lcm_analytic,
        e2e, dc_e2e, turbo_e2e, freenoise_e2e,
    )
}  # fmt: skip
