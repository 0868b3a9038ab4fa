"""Pictures brought to the size of a clip, and their latents put where a network expects them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import UserError
from .pixels import to_image

Fit = Literal["crop", "pad", "published"]
"""crop: scaled to cover the frame, what stands over is cut off evenly. pad: scaled to lie inside it, with black around.
published: as DynamiCrafter's own command does, which scales the shorter side of the picture to the shorter side of the
frame, then crops and pads: a square picture gets black bars at the sides of a wide frame."""
Scaling = Literal["pillow", "smooth", "plain"]
"""How a picture is scaled, always bilinear: "pillow" in 8 bits as the published command, "smooth" the same in floating
point, "plain" without smoothing where it shrinks, as the published web page with the torchvision of its time."""

FITS: tuple[Fit, ...] = get_args(Fit)


def fit(
    picture: Tensor, height: int, width: int, how: Fit = "crop", *, scaling: Scaling = "pillow", fill: float = 0.0
) -> Tensor:
    """A picture h w 3 in 0..1 of any size -> height width 3; `fill` is the value of the bars, black by default.

    Raises UserError for a shape or a way that there is not.
    """
    if picture.ndim != 3 or picture.shape[-1] != 3 or 0 in picture.shape:
        raise UserError(f"A picture has the shape (height, width, 3); this one has {tuple(picture.shape)}.")
    if how not in FITS:
        raise UserError(f"There is no way {how!r} to fit a picture; choose one of {', '.join(FITS)}.")
    h, w = picture.shape[:2]
    if how == "published":
        size = _published_size(h, w, min(height, width))
    else:
        scale = (max if how == "crop" else min)(height / h, width / w)
        size = (max(1, round(h * scale)), max(1, round(w * scale)))
    return _centred(_scaled(picture, size, scaling), height, width, fill)


def _published_size(h: int, w: int, short: int) -> tuple[int, int]:
    """The shorter side becomes `short`, the other is cut down to a whole number."""
    return (short, int(short * w / h)) if h <= w else (int(short * h / w), short)


def _scaled(picture: Tensor, size: tuple[int, int], scaling: Scaling) -> Tensor:
    if scaling == "pillow":
        small = to_image(picture).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(small)).float().div(255.0)
    planes = picture.permute(2, 0, 1)[None].float()
    return F.interpolate(planes, size, mode="bilinear", antialias=scaling == "smooth")[0].permute(1, 2, 0)


def _centred(picture: Tensor, height: int, width: int, fill: float) -> Tensor:
    """The middle of the picture, or the picture in the middle, side by side for each axis."""
    for axis, wanted in ((0, height), (1, width)):
        have = picture.shape[axis]
        if have > wanted:
            picture = picture.narrow(axis, round((have - wanted) / 2), wanted)
        elif have < wanted:
            before = (wanted - have) // 2
            shape = list(picture.shape)
            bars = []
            for count in (before, wanted - have - before):
                shape[axis] = count
                bars.append(picture.new_full(shape, fill))
            picture = torch.cat([bars[0], picture, bars[1]], dim=axis)
    return picture


def fit_ends(pictures: Sequence[Tensor], height: int, width: int, how: Fit = "crop") -> Tensor:
    """2 height width 3, the first and the last of one or more pictures h w 3: one alone stands at both ends."""
    return torch.stack([fit(picture, height, width, how) for picture in (pictures[0], pictures[-1])])


def picture_latent(first: Tensor, frames: int, last: Tensor | None = None) -> Tensor:
    """The latent that stands beside the noised one, 1 c f h w, of pictures' latents 1 c h w.

    One picture stands beside every frame. With a second one the first stands beside the first frame, the second beside
    the last, and nothing (zeros) between them, which the network fills. Raises UserError for one frame with two ends.
    """
    if last is None:
        return first[:, :, None].expand(-1, -1, frames, -1, -1).contiguous()
    if frames < 2:
        raise UserError(f"A clip between two pictures has 2 frames or more; {frames} was asked for.")
    latent = first.new_zeros(first.shape[0], first.shape[1], frames, *first.shape[2:])
    latent[:, :, 0], latent[:, :, -1] = first, last
    return latent
