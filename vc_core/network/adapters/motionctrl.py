"""MotionCtrl (arXiv:2312.03641): camera poses in the temporal transformers, features of trajectories in the encoder.

`MotionCtrlNetwork` has the weights under their published names. Each adapter belongs to one clip: poses and features
are cut with the windows of longer clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...conditions import NEGATIVE
from ...errors import UserError
from ..adapter import Adapter, Place, Site
from ..call import repeated
from ..layers import to_clips, to_frames
from .named import NamedLayers, NamedTensors

NAME = "motionctrl"
"""The control that the adapters belong to."""
POSE = 12
"""Numbers of a pose: the rows of [R | T], 3 x 4, from world to camera."""

PROJECTION = ".cc_projection"
"""The published name of a block's linear layer, behind that of the block."""

CELL = 8
"""Height and width, in pixels, of what is one pixel of a latent."""


class MotionCtrlNetwork(NamedLayers):
    """The linear layers, c + 12 -> c, of temporal transformer blocks, and perhaps `omcm`, the trajectory encoder."""

    def __init__(
        self,
        blocks: Mapping[str, int],
        levels: Sequence[int] = (),
        units: int = 2,
        changed: Mapping[str, tuple[int, ...]] | None = None,
        *,
        operations: Any = nn,
        **where: Any,
    ) -> None:
        """blocks: the widths of the blocks, by their published names. levels, units: of the trajectory encoder; without
        levels there is none. changed: shapes of the UNet's own tensors that come with them. operations, where: the
        classes of the layers, and their device and dtype."""
        super().__init__(
            {f"{name}{PROJECTION}": operations.Linear(width + POSE, width, **where) for name, width in blocks.items()}
        )
        self.changed = NamedTensors(changed or {}, **where)
        self.omcm = TrajectoryEncoder(levels, units, operations=operations, **where) if levels else None

    @property
    def projections(self) -> dict[str, nn.Module]:
        """The linear layers by the names of their blocks."""
        return {name.removesuffix(PROJECTION): layer for name, layer in self.layers.items()}


class TrajectoryUnit(nn.Module):
    """Two convolutions with a residual connection; the first unit of a later level halves the map before."""

    def __init__(self, c_in: int, c_out: int, *, halve: bool, operations: Any = nn, **where: Any) -> None:
        super().__init__()
        self.halve = halve
        if c_in != c_out:
            self.in_conv = operations.Conv2d(c_in, c_out, 3, padding=1, **where)
        self.block1 = operations.Conv2d(c_out, c_out, 3, padding=1, **where)
        self.block2 = operations.Conv2d(c_out, c_out, 3, padding=1, **where)

    def forward(self, x: Tensor) -> Tensor:
        """n c h w -> n c h w, half as high and wide, rounded up, where it halves."""
        if self.halve:
            x = F.avg_pool2d(x, 2, ceil_mode=True)
        if hasattr(self, "in_conv"):
            x = self.in_conv(x)
        out: Tensor = self.block2(F.relu(self.block1(x))) + x
        return out


class TrajectoryEncoder(nn.Module):
    """Flow maps of moving objects -> a feature map for each level of the UNet."""

    def __init__(self, levels: Sequence[int], units: int, *, operations: Any = nn, **where: Any) -> None:
        super().__init__()
        self.conv_in = operations.Conv2d(2 * CELL**2, levels[0], 3, padding=1, **where)
        self.body = nn.ModuleList()
        channels, self.units = levels[0], units
        for level, width in enumerate(levels):
            for unit in range(units):
                halve = level > 0 and unit == 0
                self.body.append(TrajectoryUnit(channels, width, halve=halve, operations=operations, **where))
                channels = width

    def forward(self, flow: Tensor) -> list[Tensor]:
        """flow: b 2 f h w in pixels, from each frame to the next (dx, dy) -> b c f h/8 w/8 and coarser maps, one for
        each level."""
        frames = flow.shape[2]
        x = self.conv_in(F.pixel_unshuffle(to_frames(flow), CELL))
        found = []
        for number, unit in enumerate(self.body, start=1):
            x = unit(x)
            if number % self.units == 0:
                found.append(to_clips(x, frames))
        return found


class CameraPoses(Adapter):
    """Moves the camera along poses b f 12, each the rows of a 3 x 4 matrix [R | T] from world to camera.

    Behind the first attention of every temporal transformer block, tokens and pose are projected together, for every
    pixel of a frame alike. projections: the linear layers by the names of their blocks. strength: 1 as trained; below
    it the tokens are mixed with those without the pose. Raises UserError for poses of another shape.
    """

    owner = NAME

    def __init__(
        self, projections: Mapping[str, nn.Module], poses: Tensor, *, strength: float = 1.0, owner: str = NAME
    ) -> None:
        if poses.ndim != 3 or poses.shape[2] != POSE:
            raise UserError(
                f"Camera poses should have the shape (clips, frames, {POSE}), the rows of a 3x4 matrix for each frame, "
                f"but the shape is {tuple(poses.shape)}."
            )
        self.projections, self.poses, self.strength, self.owner = projections, poses, strength, owner

    def uses(self, site: Site, at: Place) -> bool:
        return at.attention == "temporal_1" and at.transformer in self.projections

    def after_attention(self, at: Place, x: Tensor) -> Tensor:
        window = at.evaluation.window
        poses = self.poses if window is None else self.poses[:, list(window)]
        if poses.shape[1] != at.frames:
            raise UserError(
                f"There are camera poses for {poses.shape[1]} frames, but the clip has {at.frames}. Give one pose for "
                "each frame."
            )
        with_pose = torch.cat([x, at.for_tokens(poses.to(x), x)], dim=-1)
        out: Tensor = self.projections[at.transformer](with_pose)
        return out if self.strength == 1 else torch.lerp(x, out, self.strength)


class TrajectoryFeatures(Adapter):
    """Adds features of object trajectories, one map b c f h w for each level, to the last encoder block of the level,
    before its skip connection is stored.

    blocks: the encoder blocks, from 0, that the maps are added to; 2, 5, 8 and 11 in the published networks.
    still: the features of a map without motion, b c 1 h w, which negative passes get; None gives them the same.
    until: the lowest timestep at which they act.
    """

    owner = NAME

    def __init__(
        self,
        features: Sequence[Tensor],
        blocks: Sequence[int],
        *,
        still: Sequence[Tensor] | None = None,
        until: float = 0.0,
    ) -> None:
        self.features = dict(zip(blocks, features, strict=True))
        self.still = None if still is None else dict(zip(blocks, still, strict=True))
        self.until = until

    def uses(self, site: Site, at: Place) -> bool:
        return at.index in self.features

    def after_encoder_block(self, at: Place, h: Tensor) -> Tensor:
        added = self._added(at).to(h)
        h = repeated(h, max(len(h), len(added)))
        moved = h + repeated(added, len(h))
        if not self.until:
            return moved
        acts = (at.timesteps >= self.until).reshape(len(at.timesteps), -1).expand(-1, at.frames).flatten()
        return torch.where(repeated(acts, len(h))[:, None, None, None], moved, h)

    def _added(self, at: Place) -> Tensor:
        """What is added to the rows of a pass, (b f) c h w, or (k b f) c h w where branches differ."""
        features, window = self.features[at.index], at.evaluation.window
        moving = to_frames(features if window is None else features[:, :, list(window)])
        negative = [branch.conditioning == NEGATIVE.conditioning for branch in at.evaluation.branches]
        if self.still is None or not any(negative):
            return moving
        still = to_frames(self.still[at.index].expand(len(features), -1, at.frames, -1, -1))
        return still if all(negative) else torch.cat([still if each else moving for each in negative])
