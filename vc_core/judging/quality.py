"""How like an image is to a reference: PSNR and SSIM."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError

MOST_PSNR = 100.0
"""The PSNR of equal images in dB, which would be infinite."""
WINDOW = 7
"""Pixels of the windows of SSIM."""
K1, K2 = 0.01, 0.03


def psnr(image: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in decibels, at most `MOST_PSNR`; of values in 0..1."""
    error = float((image.double() - reference.double()).square().mean())
    return MOST_PSNR if error == 0 else min(MOST_PSNR, -10 * math.log10(error))


def ssim(image: Tensor, reference: Tensor) -> float:
    """Structural similarity (Wang et al. 2004) of images h w 3 in 0..1, with even windows and the covariance of
    samples; the mean over channels. 1 for equal images. Raises UserError below 7 pixels per side."""
    if min(image.shape[:2]) < WINDOW:
        h, w = image.shape[:2]
        raise UserError(f"The image has {w}x{h} pixels; structural similarity needs at least {WINDOW} per side.")
    x, y = image.double().movedim(-1, 0), reference.double().movedim(-1, 0)
    maps = torch.stack([x, y, x * x, y * y, x * y])
    mean_x, mean_y, xx, yy, xy = F.avg_pool2d(maps.flatten(0, 1)[None], WINDOW, 1)[0].unflatten(0, (5, 3))
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    var_x, var_y = unbiased * (xx - mean_x**2), unbiased * (yy - mean_y**2)
    covariance = unbiased * (xy - mean_x * mean_y)
    c1, c2 = K1**2, K2**2
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((above / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())
