"""FreeLong (arXiv:2407.19918): the slow and coarse part of attention over a whole clip with the quick and fine part of
attention to near frames. Attention over many more frames than a network learnt with keeps the scene and blurs it; that
over few frames is sharp and forgets the scene."""

from __future__ import annotations

import torch
from torch import Tensor

CUT_SPACE = 0.25
CUT_TIME = 0.25
"""The published widths of the filter, as shares of the highest frequency."""


def low_pass(frames: int, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """The Gaussian filter f h (w / 2 + 1), in the order of a real FFT: 1 at frequency 0."""
    f = torch.fft.fftfreq(frames, device=device)[:, None, None] * 2 / CUT_TIME
    h = torch.fft.fftfreq(height, device=device)[:, None] * 2 / CUT_SPACE
    w = torch.fft.rfftfreq(width, device=device) * 2 / CUT_SPACE
    return torch.exp(-0.5 * (f**2 + h**2 + w**2))


def blend_low(near: Tensor, far: Tensor, values: int) -> None:
    """Gives `near`, a feature map b f h w c, the low frequencies over f, h and w of `far`, in place; in single
    precision, and so many channels at a time as have a quarter of `values`."""
    axes = (1, 2, 3)
    frames, height, width = near.shape[1:4]
    keep = low_pass(frames, height, width, near.device)[..., None]
    at_once = max(1, values * near.shape[-1] // near.numel() // 4)
    for mine, other in zip(near.split(at_once, -1), far.split(at_once, -1), strict=True):
        spectrum = torch.fft.rfftn(other.float() - mine.float(), dim=axes) * keep
        mine.add_(torch.fft.irfftn(spectrum, s=(frames, height, width), dim=axes))
