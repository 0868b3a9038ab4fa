"""What precedes a run: drafts, which show from a few large steps where an object would be, and its color, and what
changes of the first noise know of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    return denoise(descended(denoise, levels, drawn), levels[-1]).x0


def descended(denoise: Denoiser, levels: Sequence[Level], x: Tensor) -> Tensor:
    """The latents, b c f h w, at the last of these levels, from those at the first, by DDIM steps without fresh
    noise."""
    for here, then in pairwise(levels):
        found = denoise(x, here)
        x = then.signal * found.x0 + then.noise * found.eps
    return x


@dataclass(frozen=True, eq=False, kw_only=True)
class Opening:
    """A run that is about to begin, for what changes its first noise.

    denoise: its network with its guidance; these calls are none of its steps. schedule: of the model.
    first: the level at which it begins. video: the latents b c f h w that are noised there; None for a run that begins
    with noise alone.
    """

    denoise: Denoiser
    schedule: NoiseSchedule
    first: Level
    video: Tensor | None = None

    def draft(self, noise: Tensor) -> Tensor:
        """The clean latents b c f h w that a run from this noise, b c f h w, would lead to, roughly."""
        return draft(self.denoise, draft_levels(self.schedule), noise)
