"""Models and noise whose answers are known, for the tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vc_core.conditions import SINGLE, Conditioning, Evaluation
from vc_core.denoising import Level
from vc_core.denoising.denoiser import Estimate


@dataclass
class WaveModel:
    """The closed-form network of the golden trajectories; remembers each call as (x, timestep, text, evaluation)."""

    calls: list[tuple[Tensor, Tensor, Tensor, Evaluation]] = field(default_factory=list)

    def __call__(
        self, x: Tensor, timestep: Tensor, conditioning: Conditioning, evaluation: Evaluation = SINGLE
    ) -> Tensor:
        text = conditioning.text
        self.calls.append((x, timestep, text, evaluation))
        phase = 0.003 * timestep + text.mean(dim=(1, 2)) + (0.0 if evaluation.temporal else 0.5)
        return 0.6 * x + 0.4 * torch.sin(1.7 * x + phase.view(-1, 1, 1, 1, 1))


@dataclass(frozen=True)
class Gaussian:
    """The perfect denoiser of data that is normal with this mean and variance; the path to it is known exactly."""

    mean: float
    variance: float

    def __call__(self, x: Tensor, level: Level) -> Estimate:
        sigma2 = level.sigma**2
        x0 = (self.variance * x / level.signal + sigma2 * self.mean) / (self.variance + sigma2)
        return Estimate(x0, (x - level.signal * x0) / level.noise)

    def flow(self, x: Tensor, here: Level, there: Level) -> Tensor:
        """Where the probability flow takes x: distances from the mean keep their share of the spread."""
        spread = ((self.variance + there.sigma**2) / (self.variance + here.sigma**2)) ** 0.5
        return there.signal * (self.mean + (x / here.signal - self.mean) * spread)


def geometric_levels(steps: int, highest: float, lowest: float) -> list[Level]:
    """Levels evenly spaced in log sigma, with a rescale that varies along the way."""
    levels = []
    for position in torch.linspace(0, 1, steps + 1, dtype=torch.float64).tolist():
        sigma, scale = highest * (lowest / highest) ** position, 0.4 + 0.5 * position
        levels.append(Level(timestep=999 * (1 - position), alpha=1 / (1 + (sigma * scale) ** 2), scale=scale))
    return levels


def prompt(batch: int = 1, value: float = 0.3, width: int = 5) -> Conditioning:
    """A conditioning whose text is all one number."""
    return Conditioning(text=torch.full((batch, 7, width), value))
