"""Videos whose figures are known, because they were constructed so."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

HEIGHT, WIDTH = 64, 96


def texture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Tensor:
    """h w 3 in 0..1 with details of several sizes, none of which is repeated."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for size in (2, 5, 11):
        noise = torch.rand(1, 3, height // size + 3, width // size + 3, generator=generator)
        layers.append(F.interpolate(noise, (height, width), mode="bicubic", align_corners=False))
    return torch.cat(layers).mean(0).movedim(0, -1).clamp(0, 1).contiguous()


def sliding(frames: int, x: int, y: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """f h w 3: a window that moves over a texture, by x and y pixels per frame; what it shows moves the other way."""
    image = texture(height + y * frames, width + x * frames)
    return torch.stack([image[y * i : y * i + height, x * i : x * i + width] for i in range(frames)])


def flickering(frames: int, size: float) -> Tensor:
    """f h w 3: a still texture whose brightness changes by `size` from each frame to the next and back."""
    still = 0.1 + 0.6 * texture()
    return torch.stack([still + size * (i % 2) for i in range(frames)])


def fading(frames: int, step: float, seams: dict[int, float]) -> Tensor:
    """f h w 3: brightness that rises by `step` per frame, and by the given steps before the given frames."""
    steps = torch.tensor([seams.get(i, step) for i in range(1, frames)])
    levels = torch.cat([torch.zeros(1), steps.cumsum(0)])
    return (0.1 + 0.2 * texture()) + levels[:, None, None, None]


def square(color: tuple[float, float, float], x: int = 36) -> Tensor:
    """h w 3: a square of 24 pixels on grey."""
    image = torch.full((HEIGHT, WIDTH, 3), 0.4)
    image[20:44, x : x + 24] = torch.tensor(color)
    return image
