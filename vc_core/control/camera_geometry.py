"""The geometry of a moving camera: poses relative to a frame, the map of its rays, and epipolar lines (CamI2V,
arXiv:2410.15957; CameraCtrl, arXiv:2404.02101).

Poses are 4 x 4 matrices b f 4 4, in double precision, since inverses and differences of nearly equal poses follow.
Intrinsics are 3 x 3 matrices in pixels of the clip. Axes are those of RealEstate10K: x to the right, y down, z ahead.
"""

from __future__ import annotations

import torch
from torch import Tensor

STILL = 1e-6
"""A relative translation of less than this in every axis is none. Since no epipolar line follows from it, it is
replaced by noise of this size."""


def relative_poses(world_to_camera: Tensor, frame: Tensor | int = 0, scale: float = 1.0) -> Tensor:
    """b f 4 4, from each camera to that of a frame, whose own pose becomes the identity.

    world_to_camera: b f 4 4. frame: the index of the frame, from 0, or one for each clip. scale: factor of the
    translations.
    """
    to_world = torch.linalg.inv(world_to_camera.double())
    first = to_world[torch.arange(len(to_world)), torch.as_tensor(frame).expand(len(to_world))]
    relative = torch.linalg.inv(first)[:, None] @ to_world
    return torch.cat([relative[..., :3], _scaled_translation(relative[..., 3:], scale)], dim=-1)


def _scaled_translation(column: Tensor, scale: float) -> Tensor:
    return column * column.new_tensor([scale, scale, scale, 1.0])[:, None]


def pose_rows(relative: Tensor) -> Tensor:
    """b f 4 4 -> b f 12: the rows of [R | T] from the world, which is the camera of the chosen frame, to each camera.
    float32"""
    return torch.linalg.inv(relative)[..., :3, :].flatten(2).float()


def intrinsics(focal: float, width: int, height: int) -> Tensor:
    """3 3, of a camera with square pixels whose axis meets the middle of the image. focal: in pixels."""
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)


def ray_map(relative: Tensor, camera: Tensor, height: int, width: int) -> Tensor:
    """b 6 f h w, float32: the Plücker coordinates of the ray through the middle of each pixel, its moment (origin x
    direction) and then its direction, a unit vector.

    relative: b f 4 4, from camera to the world of the chosen frame. camera: intrinsics, 3 3 or b f 3 3.
    """
    camera = camera.double().expand(*relative.shape[:2], 3, 3)
    x = torch.arange(width, dtype=torch.float64) + 0.5
    y = torch.arange(height, dtype=torch.float64) + 0.5
    ahead_x = (x - camera[..., 0, 2, None]) / camera[..., 0, 0, None]  # b f w
    ahead_y = (y - camera[..., 1, 2, None]) / camera[..., 1, 1, None]  # b f h
    grid = (*relative.shape[:2], height, width)
    ahead = torch.stack(
        [ahead_x[:, :, None].expand(grid), ahead_y[..., None].expand(grid), torch.ones(grid, dtype=torch.float64)], 2
    )
    ahead = ahead / ahead.norm(dim=2, keepdim=True)
    direction = torch.einsum("bfij,bfjhw->bfihw", relative[..., :3, :3], ahead)
    moment = torch.cross(relative[..., :3, 3, None, None].expand_as(direction), direction, dim=2)
    return torch.cat([moment, direction], dim=2).transpose(1, 2).float()


def fundamental_matrices(relative: Tensor, camera: Tensor, noise: Tensor) -> Tensor:
    """b f f 3 3, float32: F[i, j] maps a point of frame i, in homogeneous pixels, to its epipolar line in frame j,
    F = K^-T [t]x R K^-1 (Hartley and Zisserman, Multiple View Geometry, equation 9.12).

    relative: b f 4 4, from camera to the world. camera: intrinsics, 3 3 or b f 3 3. noise: b f f 3 1, standard normal,
    the direction of the translation between frames between which the camera only turns or stands still.
    """
    between = torch.linalg.inv(relative)[:, None] @ relative[:, :, None]  # b f1 f2 4 4, from frame 1 to frame 2
    moved = between[..., :3, 3:]
    still = (moved.abs() < STILL).all(dim=-2, keepdim=True)
    moved = torch.where(still, STILL * noise.double(), moved)
    inverse = torch.linalg.inv(camera.double().expand(*relative.shape[:2], 3, 3))
    essential = torch.cross(moved.expand(*moved.shape[:-1], 3), between[..., :3, :3], dim=-2)
    return (inverse.mT[:, None] @ essential @ inverse[:, :, None]).float()
