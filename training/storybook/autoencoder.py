"""The autoencoder's lesson: frames of drawn clips, with more weight on the actors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.specs import AutoencoderSpec

from .fitting import Batch
from .gallery import Gallery

KL_WEIGHT = 3e-4
EDGE_WEIGHT = 0.5
ACTOR_WEIGHT = 2.0
"""How much more the places of actors count than the scenery."""


class AutoencoderLesson(nn.Module):
    """Called with frames n 3 h w in -1..1, weights n 1 h w and noise n c h/8 w/8, it gives the loss: the absolute error
    of pixels and of their differences to neighbours, and the divergence from a normal posterior."""

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__()
        self.model = Autoencoder(spec)

    def forward(self, frames: Tensor, weights: Tensor, noise: Tensor) -> Tensor:
        dtype = next(self.parameters()).dtype
        mean, logvar = self.model.moments(frames.to(dtype))
        latents = mean + (0.5 * logvar).exp() * noise.to(dtype)
        out = self.model.decoder(self.model.post_quant_conv(latents))
        error = (out.float() - frames) * weights
        across = (error[..., 1:] - error[..., :-1]).abs().mean()
        down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
        mean, logvar = mean.float(), logvar.float()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        loss: Tensor = error.abs().mean() + error.square().mean() + EDGE_WEIGHT * (across + down)
        return loss + KL_WEIGHT * divergence


class FrameBatches:
    """Draws the batches of an `AutoencoderLesson`."""

    def __init__(self, gallery: Gallery, spec: AutoencoderSpec, size: int) -> None:
        self.gallery, self.spec, self.size = gallery, spec, size

    def __call__(self, progress: float) -> Batch:
        frames, poses = self.gallery.random_frames(self.size)
        side = frames.shape[-1]
        place = (torch.arange(side, device=frames.device) + 0.5) / side
        x, y, reach = (poses[..., index, None, None] for index in range(3))  # n 2 1 1
        far = ((place[None, :] - x) / reach.clamp_min(1e-3)).square() + (
            (place[:, None] - y) / reach.clamp_min(1e-3)
        ).square()
        weights = 1 + ACTOR_WEIGHT * (far < 1).any(1, keepdim=True).float()
        weights = weights / weights.mean()
        grain = side // self.spec.downscale
        noise = torch.randn(self.size, self.spec.latent_channels, grain, grain, device=frames.device)
        return frames, weights, noise


@torch.no_grad()
def psnr(model: Autoencoder, frames: Tensor) -> float:
    """The mean peak signal-to-noise ratio in dB of reconstructed frames n 3 h w in -1..1."""
    out = model.decode(model.encode(frames, chunk=64), chunk=64).clamp(-1, 1)
    error = ((out - frames) / 2).square().mean((1, 2, 3)).clamp_min(1e-9)
    return float((-10 * error.log10()).mean())
