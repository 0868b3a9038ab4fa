"""Noise Calibration (arXiv:2407.10285): noise with which a network, from a noised video, returns that video's content.

Sampling from a noised video changes its content, since what the network makes of that noise is another video. Some
passes before the run find noise for which the low frequencies of the first estimate are those of the video, while the
high ones are the network's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .denoiser import Denoiser
from .schedule import Level
from .start import noised

AXES = (-2, -1)
SCALE = 0.25


def high_pass(x: Tensor, scale: float) -> Tensor:
    """The high frequencies over height and width of b c f h w: all but the part of the spectrum around the mean that is
    `scale`, 0..1, of it high and wide."""
    spectrum = torch.fft.fftshift(torch.fft.fft2(x.float()), dim=AXES)
    spans = []
    for size in x.shape[-2:]:
        centre, reach = size // 2, int(size // 2 * scale)
        spans.append(slice(centre - reach, centre + reach))
    spectrum[..., spans[0], spans[1]] = 0
    return torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=AXES)).real.to(x.dtype)


def calibrated(
    denoise: Denoiser, video: Tensor, noise: Tensor, level: Level, *, rounds: int, scale: float = SCALE
) -> Tensor:
    """The noise for a run from a video, b c f h w, that begins at a level, in `rounds` passes from given noise:
    eps(x) + (high(x0) - high(video)) signal / noise for x of the last noise, whose estimate is then x0 with the low
    frequencies of the video."""
    for _ in range(rounds):
        found = denoise(noised(video, noise, level), level)
        noise = found.eps + high_pass(found.x0 - video, scale) * (level.signal / level.noise)
    return noise
