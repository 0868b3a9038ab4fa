"""What a model's latents are to ComfyUI: their scale, and the colours of its previews."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import torch
from torch import Tensor

from ...vc_core.autoencoder.autoencoder import Autoencoder
from ...vc_core.checkpoint.building import Checkpoint
from ...vc_core.specs import AutoencoderSpec

NATIVE_GROUPS = 32
"""Norm groups of ComfyUI's autoencoder, whose widths are multiples of it."""
RESHAPES = hasattr(comfy.latent_formats.LatentFormat, "latent_rgb_factors_reshape")
"""Whether the host lets a format turn latents into something else before it takes their colours."""


class OwnLatents(comfy.latent_formats.SD15):
    """Latents of an autoencoder that is not Stable Diffusion's. No linear map gives their colours, so the autoencoder
    itself decodes the previews: such models are small."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__(autoencoder.spec.scale_factor)
        self.autoencoder = autoencoder
        self.taesd_decoder_name = None
        self.latent_rgb_factors = torch.eye(3).tolist() if RESHAPES else None
        self.latent_rgb_factors_reshape = self.first_image

    def first_image(self, latents: Tensor) -> Tensor:
        """The first image of latents n c h w, as the sampler has them: 1 3 (f h) (f w), about -1..1."""
        first = latents[:1].to(torch.float32)
        return self.autoencoder.to(first.device).decode(first)


def is_native(spec: AutoencoderSpec) -> bool:
    """Whether ComfyUI can build this autoencoder; the others are ToonCrafter's and the small ones of this project."""
    return _has_published_norms(spec) and not spec.sees_ends


def _has_published_norms(spec: AutoencoderSpec) -> bool:
    return spec.norm_groups == NATIVE_GROUPS and spec.channels % NATIVE_GROUPS == 0


def latent_format(checkpoint: Checkpoint) -> Any:
    """The LatentFormat of an opened file. One whose own autoencoder is not there has no previews: no colours are better
    than wrong ones."""
    spec = checkpoint.spec.autoencoder
    if _has_published_norms(spec):
        return comfy.latent_formats.SD15(spec.scale_factor)
    if "autoencoder" in checkpoint.parts:
        module = checkpoint.build("autoencoder", dtype=torch.float32)
        if isinstance(module, Autoencoder):
            return OwnLatents(module)
    blind = comfy.latent_formats.SD15(spec.scale_factor)
    blind.latent_rgb_factors = blind.taesd_decoder_name = None
    return blind
