"""SAMPLER, SIGMAS and what happens around a run: progress, previews, Cancel."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ...vc_core.denoising import SAMPLERS, Level, Noise, NoiseSchedule
from ...vc_core.denoising.denoiser import Denoiser, Estimate
from ...vc_core.denoising.guidance import Guidance
from ...vc_core.denoising.start import Masked, noised, steps_of
from ...vc_core.errors import UserError
from ...vc_core.network.layers import to_clips, to_frames
from .guidance import Guider, needs_guider, with_combination
from .long import reused, skip_orders
from .model_sampling import RescaledSampling
from .patches import TICK
from .previews import Previews


class CoreSampler(comfy.samplers.Sampler):
    """A sampler of vc_core as a SAMPLER of ComfyUI.

    `pure` says that the run starts from noise alone; with None it does so from an empty latent. The fresh noise of
    each step continues the stream of the run's seed, so the same seed is the same video on every device.
    """

    def __init__(self, name: str, eta: float, *, pure: bool | None = None) -> None:
        self.name, self.eta, self.pure = name, eta, pure
        self.keep_last_scale: bool | None = None  # as the schedule of the model says

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[..., Any] | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """ComfyUI's entry: noise and latents are (b f) c h w of one clip; sigmas fall."""
        del disable_pbar  # progress is the callback's
        sampling = rescaled(model_wrap.inner_model.model_sampling)
        levels = self._levels(sampling, sigmas)
        stream = Noise(extra_args.get("seed") or 0)
        drawn = _one_clip(noise)
        stream.draw(drawn.shape)  # the run's first noise, which `noise` is or replaces
        skip_orders(stream, reused(extra_args.get("model_options", {})), drawn.shape[2])
        known = torch.zeros_like(drawn) if latent_image is None else _one_clip(latent_image).to(drawn)
        x = self._begin(sampling, levels[0], known, drawn)
        denoise = host_denoiser(model_wrap, extra_args)
        masked = None
        if denoise_mask is not None:
            masked = Masked(known, drawn, _masks(model_wrap, sigmas, extra_args, denoise_mask.to(drawn)))
        sampler = partial(SAMPLERS[self.name], levels=levels, noise=stream, eta=self.eta)
        finished = float(sigmas[-1]) == 0
        for step in steps_of(sampler, denoise, x, levels, masked, finished=finished):
            if callback is not None:
                callback(step.index, to_frames(step.denoised), to_frames(step.x), step.total)
            comfy.model_management.throw_exception_if_processing_interrupted()
            x = step.x
        return to_frames(x if finished else x / levels[-1].signal)

    def _begin(self, sampling: RescaledSampling, first: Level, known: Tensor, drawn: Tensor) -> Tensor:
        """x at the first level, 1 c f h w, of the known latents or of noise alone."""
        pure = self.pure if self.pure is not None else not bool(known.any())
        if not pure:
            return noised(known, drawn, first)
        return drawn if sampling.init is None else sampling.init.noised(drawn, first)

    def _levels(self, sampling: RescaledSampling, sigmas: Tensor) -> list[Level]:
        levels = [sampling.level(float(sigma)) for sigma in sigmas if float(sigma) > 0]
        if len(levels) < len(sigmas):
            schedule, keep = sampling.schedule, self.keep_last_scale
            schedule = schedule if keep is None else replace(schedule, keep_last_scale=keep)
            levels.append(schedule.end(levels, "reference" if self.name == "ddim" else "clean"))
        return levels


def rescaled(sampling: Any) -> RescaledSampling:
    """The model's own noise schedule. Raises UserError for models that are not VideoCrafter's."""
    if not isinstance(sampling, RescaledSampling):
        raise UserError(
            "This sampler and scheduler need VideoCrafter's noise schedule, which the given model does not have: it is "
            "another kind of model, or a ModelSampling node has replaced the schedule. Use ComfyUI's own with it."
        )
    return sampling


def schedule_of(model: Any) -> NoiseSchedule:
    """The noise schedule of a MODEL. Raises UserError as `rescaled` does."""
    return rescaled(model.get_model_object("model_sampling")).schedule


def host_sampler(name: str, eta: float) -> Any:
    """A SAMPLER of ComfyUI's own by its name; `eta` goes to those that have one."""
    if name not in host_samplers():
        raise UserError(f"There is no sampler {name!r}; choose one of {', '.join(host_samplers())}.")
    sampler = comfy.samplers.sampler_object(name)
    options = inspect.signature(sampler.sampler_function).parameters
    if "eta" in options:
        sampler.extra_options = {**sampler.extra_options, "eta": eta}
    if "noise_sampler" in options and not name.startswith(BROWNIAN):
        sampler.sampler_function = _with_noise_of_the_cpu(sampler.sampler_function)
    return sampler


BROWNIAN = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")
"""Samplers whose fresh noise is that of a Brownian path, which ComfyUI draws on the CPU but for those named `_gpu`."""


def _with_noise_of_the_cpu(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A sampling function of ComfyUI whose fresh noise comes from the seed on the CPU. Without this it draws the same
    noise on a CPU, but other noise on a GPU, different on each kind of it."""

    @wraps(function)
    def sample(model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any] | None = None, **more: Any) -> Tensor:
        generator = torch.Generator().manual_seed((((extra_args or {}).get("seed") or 0) + 1) % 2**64)

        def fresh(*_: Any) -> Tensor:
            return torch.randn(x.shape, dtype=x.dtype, generator=generator).to(x.device)

        return function(model, x, sigmas, extra_args=extra_args, noise_sampler=fresh, **more)

    return sample


def first_level(model: Any, sigmas: Tensor) -> Level:
    """The noise level at which a run with these sigmas begins. Raises UserError as `rescaled` does."""
    return rescaled(model.get_model_object("model_sampling")).level(float(sigmas[0]))


def full_noise(model: Any, sigmas: Tensor) -> float:
    """The factor of the noise with which a sampler of ComfyUI's own starts from noise alone, as in training.

    Those samplers do so at the very last timestep only; below it they leave room for an image that is not there.
    """
    found = model.get_model_object("model_sampling")
    if not isinstance(found, RescaledSampling) or found.init is not None or len(sigmas) == 0:
        return 1.0
    if float(sigmas[0]) >= float(found.sigma_max) * (1 - 1e-5):
        return 1.0
    return 1 / found.level(float(sigmas[0])).noise


def host_samplers() -> list[str]:
    """The names of ComfyUI's samplers."""
    return list(comfy.samplers.KSampler.SAMPLERS)


def host_schedulers() -> list[str]:
    """The names of ComfyUI's schedulers."""
    return list(comfy.samplers.KSampler.SCHEDULERS)


def host_sigmas(model: Any, sampler: str, scheduler: str, steps: int, denoise: float) -> Tensor:
    """SIGMAS of one of ComfyUI's schedulers, as its KSampler would take them for this sampler."""
    names = host_samplers()
    plan = comfy.samplers.KSampler(
        model,
        steps=steps,
        device=torch.device("cpu"),
        sampler=sampler if sampler in names else names[0],
        scheduler=scheduler,
        denoise=denoise,
        model_options=model.model_options,
    )
    sigmas: Tensor = plan.sigmas
    return sigmas.cpu()


@dataclass(frozen=True, eq=False, kw_only=True)
class Start:
    """Where a run starts, f c h w: its noise, the latents that are noised, and a mask of what is kept (0) of them."""

    noise: Tensor
    latent: Tensor
    mask: Tensor | None
    seed: int


def run(
    model: Any, sampler: Any, sigmas: Tensor, conditionings: Mapping[str, Any], guidance: Guidance, start: Start
) -> Tensor:
    """Samples with progress, animated previews and Cancel between blocks. Returns the latents on the host's device.

    conditionings: CONDITIONING by name, "positive", "negative" and, where the guidance has an image scale,
    "image_only", the image with an empty prompt.
    """
    watch, spec = Watch(model, len(sigmas) - 1), getattr(model.model, "spec", None)
    if spec is not None and spec.follows_views and isinstance(sampler, CoreSampler):
        sampler.keep_last_scale = spec.keeps_last_rescale(guidance.image_scale)
    model = with_combination(model, guidance.combination).clone()
    model.model_options.setdefault("transformer_options", {})[TICK] = watch.tick
    options: dict[str, Any] = {
        "callback": watch.step,
        "disable_pbar": not comfy.utils.PROGRESS_BAR_ENABLED,
        "seed": start.seed,
    }
    out: Tensor
    if not needs_guider(conditionings):
        out = comfy.sample.sample_custom(
            model,
            start.noise,
            guidance.scale,
            sampler,
            sigmas,
            conditionings["positive"],
            conditionings["negative"],
            start.latent,
            noise_mask=start.mask,
            **options,
        )
        return out
    guider = Guider(model, conditionings, guidance.combination, guidance.scale)
    out = guider.sample(start.noise, start.latent, sampler, sigmas, denoise_mask=start.mask, **options)
    return out.to(comfy.model_management.intermediate_device())


class Watch:
    """Reports a run to the page: a step forward after each step, and the frames of the newest clip."""

    def __init__(self, model: Any, steps: int) -> None:
        self.previews = Previews(model, steps)
        self.tick = self.previews.tick

    def step(self, index: int, denoised: Tensor, x: Tensor, total: int) -> None:
        """ComfyUI's callback. Raises UserError when the latents are no longer finite."""
        if not bool(torch.isfinite(denoised).all()) or not bool(torch.isfinite(x).all()):
            raise UserError(
                f"The latents became NaN or infinite at step {index + 1} of {total}. Load the model with "
                "weight_dtype fp32 or bf16 if it runs in fp16, lower cfg, or try the ddim_exact sampler; if it "
                "happens at the first step, check the model's file for damage."
            )
        self.previews.show(denoised, index + 1, total)


class Progress:
    """A progress bar of the page for loops of ours; each report asks whether the user has cancelled."""

    def __init__(self, total: int) -> None:
        self.bar = comfy.utils.ProgressBar(total)

    def report(self, done: int) -> None:
        """`done` of the total are finished. Raises ComfyUI's own exception when the run was cancelled."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(done)


def _one_clip(x: Tensor) -> Tensor:
    """f c h w -> 1 c f h w"""
    return to_clips(x, x.shape[0])


def _masks(model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], mask: Tensor) -> Callable[[Level], Tensor]:
    """The noise mask 1 c f h w at a noise level: nodes such as DifferentialDiffusion change it from step to step."""
    change = extra_args.get("model_options", {}).get("denoise_mask_function")
    most = float(model_wrap.inner_model.model_sampling.sigma_max)

    def at(level: Level) -> Tensor:
        if change is None:
            return _one_clip(mask)
        sigma = torch.full((mask.shape[0],), min(level.sigma, most), dtype=torch.float32, device=mask.device)
        return _one_clip(change(sigma, mask, extra_options={"model": model_wrap, "sigmas": sigmas}))

    return at


def host_denoiser(model_wrap: Any, extra_args: dict[str, Any]) -> Denoiser:
    """The host's guided model as a denoiser of vc_core."""
    sampling = rescaled(model_wrap.inner_model.model_sampling)
    most = float(sampling.sigma_max)

    def denoise(x: Tensor, level: Level) -> Estimate:
        frames = to_frames(x)
        sigma = torch.full((frames.shape[0],), min(level.sigma, most), dtype=torch.float32, device=x.device)
        signal = level.signal or float(sampling.signal(sigma[:1], 1))  # the host's smallest, where no signal is left
        out = model_wrap(frames / signal, sigma, **extra_args)
        x0 = _one_clip(out)
        return Estimate(x0, (x - level.signal * x0) / level.noise)

    return denoise
