"""Training of the autoencoder on single frames of the world, and normalisation of its latents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vc_core.autoencoder.autoencoder import Autoencoder
from worlds.shapes.world import FRAMES, SIZE, Scene, random_scene, render, velocity

from .trainer import rank

CROP = 32
"""Side in pixels of the crops used in the first part of the training; they cost a quarter of a whole frame."""
KL_WEIGHT = 5e-4
EDGE_WEIGHT = 0.5


def random_frames(count: int, rng: np.random.Generator, *, crop: bool = False) -> Tensor:
    """`count` frames of random scenes, including held-out combinations: n 3 h w in -1..1; crops are taken near the
    shape."""
    frames = []
    for _ in range(count):
        scene = random_scene(rng, unseen=bool(rng.random() < 0.1))
        number = int(rng.integers(FRAMES))
        frame = render([scene], frames=[number])[0, 0]
        frames.append(_crop(frame, scene, number, rng) if crop else frame)
    return torch.stack(frames).permute(0, 3, 1, 2).contiguous() * 2 - 1


def _crop(frame: Tensor, scene: Scene, number: int, rng: np.random.Generator) -> Tensor:
    corner = []
    for start, step in zip((scene.x, scene.y), velocity(scene), strict=True):
        middle = start + step * number + rng.uniform(-CROP / 2, CROP / 2)
        corner.append(int(np.clip(middle - CROP / 2, 0, SIZE - CROP)))
    return frame[corner[1] : corner[1] + CROP, corner[0] : corner[0] + CROP]


def reconstruction_loss(model: Autoencoder, pixels: Tensor, noise: Tensor) -> Tensor:
    """Error of the pixels and of their gradients, plus the KL divergence of the posterior from a standard normal."""
    with torch.autocast(pixels.device.type, torch.bfloat16):
        mean, logvar = model.moments(pixels)
        mean, logvar = mean.float(), logvar.float()
        out = model.decoder(model.post_quant_conv(mean + (0.5 * logvar).exp() * noise))
    error = out.float() - pixels
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    loss: Tensor = error.abs().mean() + error.square().mean() + EDGE_WEIGHT * edges + KL_WEIGHT * divergence
    return loss


class AutoencoderObjective:
    """The loss of a training step, on crops or on whole frames."""

    def __init__(self, model: Autoencoder, *, batch: int, seed: int, crop: bool) -> None:
        self.model, self.batch, self.seed, self.crop = model, batch, seed, crop

    def __call__(self, step: int) -> Tensor:
        rng = np.random.default_rng([self.seed, step, rank()])
        pixels = random_frames(self.batch, rng, crop=self.crop).to(next(self.model.parameters()).device)
        spec = self.model.spec
        latent = (self.batch, spec.latent_channels, *(side // spec.downscale for side in pixels.shape[2:]))
        noise = torch.from_numpy(rng.standard_normal(latent, dtype=np.float32)).to(pixels.device)
        return reconstruction_loss(self.model, pixels, noise)


@torch.no_grad()
def psnr(model: nn.Module, pixels: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of the reconstruction of images n 3 h w in -1..1."""
    out = model.decode(model.encode(pixels, chunk=32), chunk=32).clamp(-1, 1)  # type: ignore[operator]
    error = float(((out - pixels) / 2).square().mean())
    return -10 * math.log10(max(error, 1e-12))


def probe(model: nn.Module, step: int) -> Mapping[str, Any]:
    """Reconstruction quality on new frames."""
    device = next(model.parameters()).device
    pixels = random_frames(64, np.random.default_rng(10**6)).to(device)
    return {"psnr": psnr(model, pixels)}


@torch.no_grad()
def normalise(model: Autoencoder, pixels: Tensor) -> None:
    """Gives every latent channel mean 0 and standard deviation 1 (after the scale factor) by changing the 1x1
    convolutions around the latents. The autoencoder's reconstruction is unchanged."""
    latents = model.encode(pixels, chunk=32) / model.spec.scale_factor
    mean = latents.mean((0, 2, 3))
    gain = 1 / (model.spec.scale_factor * latents.std((0, 2, 3)))
    channels = model.spec.latent_channels
    before, after = (dict(module.named_parameters()) for module in (model.quant_conv, model.post_quant_conv))
    after["bias"].add_((after["weight"][:, :, 0, 0] * mean).sum(1))
    after["weight"].div_(gain[None, :, None, None])
    before["weight"][:channels].mul_(gain[:, None, None, None])
    before["bias"][:channels].sub_(mean).mul_(gain)
    before["bias"][channels:].add_(2 * gain.log())
