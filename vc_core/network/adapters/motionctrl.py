"""MotionCtrl (arXiv:2312.03641): camera poses in the temporal transformers, features of trajectories in the encoder.

The weights are one linear layer for each temporal transformer block; `CameraProjections` holds them under their
published names. Each adapter belongs to one clip: poses and features are cut with the windows of longer clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UserError
from ..adapter import Adapter, Place, Site
from ..call import repeated
from ..layers import to_frames

POSE = 12
"""Numbers of a pose: the rows of [R | T], 3 x 4, from world to camera."""

PROJECTION = ".cc_projection"
"""The published name of a block's linear layer, behind that of the block."""


class CameraProjections(nn.Module):
    """The linear layers, c + 12 -> c, of the temporal transformer blocks, by the blocks' published names."""

    def __init__(self, weights: Mapping[str, Tensor], *, operations: Any = nn) -> None:
        """`weights` may hold all weights of a network or of a file; those of the projections are taken. Raises
        UserError where there are none."""
        super().__init__()
        self.layers: dict[str, nn.Module] = {}
        for key, weight in weights.items():
            name, found, kind = key.partition(PROJECTION)
            if found and kind == ".weight":
                layer = operations.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
                layer.load_state_dict({"weight": weight, "bias": weights[f"{name}{PROJECTION}.bias"]}, assign=True)
                self.layers[name] = layer
                self.add_module(f"{name}{PROJECTION}".replace(".", "_"), layer)
        if not self.layers:
            raise UserError(
                "This file has no layers for camera poses (keys with cc_projection). Give MotionCtrl's file: "
                "motionctrl.pth, or motionctrl_videocrafter2_cmcm.ckpt."
            )


class CameraPoses(Adapter):
    """Moves the camera along poses b f 12, each the rows of a 3 x 4 matrix [R | T] from world to camera.

    Behind the first attention of every temporal transformer block, tokens and pose are projected together, for every
    pixel of a frame alike. Raises UserError for poses of another shape.
    """

    def __init__(self, projections: CameraProjections, poses: Tensor) -> None:
        if poses.ndim != 3 or poses.shape[2] != POSE:
            raise UserError(
                f"Camera poses should have the shape (clips, frames, {POSE}), the rows of a 3x4 matrix for each frame, "
                f"but the shape is {tuple(poses.shape)}."
            )
        self.projections, self.poses = projections, poses

    def uses(self, site: Site, at: Place) -> bool:
        return at.attention == "temporal_1" and at.transformer in self.projections.layers

    def after_attention(self, at: Place, x: Tensor) -> Tensor:
        window = at.evaluation.window
        poses = self.poses if window is None else self.poses[:, list(window)]
        if poses.shape[1] != at.frames:
            raise UserError(
                f"There are camera poses for {poses.shape[1]} frames, but the clip has {at.frames}. Give one pose for "
                "each frame."
            )
        with_pose = torch.cat([x, at.for_tokens(poses.to(x), x)], dim=-1)
        out: Tensor = self.projections.layers[at.transformer](with_pose)
        return out


class TrajectoryFeatures(Adapter):
    """Adds features of object trajectories, one map b c f h w for each level, to the last encoder block of the level,
    before its skip connection is stored.

    blocks: the encoder blocks, from 0, that the maps are added to; 2, 5, 8 and 11 in the published networks.
    """

    def __init__(self, features: Sequence[Tensor], blocks: Sequence[int]) -> None:
        self.features = dict(zip(blocks, features, strict=True))

    def uses(self, site: Site, at: Place) -> bool:
        return at.index in self.features

    def after_encoder_block(self, at: Place, h: Tensor) -> Tensor:
        features, window = self.features[at.index], at.evaluation.window
        features = features if window is None else features[:, :, list(window)]
        return h + repeated(to_frames(features.to(h)), len(h))
