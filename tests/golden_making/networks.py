"""Cases of single networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.checkpoint.lora import apply, read_lora
from vc_core.conditioning import ImageEncoder, Resampler, TextEncoder, text_over_time, tokenize
from vc_core.conditions import Conditioning
from vc_core.network.call import Pass
from vc_core.network.layers import scale_sinusoid
from vc_core.network.unet import VideoUNet
from vc_core.specs import (
    AutoencoderSpec,
    ImageEncoderSpec,
    ResamplerSpec,
    TextEncoderSpec,
    UNetSpec,
    Windows,
)

from .parts import CONTINUING, OUR_TOKENS, OURS, PLAIN, RELATIVE, SIZES, TEXT, TOKENS, VAE, VISION, Draws, filled, write


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
    for number, (published, given) in enumerate(calls):
        name = f"c{number}"
        clips, _, frames, height, width = given["x"].shape
        described.append({"name": name, "b": clips, "t": frames, "h": height, "w": width, **published})
        stored = {key: given.pop(key) for key in list(given) if "/" in key}
        tensors.update({f"{name}/{key.removeprefix('/')}": value for key, value in stored.items()})
        x, timesteps, windows = given.pop("x"), given.pop("timesteps"), given.pop("windows", None)
        tensors[f"{name}/in/timesteps"] = timesteps
        tensors.setdefault(f"{name}/in/x", x)
        tensors[f"{name}/out/y"] = model(x, timesteps, Conditioning(**given), Pass(windows=windows))
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


def dc_unet(folder: Path, kind: str = "dc_unet") -> Path:
    draw, calls = Draws(), []
    for tokens in (96, 32):  # 16 for each of 6 frames; fewer, for all
        x, context = draw(2, 8, 6, 4, 6), draw(2, 77 + tokens, 16)
        image = context[:, 77:].unflatten(1, (6, 16)) if tokens == 96 else context[:, 77:]
        given = {"x": x[:, :4], "concat": x[:, 4:], "timesteps": torch.tensor([20, 700]), "text": context[:, :77]}
        given.update({"image": image, "fps": torch.full((2,), 9), "in/x": x, "in/context": context})
        calls.append(({"fs": 9}, given))
    spec = UNetSpec(**OURS, in_channels=8, concat_channels=4, image_attention=True, default_fps=11)
    return unet_case(folder, kind, CONTINUING, spec, calls)


def viewcrafter_unet(folder: Path) -> Path:
    return dc_unet(folder, "viewcrafter_unet")


def turbo_unet(folder: Path) -> Path:
    draw, text = Draws(), Draws(2)(2, 77, 16)
    guidance, motion = torch.tensor([3.5, 9.0]), torch.tensor([0.2, 0.0])
    given = {"x": draw(2, 4, 5, 4, 6), "timesteps": torch.tensor([999, 250]), "text": text, "in/context": text}
    given.update({"guidance": guidance, "motion": motion, "fps": torch.full((2,), 10)})
    given.update({"in/timestep_cond": scale_sinusoid(guidance, 24), "in/motion_cond": scale_sinusoid(motion, 12)})
    config = {**PLAIN, "time_cond_proj_dim": 24, "motion_cond_proj_dim": 12}
    published = {"guidance": [3.5, 9.0], "motion": [0.2, 0.0], "fps": 10}
    return unet_case(
        folder, "turbo_unet", config, UNetSpec(**OURS, guidance_width=24, motion_width=12), [(published, given)]
    )


def freenoise_unet(folder: Path) -> Path:
    draw, text = Draws(), Draws(2)(2, 77, 16)
    given = {"x": draw(2, 4, 11, 4, 6), "timesteps": torch.tensor([999, 250]), "text": text, "in/context": text}
    given.update({"fps": torch.full((2,), 5), "windows": Windows(size=6, stride=2, cover_rest=False)})
    views = [[0, 6], [2, 8], [4, 10]]
    published = {"fps": 5, "window": [6, 2], "views": views, "weights_per_window": [1, 2, 3, 3, 2, 1]}
    spec = UNetSpec(**OURS, temporal_conv=False, relative_position=True)
    return unet_case(folder, "freenoise_unet", RELATIVE, spec, [(published, given)])


def freenoise_mp_unet(folder: Path) -> Path:
    draw = Draws()
    prompts = draw(2, 77, 16)
    text = text_over_time(prompts, 10)
    given = {"x": draw(1, 4, 10, 4, 6), "timesteps": torch.tensor([300]), "text": text, "fps": torch.tensor([5])}
    given.update({"windows": Windows(size=6, stride=2), "early_text": prompts[1:]})
    views = [[0, 6], [2, 8], [4, 10]]
    published = {"fps": 5, "views": views, "use_injection": True}
    given["/frame_context_first_token"] = text[0, :, 0]
    return unet_case(folder, "freenoise_mp_unet", PLAIN, UNetSpec(**OURS), [(published, given)], prompts=prompts)


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
    guidance = torch.tensor([3.25])
    given = (x, when, Conditioning(text, fps=torch.tensor([23]), guidance=guidance))
    tensors = {f"lora/{index:04}": item for index, item in enumerate(items)}
    tensors.update(
        {"in/x": x, "in/timesteps": when, "in/context": text, "in/timestep_cond": scale_sinusoid(guidance, 24)}
    )
    tensors["out/base"] = model(*given)
    apply(model, read_lora(folder / "made.pt", spec))
    tensors["out/merged"] = model(*given)
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
