"""The caches of `vc_core.denoising.caching` in the host, for the length of one run of any sampler."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import torch
from torch import Tensor

from ...vc_core.denoising.caching import Cache, check_quality, guidance_cache, step_cache, step_index
from .deep import STEP_CACHE, StepRun
from .long import check_own
from .unet import EACH_LEVEL

GUIDANCE_CACHE = "videocrafter_guidance_cache"
"""Where a run keeps its `GuidanceRun`, among the `transformer_options`."""


@dataclass(frozen=True, eq=False)
class GuidanceRun:
    """The guidance cache of one run, whose steps begin at the falling sigmas `starts`."""

    starts: Sequence[float]
    cache: Cache


def with_step_cache(model: Any, quality: str) -> Any:
    """A MODEL whose deep blocks run in some of the steps only. Raises UserError for models that are not VideoCrafter's
    and for qualities that do not exist."""
    check_quality(quality)
    return _in_each_run(model, STEP_CACHE, lambda starts: StepRun(starts, step_cache(len(starts), quality)))


def with_guidance_cache(model: Any, quality: str) -> Any:
    """A MODEL whose negative prompt is computed in some of the steps only. Raises UserError as `with_step_cache`."""
    check_quality(quality)
    model = _in_each_run(
        model, GUIDANCE_CACHE, lambda starts: GuidanceRun(starts, guidance_cache(len(starts), quality))
    )
    model.set_model_sampler_calc_cond_batch_function(_predictions)
    return model


def _in_each_run(model: Any, name: str, make: Callable[[list[float]], Any]) -> Any:
    """A MODEL in whose `transformer_options` each run finds what `make` gives for the sigmas of its steps."""
    check_own(model)

    def outer_sample(
        executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *others: Any, **more: Any
    ) -> Any:
        guider = executor.class_obj
        options = guider.model_options
        guider.model_options = comfy.model_patcher.create_model_options_clone(options)
        guider.model_options["transformer_options"][name] = make(sigmas[:-1].tolist())
        try:
            return executor(noise, latent, sampler, sigmas, *others, **more)
        finally:
            guider.model_options = options

    model = model.clone()
    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    model.remove_wrappers_with_key(kind, name)
    model.add_wrapper_with_key(kind, name, outer_sample)
    return model


def _predictions(arguments: dict[str, Any]) -> list[Tensor]:
    """The denoised latents for each of ComfyUI's conditionings, the positive one first. The negative one is
    extrapolated in most of the later steps, in terms of what the network predicts, as in vc_core. A queue, whose frames
    have a noise level each, computes both: the cache needs one level for the whole clip."""
    conds, options = arguments["conds"], arguments["model_options"]
    model, x, sigma = arguments["model"], arguments["input"], arguments["sigma"]
    kept = options.get("transformer_options", {})
    run: GuidanceRun | None = None if kept.get(EACH_LEVEL) else kept.get(GUIDANCE_CACHE)

    def compute(*wanted: Any) -> list[Tensor]:
        out: list[Tensor] = comfy.samplers.calc_cond_batch(model, list(wanted), x, sigma, options)
        return out

    if run is None or len(conds) != 2 or None in conds:
        return compute(*conds)
    level = float(sigma.flatten()[0])
    key, step = tuple(_active(cond, level) for cond in conds), step_index(run.starts, level)
    change = run.cache.get(key, step)
    one = x.new_ones((1,) * x.ndim)
    scale = model.model_sampling.calculate_denoised(sigma[:1], one, torch.zeros_like(one))
    if change is not None:
        positive = compute(conds[0], None)[0]
        return [positive, positive + scale * change]
    if kept.get(STEP_CACHE) is None:
        positive, negative = compute(*conds)
    else:  # separately, as each of them has its own steps in which it runs whole
        positive, negative = compute(conds[0], None)[0], compute(None, conds[1])[1]
    run.cache.add(key, step, (negative - positive) / scale)
    return [positive, negative]


def _active(cond: list[dict[str, Any]], sigma: float) -> tuple[Hashable, ...]:
    """The parts of one of ComfyUI's conditionings that apply at this noise level."""

    def counts(part: dict[str, Any]) -> bool:
        start, end = part.get("timestep_start"), part.get("timestep_end")
        return (start is None or sigma <= start) and (end is None or sigma >= end)

    return tuple(part.get("uuid") for part in cond if counts(part))
