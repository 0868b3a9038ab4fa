"""Small models in the layout of the published files, for the tests of everything that reads files."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from vc_core.checkpoint import PARTS, build_empty
from vc_core.denoising.schedule import NoiseSchedule
from vc_core.specs import (
    PRESETS,
    AutoencoderSpec,
    ImageEncoderSpec,
    ModelSpec,
    ResamplerSpec,
    TextEncoderSpec,
    UNetSpec,
)

UNET = UNetSpec(model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(0,), head_channels=8)

TEXT_MODEL = ModelSpec(
    name="small_text",
    unet=replace(UNET, context_dim=24),
    autoencoder=AutoencoderSpec(channels=32, channel_mult=(1, 1), num_res_blocks=1),
    text_encoder=TextEncoderSpec(width=24, heads=3, layers=2, embed_dim=24, vocab_size=97),
)

IMAGE_MODEL = replace(
    TEXT_MODEL,
    name="small_image",
    unet=replace(TEXT_MODEL.unet, image_attention=True),
    image_encoder=ImageEncoderSpec(
        image_size=28, width=40, head_width=20, layers=2, embed_dim=24, text_width=24, vocab_size=97
    ),
    image_tokens=ResamplerSpec(dim=20, depth=1, head_channels=5, heads=3, queries=4, embedding_dim=40, output_dim=24),
    defaults=PRESETS["videocrafter1_i2v_512"].defaults,
)

PARTS_OF: dict[str, tuple[str, ...]] = {
    "small_text": ("unet", "autoencoder", "text_encoder"),
    "small_image": ("unet", "autoencoder", "text_encoder", "image_encoder", "image_tokens"),
}


def part_weights(spec: ModelSpec, part: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    """Weights of one part by the names in its module: small and random, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=generator) * 0.05 + name.endswith("norm.weight")).to(dtype)
        for name, shape in shapes(spec, part).items()
    }


@lru_cache
def shapes(spec: ModelSpec, part: str) -> dict[str, torch.Size]:
    """The names and shapes of a part."""
    return {name: tensor.shape for name, tensor in build_empty(spec, part).state_dict().items()}


def schedule_buffers(spec: ModelSpec, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The schedule as a checkpoint keeps it; the rescale in its longer form."""
    schedule = NoiseSchedule.from_spec(spec.diffusion)
    alphas = schedule.alphas_cumprod
    buffers = {"alphas_cumprod": alphas, "betas": 1 - alphas / torch.cat([torch.ones(1).double(), alphas[:-1]])}
    if spec.diffusion.rescale is not None:
        buffers["scale_arr"] = torch.cat([schedule.scale, schedule.scale[-1:].expand(400)])
    return {name: buffer.to(dtype) for name, buffer in buffers.items()}


def published(spec: ModelSpec, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    """A whole checkpoint with the published names."""
    tensors = schedule_buffers(spec, dtype)
    for number, part in enumerate(PARTS_OF[spec.name]):
        weights = part_weights(spec, part, dtype, seed + number)
        tensors.update({PARTS[part].prefix + name: tensor for name, tensor in weights.items()})
    return tensors
