"""Small models with weights at random, in the published layout: whole checkpoints that load through every node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from vc_core.checkpoint import METADATA_KEY, PARTS
from vc_core.checkpoint.building import build_empty
from vc_core.checkpoint.lora import GUIDANCE, _in_order
from vc_core.denoising import NoiseSchedule
from vc_core.network.adapters.motionctrl import POSE, PROJECTION, TrajectoryEncoder
from vc_core.network.unet import VideoUNet
from vc_core.specs import (
    AutoencoderSpec,
    DiffusionSpec,
    ImageEncoderSpec,
    ModelSpec,
    ResamplerSpec,
    SamplingDefaults,
    TextEncoderSpec,
    UNetSpec,
    to_json,
)

TEXT_MODEL = ModelSpec(
    name="small_t2v",
    unet=UNetSpec(
        model_channels=32,
        channel_mult=(1, 2, 4),
        num_res_blocks=1,
        attention_levels=(0, 1),
        head_channels=16,
        context_dim=48,
        norm_groups=8,
    ),
    autoencoder=AutoencoderSpec(channels=32, num_res_blocks=1, norm_groups=8),
    text_encoder=TextEncoderSpec(width=48, heads=3, layers=3, embed_dim=48),
    defaults=SamplingDefaults(width=64, height=64, fps=8, steps=50, cfg=7.0),
)
RELATIVE_MODEL = replace(
    TEXT_MODEL,
    name="small_relative",
    unet=replace(TEXT_MODEL.unet, temporal_conv=False, relative_position=True, temporal_length=5),
    diffusion=DiffusionSpec(rescale=0.3),
)
IMAGE_MODEL = replace(
    TEXT_MODEL,
    name="small_i2v",
    unet=replace(TEXT_MODEL.unet, image_attention=True),
    image_encoder=ImageEncoderSpec(
        image_size=32, patch_size=8, width=64, head_width=16, layers=3, embed_dim=48, text_width=48
    ),
    image_tokens=ResamplerSpec(dim=32, depth=1, head_channels=16, heads=2, queries=3, embedding_dim=64, output_dim=48),
)
CONTINUING_MODEL = replace(
    IMAGE_MODEL,
    name="small_dynamicrafter",
    unet=replace(IMAGE_MODEL.unet, in_channels=8, concat_channels=4, default_fps=24),
    diffusion=DiffusionSpec(prediction="v", zero_terminal_snr=True, keep_last_rescale=True),
    image_tokens=replace(IMAGE_MODEL.image_tokens, frames=5),
)
TOON_MODEL = replace(
    CONTINUING_MODEL,
    name="small_tooncrafter",
    autoencoder=replace(CONTINUING_MODEL.autoencoder, reference_levels=(2, 3)),
)
TURBO_MODEL = replace(
    TEXT_MODEL,
    name="small_turbo",
    unet=replace(TEXT_MODEL.unet, guidance_width=24, motion_width=16),
    diffusion=DiffusionSpec(rescale=None),
    defaults=replace(TEXT_MODEL.defaults, steps=4, sampler="lcm", spacing="lcm", motion=0.05),
)


def state_dict(spec: ModelSpec, seed: int = 5) -> dict[str, torch.Tensor]:
    """A whole checkpoint's tensors: every part the spec has, and the noise schedule."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for part, record in PARTS.items():
        if getattr(spec, part, None) is None:
            continue
        for name, value in _randomised(build_empty(spec, part), generator).items():
            tensors[record.prefix + name] = value
    schedule = NoiseSchedule.from_spec(spec.diffusion)
    tensors["alphas_cumprod"] = schedule.alphas_cumprod.float()
    if spec.diffusion.rescale is not None:
        tensors["scale_arr"] = schedule.scale.float()
    return tensors


def save(spec: ModelSpec, path: Path, *, prefixes: tuple[str, ...] = (), seed: int = 5, metadata: bool = True) -> Path:
    """Writes a whole checkpoint, or of it the tensors whose names begin with one of `prefixes`."""
    tensors = {
        name: value.clone().contiguous()
        for name, value in state_dict(spec, seed).items()
        if not prefixes or name.startswith(prefixes)
    }
    save_file(tensors, path, {METADATA_KEY: to_json(spec)} if metadata else None)
    return path


def turbo_list(unet: UNetSpec, width: int = 12, seed: int = 3) -> list[torch.Tensor]:
    """A LoRA as T2V-Turbo's: pairs of tensors without names in the network's order, with a guidance embedding."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tuple(value.shape) for name, value in VideoUNet(unet, device="meta").state_dict().items()}
    items = []
    for name, shape in _in_order(shapes, unet).items():
        items += low_rank((shape[0], width) if name == GUIDANCE else shape, generator)
    return items


def motionctrl_weights(spec: ModelSpec, *, levels: tuple[int, ...] = (), seed: int = 1) -> dict[str, torch.Tensor]:
    """MotionCtrl's added layers for a model, near the identity; with levels, a trajectory encoder as well."""
    generator = torch.Generator().manual_seed(seed)
    unet, made = VideoUNet(spec.unet, device="meta").state_dict(), {}
    for name, tensor in unet.items():
        block, found, _ = name.partition(".attn2.to_q.weight")
        if found and unet[f"{block}.attn2.to_k.weight"].shape == tensor.shape:
            width = tensor.shape[1]
            change = 0.1 * torch.randn(width, width + POSE, generator=generator)
            made[f"{block}{PROJECTION}.weight"] = torch.eye(width, width + POSE) + change
            made[f"{block}{PROJECTION}.bias"] = torch.zeros(width)
    for name, empty in TrajectoryEncoder(levels, 2, device="meta").state_dict().items() if levels else ():
        made[f"omcm.{name}"] = 0.2 * torch.randn(empty.shape, generator=generator)
    return made


def low_rank(shape: tuple[int, ...], generator: torch.Generator, rank: int = 2) -> list[torch.Tensor]:
    """up and down of a small change of a weight of this shape."""
    up, down = torch.randn(shape[0], rank, generator=generator), torch.randn(rank, *shape[1:], generator=generator)
    return [0.05 * up.reshape(shape[0], rank, *(1 for _ in shape[2:])), down * down[0].numel() ** -0.5]


def _randomised(module: nn.Module, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Weights that keep the stream of every layer at about one; norms near the identity."""
    values: dict[str, torch.Tensor] = {}
    for name, empty in module.state_dict().items():
        value = torch.randn(empty.shape, generator=generator)
        if empty.ndim > 1:
            value = value * empty[0].numel() ** -0.5
        else:
            value = value * 0.1 + (1.0 if name.endswith("weight") else 0.0)
        values[name] = value.half().float()
    return values
