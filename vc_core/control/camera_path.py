"""The path of a camera as CamI2V's authors prepare it: timed, resampled and cut to the frames of a clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How a clip runs along a path.

    share: 0..1 and above 0, the part of the path that the clip covers.
    ease: whether the path is timed by a Bezier curve, slow at both ends; ease_in, ease_out: 0..1, the times of its two
        inner control points.
    back: whether the path is followed to its end and then back to its start.
    """

    share: float = 1.0
    ease: bool = False
    ease_in: float = 0.5
    ease_out: float = 0.5
    back: bool = False


def square(poses: Tensor) -> Tensor:
    """f 3 4 -> f 4 4, float64, with the last row 0 0 0 1. Raises UserError for a pose that has no inverse."""
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64).expand(len(poses), 1, 4)
    matrices = torch.cat([poses.double(), last], dim=1)
    flat = torch.linalg.det(matrices).abs() < 1e-6
    if bool(flat.any()):
        index = int(flat.nonzero()[0])
        raise UserError(
            f"The camera pose of frame {index} has no inverse: its first three columns should be a rotation. Give "
            "poses from world to camera, 3 x 4 numbers in rows."
        )
    return matrices


def along(world_to_camera: Tensor, frames: int, timing: Timing) -> Tensor:
    """frames 4 4, from world to camera: the poses of a clip along a path f 4 4. Between the poses of the path, the
    entries of the matrices from camera to world are interpolated linearly, as published."""
    path = torch.linalg.inv(world_to_camera.double())
    if timing.ease:
        path = _at(path, (len(path) - 1) * _eased(np.linspace(0, 1, len(path)), timing.ease_in, timing.ease_out))
    if timing.back:
        path = torch.cat([path, path.flip(0)])
    count = max(round(frames / timing.share), 1)
    return torch.linalg.inv(_at(path, np.linspace(0, len(path) - 1, count)[:frames]))


def _at(path: Tensor, places: np.ndarray) -> Tensor:
    """The poses at places between 0 and f - 1 of a path f 4 4."""
    where = torch.from_numpy(places).clamp(0, len(path) - 1)
    before = where.floor().long()
    after = (before + 1).clamp(max=len(path) - 1)
    return torch.lerp(path[before], path[after], (where - before)[:, None, None])


def _eased(times: np.ndarray, ease_in: float, ease_out: float) -> np.ndarray:
    """0..1 -> 0..1, the Bezier curve through (0, 0) and (1, 1) with the inner control points (ease_in, 0) and
    (ease_out, 1), linear between as many of its points as there are times."""
    rest = 1 - times
    first, second, third = 3 * times * rest**2, 3 * times**2 * rest, times**3
    return np.asarray(np.interp(times, ease_in * first + ease_out * second + third, second + third))


def focal_length(width: int, height: int, image_width: int, image_height: int) -> float:
    """In pixels of the clip, as the authors assume it: half of the longer side of the image, scaled to cover the clip,
    before it is cropped."""
    if image_width * height > width * image_height:  # wider than the clip
        return 0.5 * max(height * image_width // image_height, height)
    return 0.5 * max(width, width * image_height // image_width)
