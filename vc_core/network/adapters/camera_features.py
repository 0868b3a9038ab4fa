"""Camera control by features of rays, in the temporal transformers: CameraCtrl (arXiv:2404.02101) and CamI2V
(arXiv:2410.15957).

The weights are layers for each temporal transformer block but the first, whose published names they have. Each adapter
belongs to one clip: rays and epipolar lines are cut with the windows of longer clips.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UserError
from ..adapter import Adapter, Place, Site
from ..attention import Attention, sdpa_attention
from .epipolar import EpipolarAttention, EpipolarLines
from .named import NamedLayers, NamedTensors
from .pose_encoder import PoseEncoder

NAME = "cami2v"
"""The control that the adapters belong to."""

CAMERACTRL, CAMI2V, EPIPOLAR = ".cc_projection", ".pluker_projection", ".epipolar.epipolar_attn"
"""The published names of a block's layers, behind that of the block."""

KEPT = 4
"""Windows of a clip whose features are kept."""


class RayFeatures:
    """The features that an encoder makes of the rays of a clip, for the windows that are asked for."""

    def __init__(self, encoder: Callable[[Tensor], list[Tensor]], rays: Tensor, frames: int = 16) -> None:
        """rays: b 6 f h w, of the whole clip. frames: the most that the encoder takes."""
        self.encoder, self.rays, self.frames = encoder, rays, frames
        self.kept: dict[tuple[int, ...] | None, list[Tensor]] = {}

    def at(self, at: Place, like: Tensor) -> Tensor:
        """b c f h w, for the grid of this place and the frames of this pass, on the device and in the type of
        `like`."""
        window = at.evaluation.window
        if window not in self.kept:
            while len(self.kept) >= KEPT:
                del self.kept[next(iter(self.kept))]
            self.kept[window] = self._encoded(at, like)
        for features in self.kept[window]:
            if tuple(features.shape[3:]) == at.grid:
                return features
        sizes = ", ".join(f"{h}x{w}" for h, w in (features.shape[3:] for features in self.kept[window]))
        raise UserError(
            f"The camera features are {sizes} high and wide, but the network's map is {at.grid[0]}x{at.grid[1]}. Make "
            "the clip as large as the camera was set up for, in multiples of 64 pixels."
        )

    def _encoded(self, at: Place, like: Tensor) -> list[Tensor]:
        window = at.evaluation.window
        rays = self.rays if window is None else self.rays[:, :, list(window)]
        if rays.shape[2] != at.frames:
            raise UserError(
                f"There are camera poses for {rays.shape[2]} frames, but the clip has {at.frames}. Give one pose for "
                "each frame."
            )
        if at.frames > self.frames:
            raise UserError(
                f"The pose encoder takes at most {self.frames} frames at once, but the network sees {at.frames}. Make "
                f"the clip {self.frames} frames long, or use context windows of that size."
            )
        return self.encoder(rays.to(like))


def for_tokens(features: Tensor, at: Place, tokens: Tensor) -> Tensor:
    """Features b c f h w in the layout of a temporal transformer's tokens, (b p) f c or b f p c. Where several
    conditionings share a pass, the tokens have as many times more rows."""
    if at.part is not None:
        features = features[:, :, :, at.part]
    if tokens.ndim == 4:
        return features.permute(0, 2, 3, 4, 1).flatten(2, 3)
    return features.permute(0, 3, 4, 2, 1).flatten(0, 2)


class CameraNetwork(NamedLayers):
    """The linear layers of the temporal transformer blocks, their epipolar attentions in CamI2V, and the pose encoder,
    `pose_encoder`."""

    def __init__(
        self,
        blocks: Mapping[str, int],
        encoder: Mapping[str, Any],
        registers: int | None = None,
        changed: Mapping[str, tuple[int, ...]] | None = None,
        *,
        operations: Any = nn,
        attention: Attention = sdpa_attention,
        **where: Any,
    ) -> None:
        """blocks: the widths of the blocks, by their published names. encoder: the sizes of the `PoseEncoder`.
        registers: the tokens of CamI2V's attentions that every query sees; None for CameraCtrl, which has no such
        attentions. changed: shapes of the UNet's own tensors that come with these layers. operations, attention, where:
        the classes of the layers, the attention function, and device and dtype."""
        name = CAMERACTRL if registers is None else CAMI2V
        layers = {f"{block}{name}": operations.Linear(width, width, **where) for block, width in blocks.items()}
        if registers is not None:
            for block, width in blocks.items():
                layers[f"{block}{EPIPOLAR}"] = EpipolarAttention(width, registers, operations=operations, **where)
        super().__init__(layers)
        self.changed = NamedTensors(changed or {}, **where)
        self.pose_encoder = PoseEncoder(**encoder, operations=operations, attention=attention, **where)

    @property
    def projections(self) -> dict[str, nn.Module]:
        """The linear layers by the names of their blocks."""
        return self._named(CAMERACTRL) or self._named(CAMI2V)

    @property
    def attentions(self) -> dict[str, nn.Module]:
        """The epipolar attentions by the names of their blocks; none in CameraCtrl."""
        return self._named(EPIPOLAR)

    def _named(self, end: str) -> dict[str, nn.Module]:
        return {name.removesuffix(end): layer for name, layer in self.layers.items() if name.endswith(end)}


class CameraByFeatures(Adapter):
    """What both kinds share. projections: the linear layers by the names of their blocks."""

    owner = NAME

    def __init__(self, features: RayFeatures, projections: Mapping[str, nn.Module]) -> None:
        self.features, self.projections = features, projections

    def uses(self, site: Site, at: Place) -> bool:
        return at.attention == "temporal_1" and at.transformer in self.projections


class CameraCtrl(CameraByFeatures):
    """The first attention sees x + projection(x + features) in place of its normed tokens x."""

    def around_attention(self, at: Place, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        features = for_tokens(self.features.at(at, x), at, x)
        seen = (x.unflatten(0, (-1, len(features))) + features).flatten(0, 1)
        return layer(x + self.projections[at.transformer](seen))


class CamI2V(CameraByFeatures):
    """With n = x + features of the normed tokens x, projection(n) + epipolar attention(n) is added to the result of the
    first attention, or with `inside` to its input, as an unpublished variant has it.

    attentions: the epipolar attentions by the names of their blocks. lines: the epipolar lines of the clip. unmasked:
    the heights of feature maps whose tokens all see each other.
    """

    whole_pixels = True

    def __init__(
        self,
        features: RayFeatures,
        projections: Mapping[str, nn.Module],
        attentions: Mapping[str, nn.Module],
        lines: EpipolarLines,
        *,
        unmasked: Collection[int] = (),
        inside: bool = False,
    ) -> None:
        super().__init__(features, projections)
        self.attentions, self.lines, self.unmasked, self.inside = attentions, lines, unmasked, inside

    def around_attention(self, at: Place, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        added = self._added(at, x)
        return layer(x + added) if self.inside else added.add_(layer(x))

    def _added(self, at: Place, x: Tensor) -> Tensor:
        """What the camera adds, of the shape of x, computed for one clip at a time."""
        features = for_tokens(self.features.at(at, x), at, x)
        lines = None if at.grid[0] in self.unmasked else self._lines(at, x.device)
        rows = 1 if x.ndim == 4 else at.grid[0] * at.grid[1]
        out = torch.empty_like(x)
        for clip, (part, result) in enumerate(zip(x.split(rows), out.split(rows), strict=True)):
            part = part + features[clip * rows % len(features) :][:rows]
            result.copy_(self.projections[at.transformer](part))
            result.add_(self._epipolar(at, part, lines, clip))
        return out

    def _lines(self, at: Place, device: torch.device) -> EpipolarLines:
        """The lines of the frames of this pass."""
        window, lines = at.evaluation.window, self.lines
        return (lines if window is None else lines.of_frames(window)).to(device)

    def _epipolar(self, at: Place, x: Tensor, lines: EpipolarLines | None, clip: int) -> Tensor:
        """The epipolar attention of one clip, p f d -> p f d or 1 f p d -> 1 f p d."""
        tokens = (x.transpose(0, 1) if x.ndim == 3 else x[0]).reshape(1, -1, x.shape[-1])
        out: Tensor = self.attentions[at.transformer](tokens, at.heads, lines, clip, at.grid)
        out = out.view(at.frames, -1, x.shape[-1])
        return out.transpose(0, 1) if x.ndim == 3 else out[None]
