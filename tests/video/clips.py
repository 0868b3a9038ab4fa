"""Clips to write: small, and such that a swapped axis, a lost frame or a wrong colour shows."""

from __future__ import annotations

import torch
from torch import Tensor

HEIGHT, WIDTH = 66, 94
BARS = ((1, 1, 1), (1, 1, 0), (0, 1, 1), (0, 1, 0), (1, 0, 1), (1, 0, 0), (0, 0, 1), (0, 0, 0))


def ramps(frames: int, height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> Tensor:
    """f h w c in 0..1: red to the right, green downwards, blue with time, alpha against red."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    last = max(frames - 1, 1)
    return torch.stack(
        [torch.stack([x, y, torch.full_like(x, i / last), 1 - x][:channels], dim=-1) for i in range(frames)]
    )


def bars(frames: int, height: int = 288, width: int = 512) -> Tensor:
    """f h w 3: colour bars at 75 % above, ramps of grey and of each primary below; the same in all frames."""
    upper = 0.75 * torch.tensor(BARS, dtype=torch.float32).repeat_interleave(width // len(BARS), dim=0)
    ramp = torch.linspace(0, 1, width)[:, None] * torch.tensor(((1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1.0)))[:, None]
    lower = ramp.repeat_interleave(height // 8, dim=0)
    picture = torch.cat([upper.expand(height // 2, width, 3), lower])
    return picture.expand(frames, height, width, 3).contiguous()


def noise(frames: int, height: int, width: int, channels: int = 3) -> Tensor:
    """f h w c of random numbers: what compresses worst, and any changed bit shows."""
    return torch.rand(frames, height, width, channels, generator=torch.Generator().manual_seed(7))


def disc(frames: int, height: int, width: int) -> Tensor:
    """f h w 3: a red disc that moves to the right over grey, with some noise."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    clip = torch.full((frames, height, width, 3), 0.2)
    for i, frame in enumerate(clip):
        inside = (x - width * (0.2 + 0.03 * i)) ** 2 + (y - height / 2) ** 2 < (min(height, width) / 5) ** 2
        frame[inside] = torch.tensor((0.9, 0.1, 0.1))
    return (clip + 0.06 * noise(frames, height, width)).clamp(0, 1)
