"""SAMPLER, SIGMAS and what happens around a run: guidance, progress, previews, Cancel."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ...vc_core.denoising import SAMPLERS, Level, Noise, NoiseSchedule
from ...vc_core.denoising.denoiser import Denoiser, Estimate
from ...vc_core.denoising.guidance import Guidance, rescale
from ...vc_core.denoising.start import blend, keep, noised
from ...vc_core.errors import UserError
from ...vc_core.network.layers import to_clips, to_frames
from .deep import WITHOUT_TIME
from .long import reused, skip_orders
from .model_sampling import RescaledSampling
from .patches import TICK
from .previews import Previews


class CoreSampler(comfy.samplers.Sampler):
    """A sampler of vc_core as a SAMPLER of ComfyUI.

    `pure` tells it that the run starts from noise alone; None lets it see that from an empty latent. The fresh noise of
    each step continues the stream of the run's seed, so the same seed is the same video on every device.
    """

    def __init__(self, name: str, eta: float, *, pure: bool | None = None) -> None:
        self.name, self.eta, self.pure = name, eta, pure

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
        stream.draw(drawn.shape)  # the run's first noise, which `noise` is or stands for
        skip_orders(stream, reused(extra_args.get("model_options", {})), drawn.shape[2])
        known = torch.zeros_like(drawn) if latent_image is None else _one_clip(latent_image).to(drawn)
        pure = self.pure if self.pure is not None else not bool(known.any())
        if pure:
            x = drawn if sampling.init is None else sampling.init.noised(drawn, levels[0])
        else:
            x = levels[0].signal * known + levels[0].noise * drawn
        denoise = _host_denoiser(model_wrap, extra_args)
        masks = None if denoise_mask is None else _masks(model_wrap, sigmas, extra_args, denoise_mask.to(drawn))
        if masks is not None:
            x = blend(x, noised(known, drawn, levels[0]), masks(levels[0]))
            denoise = _keeping(denoise, known, masks, drawn)
        for step in SAMPLERS[self.name](denoise, x, levels, stream, self.eta):
            if callback is not None:
                callback(step.index, to_frames(step.denoised), to_frames(step.x), step.total)
            comfy.model_management.throw_exception_if_processing_interrupted()
            x = step.x
        if masks is not None and float(sigmas[-1]) == 0:
            x = blend(x, known, masks(levels[-2]))
        return to_frames(x if float(sigmas[-1]) == 0 else x / levels[-1].signal)

    def _levels(self, sampling: RescaledSampling, sigmas: Tensor) -> list[Level]:
        levels = [sampling.level(float(sigma)) for sigma in sigmas if float(sigma) > 0]
        if len(levels) < len(sigmas):
            levels.append(sampling.schedule.end(levels, "reference" if self.name == "ddim" else "clean"))
        return levels


def rescaled(sampling: Any) -> RescaledSampling:
    """The model's own noise schedule. Raises UserError for models that are not VideoCrafter's."""
    if not isinstance(sampling, RescaledSampling):
        raise UserError(
            "This sampler and scheduler read VideoCrafter's noise schedule, which the given model does not have: it is "
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
    """A sampling function of ComfyUI whose fresh noise comes from the seed on the CPU. By itself it draws the same
    there, but on a GPU other noise, on each kind its own."""

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
    """What to multiply noise by so that a sampler of ComfyUI's own starts from noise alone, as the network knows it.

    Those samplers do so at the very last timestep only; below it they leave room for a picture that is not there.
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


def guided(model: Any, guidance: Guidance) -> Any:
    """The MODEL with rescaled and temporal guidance; classifier-free guidance is ComfyUI's own."""
    if not guidance.rescale and not guidance.temporal:
        return model
    model = model.clone()
    model.set_model_sampler_post_cfg_function(lambda arguments: _after_guidance(arguments, guidance))
    return model


def _after_guidance(arguments: dict[str, Any], guidance: Guidance) -> Tensor:
    """Denoised latents with temporal guidance added, then brought back in spread (`vc_core.denoising.guidance`)."""
    out: Tensor = arguments["denoised"]
    conditional: Tensor = arguments["cond_denoised"]
    if guidance.temporal:
        options = arguments["model_options"].copy()
        options["transformer_options"] = {**options.get("transformer_options", {}), WITHOUT_TIME: True}
        (frozen,) = comfy.samplers.calc_cond_batch(
            arguments["model"], [arguments["cond"]], arguments["input"], arguments["sigma"], options
        )
        out = out + guidance.temporal * (conditional - frozen)
    if guidance.rescale and out is not conditional:
        base, factor = _parts_of_denoised(arguments)
        given, told = (_one_clip((base - denoised) / factor) for denoised in (out, conditional))
        out = base - factor * to_frames(rescale(given, told, guidance.rescale))
    return out


def _parts_of_denoised(arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(base, factor): the denoised latents are base - factor * what the network predicted. Each frame may have a sigma
    of its own."""
    x, sigma = arguments["input"], arguments["sigma"]
    sampling, factor = arguments["model"].model_sampling, sigma.to(x).reshape(-1, *(1,) * (x.ndim - 1))
    if isinstance(sampling, RescaledSampling) and sampling.schedule.prediction == "v":
        alpha = sampling.alpha(sigma, x.ndim).to(x)
        return x * alpha, factor * alpha.sqrt()
    return x, factor


class TwoScales(comfy.samplers.CFGGuider):
    """Guidance with a scale for the text and one for the picture: u + image_scale * (i - u) + cfg * (c - i), where i is
    told the picture alone (arXiv:2211.09800, equation 3)."""

    def __init__(self, model: Any, image_scale: float) -> None:
        super().__init__(model)
        self.image_scale = image_scale

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: int | None = None) -> Tensor:
        """ComfyUI's entry for each call of the model."""
        options = {**(model_options or {}), "sampler_cfg_function": self._combined, "disable_cfg1_optimization": True}
        out: Tensor = comfy.samplers.sampling_function(
            self.inner_model,
            x,
            timestep,
            self.conds["negative"],
            self.conds["positive"],
            self.cfg,
            model_options=options,
            seed=seed,
        )
        return out

    def _combined(self, arguments: dict[str, Any]) -> Tensor:
        x, unconditional = arguments["input"], arguments["uncond_denoised"]
        (pictured,) = comfy.samplers.calc_cond_batch(
            arguments["model"], [self.conds["picture_only"]], x, arguments["sigma"], arguments["model_options"]
        )
        guided = unconditional + self.image_scale * (pictured - unconditional)
        out: Tensor = x - (guided + arguments["cond_scale"] * (arguments["cond_denoised"] - pictured))
        return out


def run(
    model: Any,
    sampler: Any,
    sigmas: Tensor,
    *,
    positive: Any,
    negative: Any,
    picture_only: Any = None,
    image_cfg: float = 0.0,
    cfg: float,
    noise: Tensor,
    latent: Tensor,
    mask: Tensor | None,
    seed: int,
) -> Tensor:
    """Samples with progress, animated previews and Cancel between blocks; with `picture_only`, a CONDITIONING without
    the text, `image_cfg` is the scale of the picture. Returns the latents on the host's device."""
    watch = Watch(model, len(sigmas) - 1)
    model = model.clone()
    model.model_options.setdefault("transformer_options", {})[TICK] = watch.tick
    told: dict[str, Any] = {
        "callback": watch.step,
        "disable_pbar": not comfy.utils.PROGRESS_BAR_ENABLED,
        "seed": seed,
    }
    out: Tensor
    if picture_only is None:
        out = comfy.sample.sample_custom(
            model, noise, cfg, sampler, sigmas, positive, negative, latent, noise_mask=mask, **told
        )
        return out
    guider = TwoScales(model, image_cfg)
    guider.inner_set_conds({"positive": positive, "negative": negative, "picture_only": picture_only})
    guider.set_cfg(cfg)
    out = guider.sample(noise, latent, sampler, sigmas, denoise_mask=mask, **told)
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


def _keeping(denoise: Denoiser, known: Tensor, masks: Callable[[Level], Tensor], drawn: Tensor) -> Denoiser:
    """`keep` with the mask of each level."""

    def denoise_unknown(x: Tensor, level: Level) -> Estimate:
        return keep(denoise, known, masks(level), drawn)(x, level)

    return denoise_unknown


def _host_denoiser(model_wrap: Any, extra_args: dict[str, Any]) -> Denoiser:
    """The host's guided model in the terms of vc_core's samplers."""
    sampling = rescaled(model_wrap.inner_model.model_sampling)
    most = float(sampling.sigma_max)

    def denoise(x: Tensor, level: Level) -> Estimate:
        frames = to_frames(x)
        sigma = torch.full((frames.shape[0],), min(level.sigma, most), dtype=torch.float32, device=x.device)
        signal = level.signal or float(sampling.signal(sigma[:1], 1))  # the host's least, where no signal is left
        out = model_wrap(frames / signal, sigma, **extra_args)
        x0 = _one_clip(out)
        return Estimate(x0, (x - level.signal * x0) / level.noise)

    return denoise
