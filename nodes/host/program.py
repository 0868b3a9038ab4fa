"""Programs of vc_core inside a run of the host: frames are on its batch axis, so each may have a sigma of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ...vc_core.denoising import Level, NoiseSchedule
from ...vc_core.denoising.denoiser import Estimate
from ...vc_core.denoising.fifo import Estimator
from ...vc_core.long.engine import Program
from ...vc_core.network.layers import to_clips, to_frames
from .sampling import rescaled
from .unet import EACH_LEVEL


class ProgramSampler(comfy.samplers.Sampler):
    """Runs a program that samples one frame after the other, in the memory of one window.

    base: the SAMPLER of its first clip, of `opening` frames; the noise that a run is given counts for that clip alone.
    turns: steps of the program after that, the last of which return a frame each.
    """

    def __init__(self, base: Any, program: Program, *, opening: int, turns: int) -> None:
        self.base, self.program, self.opening, self.turns = base, program, opening, turns

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
        steps, size = len(sigmas) - 1, self.opening
        begun = steps + self.turns - len(noise)

        def on_step(index: int, denoised: Tensor, x: Tensor, total: int) -> None:
            if callback is not None:
                callback(index, denoised, x, total + self.turns)

        def opening() -> Tensor:
            start = None if latent_image is None else latent_image[:size]
            own = dict(extra_args)  # ComfyUI's own samplers write into it
            first = self.base.sample(model_wrap, sigmas, own, on_step, noise[:size], start, None, disable_pbar)
            return to_clips(first.to(noise), size)

        out = torch.empty_like(noise)
        for index, frame in enumerate(self.program(HostSession(model_wrap, extra_args, opening))):
            comfy.model_management.throw_exception_if_processing_interrupted()
            out[index] = frame[0]
            on_step(begun + index, frame, frame, steps)
        return out


@dataclass(frozen=True, eq=False)
class HostSession:
    """The host's guided model at work (`vc_core.long.engine.Session`)."""

    model_wrap: Any
    extra_args: dict[str, Any]
    opening: Callable[[], Tensor]

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule of the model."""
        return rescaled(self.model_wrap.inner_model.model_sampling).schedule

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.extra_args.get("seed") or 0)

    def estimator(self) -> Estimator:
        """The host's guided model for frames of different levels."""
        model_wrap, extra_args = self.model_wrap, self.extra_args
        most = float(rescaled(model_wrap.inner_model.model_sampling).sigma_max)
        options = extra_args.get("model_options", {})
        passed = {**options.get("transformer_options", {}), EACH_LEVEL: True}
        given = {**extra_args, "model_options": {**options, "transformer_options": passed}}

        def estimate(x: Tensor, levels: Sequence[Level], shown: Sequence[int]) -> Estimate:
            del shown  # all frames have the same conditioning
            sigma = x.new_tensor([min(level.sigma, most) for level in levels])
            signal, noise = (x.new_tensor(values)[:, None, None] for values in zip(*map(_parts, levels), strict=True))
            out = model_wrap(to_frames(x / signal), sigma, **given)
            x0 = to_clips(out, len(levels))
            return Estimate(x0, (x - signal * x0) / noise)

        return estimate


def _parts(level: Level) -> tuple[float, float]:
    return level.signal, level.noise
