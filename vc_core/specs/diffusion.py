"""The numbers of the noising process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .bounds import bounded

Prediction = Literal["eps", "v"]
Spacing = Literal["uniform", "trailing", "lcm"]
"""How the timesteps of a run are spaced: see `denoising.NoiseSchedule.timesteps`."""


@dataclass(frozen=True, kw_only=True)
class DiffusionSpec:
    """The noising process: betas linear in their square root (arXiv:2112.10752), with VideoCrafter's rescale.

    `rescale` is the value that the signal's scale s(t) falls to, linearly over `rescale_steps` steps; None means
    s(t) = 1. The noised latent is sqrt(abar_t) * s(t) * x0 + sqrt(1 - abar_t) * noise.
    """

    timesteps: int = 1000
    beta_start: float = bounded(0.00085, most=1)
    beta_end: float = bounded(0.012, most=1)
    prediction: Prediction = "eps"
    rescale: float | None = bounded(0.7, most=1)
    rescale_steps: int = 400
    zero_terminal_snr: bool = False
    """The last timestep is pure noise (arXiv:2305.08891, algorithm 1)."""
    keep_last_rescale: bool = False
    """Sampling ends at the scale of the last timestep that was run (DynamiCrafter), not at that of timestep 0."""
