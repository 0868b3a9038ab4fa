"""What the sampling nodes share: the samplers and step spacings that are VideoCrafter's own, and their limits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..vc_core.denoising.schedule import NoiseSchedule
from ..vc_core.errors import UserError
from ..vc_core.long.table import with_eta
from .host import sampling

CATEGORY = "VideoCrafter/sampling"

EXACT, EXACT_LCM = "ddim_exact", "lcm_exact"
"""The references' samplers, as distinct from ComfyUI's `ddim`, which is Euler, and `lcm`, which has no boundary
conditions."""

OWN_SAMPLERS = {
    EXACT: "ddim",
    EXACT_LCM: "lcm",
    "euler": "euler",
    "euler_ancestral": "euler_ancestral",
    "dpmpp_2m": "dpmpp_2m",
    "dpmpp_2m_sde": "dpmpp_2m_sde",
}
SPACINGS = ("uniform", "trailing", "lcm")

STEPS = (
    "Number of steps, 1 to 1000. ddim_exact needs about 50, dpmpp_2m about 20, euler about 25 to 30, T2V-Turbo with "
    "lcm_exact 4 (v1) or 8 (v2); time grows in proportion. With the scheduler uniform some counts run a few steps more "
    "(60 gives 63) and some do not exist; a message then names the nearest."
)
SPACING = (
    "uniform spaces the steps as the authors of VideoCrafter do and never visits the very last timestep; trailing "
    "begins at the very last one, which helps with few steps and suits DynamiCrafter; lcm visits the timesteps "
    "that T2V-Turbo was distilled at"
)
DENOISE = (
    "0.01 to 1, how much of the given latent is replaced: 1 starts from noise alone, lower runs only the last part "
    "of the steps and keeps more of the given video. With uniform and trailing it is the share of the steps that "
    "runs."
)
ETA = (
    "0 to 1, fresh noise added in each step by ddim_exact and by ComfyUI's ancestral and SDE samplers: 1 as the "
    "authors of VideoCrafter, 0 makes ddim_exact deterministic. Other samplers ignore it. For long_video use 0, but 1 "
    f"with {' and '.join(with_eta(1))}."
)


def sampler_named(name: str, eta: float, pure: bool) -> Any:
    """A SAMPLER by the KSampler node's name for it; `pure` says whether the run starts from noise alone."""
    if name in (EXACT, EXACT_LCM):
        return sampling.CoreSampler(OWN_SAMPLERS[name], eta, pure=pure)
    return sampling.host_sampler(name, eta)


def sigmas_of(model: Any, sampler: str, scheduler: str, steps: int, denoise: float) -> Tensor:
    """SIGMAS of a scheduler, VideoCrafter's or ComfyUI's, for a share of the steps."""
    if scheduler in SPACINGS:
        return spaced(sampling.schedule_of(model), scheduler, steps, denoise)
    if scheduler not in sampling.host_schedulers():
        raise UserError(
            f"There is no scheduler {scheduler!r}; choose one of {', '.join((*SPACINGS, *sampling.host_schedulers()))}."
        )
    return sampling.host_sigmas(model, sampler, scheduler, steps, denoise)


def spaced(schedule: NoiseSchedule, spacing: str, steps: int, denoise: float) -> Tensor:
    """Falling sigmas of the rescaled process, ending with 0."""
    timesteps = schedule.timesteps(steps, spacing)  # type: ignore[arg-type]
    run = max(1, round(len(timesteps) * denoise))
    return torch.cat([schedule.sigmas[timesteps[-run:]], torch.zeros(1)]).float()


def check_denoise(denoise: float) -> None:
    """Raises UserError for values out of range."""
    if not 0 < denoise <= 1:
        raise UserError(f"denoise is {denoise}; it should be above 0 (changes little) and at most 1 (all new).")


def check_eta(eta: float) -> None:
    """Raises UserError for values out of range."""
    if not 0 <= eta <= 1:
        raise UserError(f"eta is {eta}; it should be from 0 (no fresh noise) to 1 (as the authors).")
