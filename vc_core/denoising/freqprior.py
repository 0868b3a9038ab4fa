"""FreqPrior (arXiv:2502.03496): FreeInit's rounds with first noise whose variance is that of standard normal noise.

FreeInit's sum of two filtered noises has less variance at the frequencies that both filters take a part of. Here the
high-pass filter is the root of 1 - low^2, so that the squares of the filters sum to 1, and the low frequencies hold
fresh noise beside those of the last result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .noise import NoiseSource
from .schedule import Level

Filter = Literal["butterworth", "gaussian"]
FILTERS: tuple[Filter, ...] = ("butterworth", "gaussian")
ORDER = 4
CUT = 0.25
RATIO = 0.8
STOP = 321
"""The timestep at which rounds before the last one stop, as published."""

AXES = (-3, -2, -1)


@dataclass(frozen=True, kw_only=True)
class Prior:
    """How the first noise of the next round is made.

    ratio: 0..1, how much of the low frequencies is that of the last result; the rest is fresh noise.
    kind: the low-pass filter.
    """

    ratio: float = RATIO
    kind: Filter = "butterworth"

    def next_noise(self, noised: Tensor, source: NoiseSource) -> Tensor:
        """The noise, b c f h w, of the next round. noised: the last result at the last timestep. What is drawn: the
        fresh low frequencies of two noises, then the high ones."""

        def drawn() -> Tensor:
            return source.draw(noised.shape, noised.device, noised.dtype)

        lows = [self._low(noised, fresh) for fresh in (drawn(), drawn())]
        low = low_pass(noised.shape[-3:], self.kind).to(noised.device)
        first, second = (_mixed(part, drawn(), low) for part in lows)
        return ((first.real + first.imag + second.real - second.imag) / math.sqrt(2)).to(noised.dtype)

    def _low(self, noised: Tensor, fresh: Tensor) -> Tensor:
        """Noise with a part of the last result. Two of them share that part, which their sum holds twice."""
        share = math.sqrt(1 - self.ratio**2)
        return (self.ratio * noised + share * fresh) / math.sqrt(1 + self.ratio**2)


def low_pass(shape: Sequence[int], kind: Filter = "butterworth") -> Tensor:
    """The filter over (frames, height, width), in the order of an FFT. As published, it is centered on index n / 2 of
    an axis of n values, which for an odd n lies between two frequencies."""
    axes = [torch.fft.ifftshift(torch.arange(size) * 2 / size - 1) for size in shape]
    f, h, w = torch.meshgrid(*axes, indexing="ij")
    distance = f**2 + h**2 + w**2
    if kind == "gaussian":
        return torch.exp(-distance / (2 * CUT**2))
    return 1 / (1 + (distance / CUT**2) ** ORDER)


def _mixed(low: Tensor, high: Tensor, keep: Tensor) -> Tensor:
    """The low frequencies of one noise and the high ones of another, complex."""
    spectrum = torch.fft.fftn(low.float(), dim=AXES) * keep
    spectrum = spectrum + torch.fft.fftn(high.float(), dim=AXES) * (1 - keep**2).sqrt()
    return torch.fft.ifftn(spectrum, dim=AXES)


def noised_on(x: Tensor, noise: Tensor, here: Level, there: Level) -> Tensor:
    """Latents b c f h w of one level at a noisier one, with this noise. Levels include VideoCrafter's rescale."""
    kept = there.signal / here.signal
    return kept * x + math.sqrt(max(0.0, there.noise**2 - (kept * here.noise) ** 2)) * noise


def stages(first: int, stop: int, stride: float) -> list[int]:
    """The timesteps of a round from the first one to the one at which it stops, about a stride apart."""
    count = max(1, round((first - stop) / stride))
    return [round(first - step * (first - stop) / count) for step in range(count + 1)]
