"""The noise schedule as ComfyUI asks for it, with VideoCrafter's rescale inside.

ComfyUI's samplers work on x0 + sigma * eps. With sigma the sigma of the rescaled process, and the network's input that
times sqrt(abar) * s, all of them are right for these models (`vc_core.denoising.schedule` has the equations).
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import comfy.model_sampling
import torch
from torch import Tensor

from ...vc_core.denoising import AnalyticInit, Level, NoiseSchedule
from ...vc_core.errors import UserError
from ...vc_core.network.layers import to_clips, to_frames

SNAP = 1e-3
"""Timesteps this close to a whole one are that one: single precision cannot distinguish them."""


def per_sample(values: Tensor, ndim: int) -> Tensor:
    """n -> n 1 1 ..., to multiply tensors of `ndim` axes."""
    return values.reshape(-1, *(1,) * (ndim - 1))


class RescaledSampling(comfy.model_sampling.ModelSamplingDiscrete):
    """The tables of one `NoiseSchedule`. Joined with EPS or V_PREDICTION it is a complete `model_sampling`."""

    scale: Tensor
    init: AnalyticInit | None = None
    """The mean and the variance of the noise that sampling begins with, where it begins with noise alone; None is plain
    noise."""

    def __init__(self, model_config: Any, *, schedule: NoiseSchedule | None = None) -> None:
        """Nodes of ComfyUI create it from the model's configuration alone. `schedule` replaces the one of the
        configuration."""
        super().__init__(model_config)
        schedule = model_config.schedule if schedule is None else schedule
        self.schedule = schedule
        self.num_timesteps = len(schedule)
        self.zsnr = bool(schedule.alphas_cumprod[-1] == 0)
        self.set_sigmas(schedule.sigmas)
        self.register_buffer("scale", schedule.scale.float())

    def timestep(self, sigma: Tensor) -> Tensor:
        """Fractional timesteps, interpolated in log sigma: what `NoiseSchedule.timestep_of` gives, on any device."""
        table = self.log_sigmas.to(sigma.device)
        if len(table) == 1:
            return torch.zeros_like(sigma, dtype=torch.float32)
        wanted = sigma.float().log().clamp(table[0], table[-1])
        upper = torch.searchsorted(table, wanted.contiguous()).clamp(1, len(table) - 1)
        exact = upper - 1 + (wanted - table[upper - 1]) / (table[upper] - table[upper - 1])
        whole = exact.round()
        return torch.where((exact - whole).abs() < SNAP, whole, exact)

    def scale_at(self, sigma: Tensor) -> Tensor:
        """VideoCrafter's s(t) at these sigmas, 0 < s <= 1."""
        position = self.timestep(sigma)
        table = self.scale.to(sigma.device)
        lower = position.floor().long().clamp(0, len(table) - 2)
        return torch.lerp(table[lower], table[lower + 1], position - lower)

    def signal(self, sigma: Tensor, ndim: int) -> Tensor:
        """sqrt(abar) * s at these sigmas, shaped to multiply tensors of `ndim` axes whose first is sigma's."""
        scale = self.scale_at(sigma)
        return per_sample(scale / (1 + (sigma * scale) ** 2).sqrt(), ndim)

    def alpha(self, sigma: Tensor, ndim: int) -> Tensor:
        """abar at these sigmas, shaped as `signal`."""
        return per_sample(1 / (1 + (sigma * self.scale_at(sigma)) ** 2), ndim)

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        """x0 + sigma * eps -> the network's input."""
        return noise * self.signal(sigma, noise.ndim).to(noise)

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        """Where sampling starts. At the very first level that is what the network was trained on as pure noise.

        Raises UserError for noise that does not fit the latents."""
        check_noise(noise, latent_image)
        if self.init is not None and not bool(latent_image.any()):
            begun = self.init.noised(to_clips(noise, len(noise)), self.level(float(sigma.flatten()[0])))
            return to_frames(begun) / self.signal(sigma, noise.ndim).to(noise)
        if max_denoise:
            return noise / self.signal(sigma, noise.ndim).to(noise) + latent_image
        return noise * per_sample(sigma, noise.ndim) + latent_image

    def level(self, sigma: float) -> Level:
        """The noise level of a sigma above 0, exact where the sigma is one of the table's."""
        position = float(self.timestep(torch.tensor([sigma]))[0])
        if position.is_integer():
            return self.schedule.level(int(position))
        wanted = torch.tensor([sigma], dtype=torch.float64)
        scale = float(self.scale_at(wanted.float())[0])
        signal = float(self.schedule.signal_of(wanted)[0])
        return Level(position, min(1.0, (signal / scale) ** 2), scale)


def check_noise(noise: Tensor, latents: Tensor) -> None:
    """Raises UserError unless noise has the shape of the latents, or one that broadcasts to it."""
    sizes = zip_longest(reversed(noise.shape), reversed(latents.shape), fillvalue=1)
    if any(one != other and 1 not in (one, other) for one, other in sizes):
        raise UserError(
            f"The noise has the shape {tuple(noise.shape)}, but the latent {tuple(latents.shape)}. Make the noise for "
            "this latent, for example with Random Noise."
        )


class EpsSampling(RescaledSampling, comfy.model_sampling.EPS):
    """For models that predict the noise."""


class VSampling(RescaledSampling, comfy.model_sampling.V_PREDICTION):
    """For models that predict the velocity (arXiv:2202.00512)."""

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """x0 = (sqrt(abar) * input - sqrt(1 - abar) * v) / s, written in x0 + sigma * eps."""
        alpha = self.alpha(sigma, model_output.ndim).to(model_output)
        sigma = per_sample(sigma, model_output.ndim)
        return alpha * model_input - alpha.sqrt() * sigma * model_output


def model_sampling(model_config: Any, schedule: NoiseSchedule | None = None) -> RescaledSampling:
    """The `model_sampling` of a model with this configuration, by default with the configuration's own schedule."""
    kind = VSampling if (schedule or model_config.schedule).prediction == "v" else EpsSampling
    return kind(model_config, schedule=schedule)
