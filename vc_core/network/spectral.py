"""FreeLong (arXiv:2407.19918): the low frequencies of attention over a whole clip with the high ones of attention to
near frames. Attention over many more frames than a network was trained on keeps the scene but blurs it; attention
over few frames is sharp but loses the scene."""

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


def blend_low(near: Tensor, far: Tensor) -> None:
    """Gives `near`, a feature map b f h w c, the low frequencies over f, h and w of `far`, in place; in single
    precision."""
    axes = (1, 2, 3)
    frames, height, width = near.shape[1:4]
    keep = low_pass(frames, height, width, near.device)[..., None]
    spectrum = torch.fft.rfftn(far.float() - near.float(), dim=axes) * keep
    near.add_(torch.fft.irfftn(spectrum, s=(frames, height, width), dim=axes))
