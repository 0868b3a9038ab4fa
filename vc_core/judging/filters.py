"""Local means and smaller copies of images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)


def grey(image: Tensor) -> Tensor:
    """h w 3 -> h w, luma of BT.601."""
    return image @ image.new_tensor(LUMA)


def local_mean(image: Tensor, radius: int) -> Tensor:
    """The mean of b c h w over squares of 2 radius + 1 pixels, of what is inside of the image."""
    return _mean_along(_mean_along(image, radius, 3), radius, 2)


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """b c h w with another height and width, bilinear, without aliasing."""
    if tuple(image.shape[2:]) == size:
        return image
    return F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)


def reduced(image: Tensor, side: int) -> Tensor:
    """h w 3 -> 1 3 h w with at most `side` pixels on its longer side."""
    h, w = image.shape[:2]
    scale = min(1.0, side / max(h, w))
    return resized(image.movedim(-1, 0)[None], (max(1, round(h * scale)), max(1, round(w * scale))))


def differences(image: Tensor) -> Tensor:
    """Central differences of b 1 h w: b 2 h w, (x, y)."""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    x = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    y = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    return torch.cat([x, y], dim=1) / 2


def _mean_along(image: Tensor, radius: int, axis: int) -> Tensor:
    size = image.shape[axis]
    ends = (radius + 1, radius) if axis == 3 else (0, 0, radius + 1, radius)
    sums = F.pad(image, ends).cumsum(axis)
    place = torch.arange(size, device=image.device)
    count = (place + radius).clamp(max=size - 1) - (place - radius).clamp(min=0) + 1
    share = count.to(image.dtype).reciprocal()
    found = sums.narrow(axis, 2 * radius + 1, size) - sums.narrow(axis, 0, size)
    return found.mul_(share if axis == 3 else share[:, None])
