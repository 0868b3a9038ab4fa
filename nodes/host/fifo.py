"""FIFO sampling in the host: frames stand on the batch axis there, so each may have a sigma of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ...vc_core.denoising import Level, Noise
from ...vc_core.denoising.denoiser import Estimate
from ...vc_core.denoising.fifo import Queue, run
from ...vc_core.network.layers import to_clips, to_frames
from .sampling import rescaled
from .unet import EACH_LEVEL


class FifoSampler(comfy.samplers.Sampler):
    """Makes the first clip with another sampler, and goes on from it, one frame after the other, in the memory of one
    window. The noise that it is given counts for the first clip alone."""

    def __init__(self, base: Any, queue: Queue) -> None:
        self.base, self.queue = base, queue

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
        """ComfyUI's entry: noise and latents are f c h w; sigmas fall."""
        del denoise_mask  # a run from noise alone has none
        size, frames = self.queue.size, len(noise)
        turns = self.queue.early + frames
        steps = len(sigmas) - 1

        def on_step(index: int, denoised: Tensor, x: Tensor, total: int) -> None:
            if callback is not None:
                callback(index, denoised, x, total + turns)

        start = None if latent_image is None else latent_image[:size]
        told = dict(extra_args)  # ComfyUI's own samplers write into it
        first = self.base.sample(model_wrap, sigmas, told, on_step, noise[:size], start, None, disable_pbar)
        seed = ((extra_args.get("seed") or 0) + 1) % 2**64
        levels = self.queue.levels(rescaled(model_wrap.inner_model.model_sampling).schedule)
        estimate = _estimator(model_wrap, extra_args)
        out = torch.empty_like(noise)
        made = run(estimate, levels, to_clips(first.to(noise), size), frames, Noise(seed), self.queue)
        for index, frame in enumerate(made):
            comfy.model_management.throw_exception_if_processing_interrupted()
            out[index] = frame[0]
            on_step(steps + self.queue.early + index, frame, frame, steps)
        return out


def _estimator(model_wrap: Any, extra_args: dict[str, Any]) -> Callable[..., Estimate]:
    """The host's guided model for frames of different levels."""
    most = float(rescaled(model_wrap.inner_model.model_sampling).sigma_max)
    options = extra_args.get("model_options", {})
    passed = {**options.get("transformer_options", {}), EACH_LEVEL: True}
    told = {**extra_args, "model_options": {**options, "transformer_options": passed}}

    def estimate(x: Tensor, levels: Sequence[Level], shown: Sequence[int]) -> Estimate:
        del shown  # all frames are told the same
        sigma = x.new_tensor([min(level.sigma, most) for level in levels])
        signal, noise = (x.new_tensor(values)[:, None, None] for values in zip(*map(_parts, levels), strict=True))
        out = model_wrap(to_frames(x / signal), sigma, **told)
        x0 = to_clips(out, len(levels))
        return Estimate(x0, (x - signal * x0) / noise)

    return estimate


def _parts(level: Level) -> tuple[float, float]:
    return level.signal, level.noise
