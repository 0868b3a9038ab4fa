"""The rough video of Time-to-Move (arXiv:2511.08633): objects are cut out by masks and pasted along tracks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from .fitting import Fit, fit, scaled_size

Point = tuple[float, float]
"""x, y in pixels, from the upper left corner."""

Background = Literal["filled", "kept"]
BACKGROUNDS: tuple[Background, ...] = get_args(Background)
"""What is where an object was: "filled" with the colors around it, or "kept" as it is, with the object."""

KEPT_UNTIL = 0.3
"""The share of the noise schedule down to which an object is kept on its track, unless another is asked for."""

COVERED = 0.1
"""The share of a latent position that an object covers at least where the position belongs to it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Drag:
    """Objects, and where they go.

    masks: k h w in 0..1, one for each object, 1 inside it, at the size of the image or of the video's frames.
    tracks: points (x, y), one track for each object or one for all, in pixels of the masks. The points are evenly
        spaced in time; an object moves as its track does from the first point on, wherever that point is.
    background: what is where an object was.

    Raises UserError for masks that are empty or of another shape, and for tracks that are empty, not finite or of
    another number.
    """

    masks: Tensor
    tracks: Sequence[Sequence[Point]]
    background: Background = "filled"

    def __post_init__(self) -> None:
        if self.masks.ndim != 3 or 0 in self.masks.shape:
            raise UserError(
                f"The mask of the object has the shape {tuple(self.masks.shape)}; it should be (objects, height, "
                "width)."
            )
        if not bool((self.masks > 0.5).flatten(1).any(1).all()):
            raise UserError(
                "The mask of the object is empty where the clip shows the image. Paint the object white, or select it "
                "in the mask editor."
            )
        self._check_tracks()
        if self.background not in BACKGROUNDS:
            raise UserError(f"The background is {self.background!r}; it should be one of {', '.join(BACKGROUNDS)}.")

    def _check_tracks(self) -> None:
        if len(self.tracks) not in (1, len(self.masks)):
            raise UserError(
                f"There are {len(self.tracks)} tracks for {len(self.masks)} masks. Give one track for each mask, or "
                "one for all."
            )
        sides = [side for track in self.tracks for point in track for side in point]
        if not all(self.tracks) or not all(map(math.isfinite, sides)):
            raise UserError("A track has no points, or one that is not finite. Give every point in pixels.")

    def fitted(self, height: int, width: int, how: Fit = "crop") -> Drag:
        """The masks and tracks of an image that is fitted to height x width, as `fitting.fit` does it."""
        h, w = self.masks.shape[1:]
        to_h, to_w = scaled_size(h, w, height, width, how)
        masks = [fit(mask[..., None].expand(-1, -1, 3), height, width, how)[..., 0] for mask in self.masks]
        tracks = [[(x * to_w / w, y * to_h / h) for x, y in track] for track in self.tracks]
        return Drag(masks=torch.stack(masks), tracks=tracks, background=self.background)

    def reference(self, images: Tensor, frames: int) -> Reference:
        """The rough video of `frames` frames. images: 1 h w 3 or `frames` h w 3 in 0..1, at the size of the masks; the
        objects are cut out of the first. Raises UserError for another number of images and for another size."""
        if len(images) not in (1, frames) or images.shape[1:3] != self.masks.shape[1:]:
            raise UserError(
                f"The image has the shape {tuple(images.shape)}, which does not fit {frames} frames and masks of "
                f"{tuple(self.masks.shape[1:])}. Give one image, or as many as there are frames, of the mask's size."
            )
        behind = images
        if self.background == "filled":
            hole = self.masks.amax(0)
            behind = torch.stack([filled(image, hole) for image in images])
        made = behind.expand(frames, -1, -1, -1).clone()
        mask = made.new_zeros(made.shape[:3])
        for number, alpha in enumerate(self.masks):
            track = over_frames(self.tracks[number % len(self.tracks)], frames)
            steps = track - track[0]
            cut = torch.cat([images[0] * alpha[..., None], alpha[..., None]], dim=-1)  # premultiplied
            moved = shifted(cut, steps)
            made = made * (1 - moved[..., 3:]) + moved[..., :3]
            mask = torch.maximum(mask, moved[..., 3])
        return Reference(frames=made, mask=mask)


@dataclass(frozen=True, eq=False, kw_only=True)
class Reference:
    """A rough video, f h w 3 in 0..1, and where its objects are, f h w in 0..1."""

    frames: Tensor
    mask: Tensor

    def latent_mask(self, factor: int) -> Tensor:
        """What is generated (1) and what is kept (0) of latents that are `factor` times smaller: f h w."""
        cover = F.avg_pool2d(self.mask[:, None], factor)[:, 0]
        return (cover < COVERED).to(cover.dtype)


def rough_video(
    drag: Drag, images: Sequence[Tensor], frames: int, height: int, width: int, how: Fit = "crop"
) -> Reference:
    """The rough video of images h w 3 in 0..1 of any size, which are fitted to height x width. Raises UserError for
    masks of another size than the first image, and as `Drag.reference`."""
    if drag.masks.shape[1:] != images[0].shape[:2]:
        raise UserError(
            f"The mask has {drag.masks.shape[2]}x{drag.masks.shape[1]} pixels, but the image {images[0].shape[1]}x"
            f"{images[0].shape[0]}. Give a mask of the image's size."
        )
    fitted = torch.stack([fit(image, height, width, how) for image in images])
    return drag.fitted(height, width, how).reference(fitted, frames)


def over_frames(track: Sequence[Point], frames: int) -> Tensor:
    """The place in each frame, frames 2, of a track whose points are evenly spaced from the first frame to the last,
    with straight lines in between."""
    points = torch.tensor(track)
    if len(points) == 1 or frames == 1:
        return points[:1].expand(frames, -1)
    return F.interpolate(points.T[None], frames, mode="linear", align_corners=True)[0].T


def shifted(image: Tensor, steps: Tensor) -> Tensor:
    """An image h w c moved by each of the steps f 2 (x, y in pixels), bilinear and with zeros behind it: f h w c."""
    h, w = image.shape[:2]
    moves = torch.eye(2, 3).repeat(len(steps), 1, 1)
    moves[:, :, 2] = -2 * steps / torch.tensor([w, h])
    grid = F.affine_grid(moves, [len(steps), 1, h, w], align_corners=False)
    planes = image.permute(2, 0, 1)[None].expand(len(steps), -1, -1, -1)
    return F.grid_sample(planes, grid, align_corners=False).permute(0, 2, 3, 1)


HOLE = 0.02
"""The share of an object in a pixel from which on the pixel is filled."""
EDGE = 2
"""By how many pixels a hole is widened, so that no edge of the object is left."""


def filled(image: Tensor, hole: Tensor) -> Tensor:
    """An image h w 3 with the colors around a hole h w in its place: known colors are averaged over ever larger squares
    until there are some everywhere (push-pull)."""
    size = 2 * EDGE + 1
    known = (F.max_pool2d(hole[None, None], size, stride=1, padding=EDGE) < HOLE).to(image.dtype)
    planes = image.permute(2, 0, 1)[None]
    if not bool(known.any()):
        return image
    return _pulled(planes, known)[0].permute(1, 2, 0)


def _pulled(planes: Tensor, known: Tensor) -> Tensor:
    """1 c h w with colors where `known`, 1 1 h w, is 0."""
    if bool(known.all()):
        return planes
    size = planes.shape[2:]
    share = F.avg_pool2d(known, 2, ceil_mode=True)
    coarse = F.avg_pool2d(planes * known, 2, ceil_mode=True) / share.clamp_min(1e-6)
    below = F.interpolate(_pulled(coarse, (share > 0).to(known.dtype)), size, mode="bilinear", align_corners=False)
    return planes * known + below * (1 - known)
