"""A draft: what a run would show, roughly, from a few large steps. It shows where an object would be, and its color."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from .denoiser import Denoiser
from .schedule import Level, NoiseSchedule

STEPS = 6
"""Into how many steps the timesteps are divided."""
MADE = 4
"""How many of them are made; later ones only add detail."""


def draft_levels(schedule: NoiseSchedule) -> list[Level]:
    """The levels of a draft, from the noisiest one on."""
    last = len(schedule) - 1
    return [schedule.level(round(last * (1 - step / STEPS))) for step in range(MADE)]


def draft(denoise: Denoiser, levels: Sequence[Level], drawn: Tensor) -> Tensor:
    """The clean latents, b c f h w, that are estimated at the last of these levels, from noise b c f h w at the first,
    by DDIM steps without fresh noise."""
    x = drawn
    for here, then in pairwise(levels):
        found = denoise(x, here)
        x = then.signal * found.x0 + then.noise * found.eps
    return denoise(x, levels[-1]).x0
