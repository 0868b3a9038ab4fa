"""Clips from a loaded storybook model, many prompts at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vc_core.conditions import SINGLE, Conditioning, Evaluation
from vc_core.denoising import Guidance, Noise, Sampling, sample
from vc_core.frames.fitting import image_latent
from vc_core.network.call import Pass
from vc_core.pipeline import GREY, VideoCrafter
from worlds.storybook.world import FRAMES

from .cases import Case

BATCH = 50


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How clips are made; `cfg` None is the model's default. ends: how many images a model that continues them gets."""

    sampler: str = "ddim"
    steps: int = 25
    cfg: float | None = None
    ends: int = 1


class _EachNoise:
    """The noise of several clips, drawn for each from a seed of its own."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.sources = [Noise(seed) for seed in seeds]

    def draw(self, shape: Sequence[int], device: torch.device | str, dtype: torch.dtype) -> Tensor:
        return torch.cat([source.draw((1, *shape[1:]), device, dtype) for source in self.sources])


@torch.inference_mode()
def clips(crafter: VideoCrafter, cases: Sequence[Case], settings: Settings, drawn: Tensor) -> Tensor:
    """Clips n f 3 h w in -1..1 of the cases, on the model's device. `drawn` are the scenes as they are drawn, bytes n f
    h w 3, of which image-to-video models are given the ends."""
    autoencoder, unet = crafter.parts.autoencoder, crafter.parts.unet
    assert autoencoder is not None
    assert unet is not None
    autoencoder.fused.wanted = unet.fused.wanted = False  # kernels would have to be built first
    made = []
    for start in range(0, len(cases), BATCH):
        part = slice(start, start + BATCH)
        latents = _latents(crafter, cases[part], settings, drawn[part, [0, -1]].float() / 255)
        flat = latents.transpose(1, 2).flatten(0, 1).to(crafter.parts.dtype)
        made.append(autoencoder.decode(flat, chunk=128).clamp(-1, 1).unflatten(0, (len(latents), -1)))
    return torch.cat(made)


def _latents(crafter: VideoCrafter, cases: Sequence[Case], settings: Settings, images: Tensor) -> Tensor:
    """Latents n c f h w; `images` are the first and last frames, n 2 h w 3."""
    parts, spec = crafter.parts, crafter.parts.spec
    defaults = spec.defaults
    scale = defaults.cfg if settings.cfg is None else settings.cfg
    with_image = parts.image_encoder is not None
    beside = _beside(crafter, images[:, : settings.ends]) if spec.continues_images else None
    shown = [ends[0] if with_image else None for ends in images]
    conditions = [crafter.condition(c.prompt, s, c.scene.fps) for c, s in zip(cases, shown, strict=True)]
    positive = replace(Conditioning.batched(conditions), concat=beside)
    grey = GREY if with_image else None
    fps = cases[0].scene.fps  # of all of the judge's cases
    unconditional = Conditioning.batched([crafter.condition("", grey, fps)] * len(cases))
    negative = None if scale == 1 else replace(unconditional, concat=beside)
    unet = parts.unet
    assert unet is not None

    def predict(x: Tensor, timestep: Tensor, given: Conditioning, evaluation: Evaluation = SINGLE, /) -> Tensor:
        dtype = parts.dtype
        out: Tensor = unet(x.to(dtype), timestep, given.to(dtype=dtype), Pass(evaluation))
        return out

    side = spec.size_multiple
    steps = sample(
        predict,
        parts.schedule,
        {"positive": positive, "negative": negative},
        noise=_EachNoise([case.seed for case in cases]),
        shape=(len(cases), spec.autoencoder.latent_channels, FRAMES, defaults.height // side, defaults.width // side),
        settings=Sampling(
            steps=settings.steps,
            sampler=settings.sampler,
            eta=0.0,
            spacing="trailing",
            guidance=Guidance(scale=scale, rescale=defaults.guidance_rescale),
        ),
    )
    *_, last = steps
    return last.x


def _beside(crafter: VideoCrafter, images: Tensor) -> Tensor:
    """The latents b c f h w to concatenate for one or two images of each clip, b n h w 3."""
    found = []
    for ends in images:
        latents = [crafter.encode(image[None])[:, :, 0] for image in ends]
        found.append(image_latent(latents[0], FRAMES, latents[1] if len(latents) > 1 else None))
    return torch.cat(found)
