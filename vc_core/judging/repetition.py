"""Repetition inside a frame: the same thing at several places, the typical fault above the trained size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import local_mean, reduced
from .metric import Metric
from .moment import Moment

SIDE = 64
"""Pixels of the longer side of the copy that is looked at."""
CLOSEST = 1 / 8
"""The least distance of a repetition, in parts of the shorter side."""
COMMON = 1 / 4
"""The share of the image's energy that both of its shifted copies have to show at least."""


class Repetition(Metric):
    """The highest peak of the image's autocorrelation apart from the central one."""

    name = "repetition"
    help = (
        "how like a frame is to itself at another place: 1 if it is repeated, as several objects instead of one are, 0 "
        "if nothing is. Regular textures count as well"
    )
    better = "lower"
    reads = 1

    def at(self, moment: Moment) -> float:
        return repetition(moment.frame.image)


def repetition(image: Tensor) -> float:
    """How much of an image h w 3 is repeated, 0..1.

    The correlation coefficient of the image with itself, shifted, over what both show and without its low frequencies.
    A peak counts by its height above the highest saddle between it and the central peak, so what is only long, such as
    a horizon, is no repetition.
    """
    small = reduced(image, SIDE)
    h, w = small.shape[2:]
    radius = max(1, min(h, w) // 8)
    detail = (small - local_mean(local_mean(small, radius), radius))[0]
    found = _correlation(detail)
    x, y = torch.arange(2 * w) - w, (torch.arange(2 * h) - h)[:, None]
    far = x.square() + y.square() >= (CLOSEST * min(h, w)) ** 2
    height = (found - _saddles(found, (h, w)))[far]
    return float(height.max().clamp(0, 1)) if height.numel() else 0.0


def _correlation(image: Tensor) -> Tensor:
    """The correlation coefficients of c h w with itself for all shifts, no shift at (h, w): 2h 2w in 0..1; 0 where too
    little is in both."""
    h, w = image.shape[1:]
    size = (2 * h, 2 * w)
    spectrum = torch.fft.rfft2(image.double(), s=size)
    products = torch.fft.irfft2(spectrum.abs().square().sum(0), s=size)
    energy = torch.fft.rfft2(image.double().square().sum(0), s=size)
    all_of = torch.fft.rfft2(torch.ones(h, w, dtype=torch.float64), s=size)
    one, other = (torch.fft.irfft2(each, s=size) for each in (energy.conj() * all_of, energy * all_of.conj()))
    least = COMMON * float(image.double().square().sum())
    enough = torch.minimum(one, other) > max(least, 1e-9)
    found = torch.where(enough, products / (one * other).clamp(min=1e-18).sqrt(), 0.0)
    return torch.fft.fftshift(found).clamp(0, 1)


def _saddles(heights: Tensor, start: tuple[int, int]) -> Tensor:
    """For each place, how low one has to go at least on a path to it from the start: the morphological reconstruction
    of the start under the heights h w."""
    found = torch.zeros_like(heights)
    found[start] = heights[start]
    while True:
        wider = F.max_pool2d(found[None, None], 3, 1, 1)[0, 0]
        wider = torch.minimum(wider, heights)
        if torch.equal(wider, found):
            return found
        found = wider
