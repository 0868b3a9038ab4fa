"""Fits images to the size of a clip, and arranges their latents as a network expects them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import UserError
from .pixels import to_pillow

Fit = Literal["crop", "pad", "published"]
"""crop: scaled to cover the frame and cropped evenly. pad: scaled to fit inside it, with black bars. published: as
DynamiCrafter's own command does it: the shorter side of the image is scaled to the shorter side of the frame, then the
image is cropped and padded, so that a square image gets black bars at the sides of a wide frame."""
Scaling = Literal["pillow", "smooth", "plain"]
"""How an image is scaled, always bilinear: "pillow" in 8 bits as in the published command, "smooth" the same in
floating point, "plain" without antialiasing, as in the published web demo with the torchvision of its time."""

FITS: tuple[Fit, ...] = get_args(Fit)


def fit(
    image: Tensor, height: int, width: int, how: Fit = "crop", *, scaling: Scaling = "pillow", fill: float = 0.0
) -> Tensor:
    """Fits an image h w 3 in 0..1 of any size -> height width 3; `fill` is the value of the bars, black by default.

    Raises UserError for an invalid shape or an unknown `how`.
    """
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise UserError(f"An image must have the shape (height, width, 3); this one has {tuple(image.shape)}.")
    if how not in FITS:
        raise UserError(f"fit is {how!r}; it must be one of {', '.join(FITS)}.")
    h, w = image.shape[:2]
    return _centred(_scaled(image, scaled_size(h, w, height, width, how), scaling), height, width, fill)


def scaled_size(h: int, w: int, height: int, width: int, how: Fit) -> tuple[int, int]:
    """Height and width of an image of h x w pixels once `fit` has scaled it, before it is cropped and padded."""
    if how == "published":
        return _published_size(h, w, min(height, width))
    scale = (max if how == "crop" else min)(height / h, width / w)
    return (max(1, round(h * scale)), max(1, round(w * scale)))


def _published_size(h: int, w: int, short: int) -> tuple[int, int]:
    """The shorter side becomes `short`; the other is rounded down."""
    return (short, int(short * w / h)) if h <= w else (int(short * h / w), short)


def _scaled(image: Tensor, size: tuple[int, int], scaling: Scaling) -> Tensor:
    if scaling == "pillow":
        small = to_pillow(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(small)).float().div(255.0)
    planes = image.permute(2, 0, 1)[None].float()
    return F.interpolate(planes, size, mode="bilinear", antialias=scaling == "smooth")[0].permute(1, 2, 0)


def _centred(image: Tensor, height: int, width: int, fill: float) -> Tensor:
    """Center-crops or pads each axis."""
    for axis, wanted in ((0, height), (1, width)):
        size = image.shape[axis]
        if size > wanted:
            image = image.narrow(axis, round((size - wanted) / 2), wanted)
        elif size < wanted:
            before = (wanted - size) // 2
            shape = list(image.shape)
            bars = []
            for count in (before, wanted - size - before):
                shape[axis] = count
                bars.append(image.new_full(shape, fill))
            image = torch.cat([bars[0], image, bars[1]], dim=axis)
    return image


def fit_ends(images: Sequence[Tensor], height: int, width: int, how: Fit = "crop") -> Tensor:
    """The first and the last of one or more images h w 3, fitted: 2 height width 3. A single image is used for both."""
    return torch.stack([fit(image, height, width, how) for image in (images[0], images[-1])])


def image_latent(first: Tensor, frames: int, last: Tensor | None = None) -> Tensor:
    """The latent 1 c f h w that is concatenated to the noised one, from images' latents 1 c h w.

    A single image is repeated for all frames. With two, the first is placed at the first frame and the second at the
    last; the frames in between are zero, and the network fills them. Raises UserError for two images with fewer than 2
    frames.
    """
    if last is None:
        return first[:, :, None].expand(-1, -1, frames, -1, -1).contiguous()
    if frames < 2:
        raise UserError(f"frames is {frames}; a clip between two images needs at least 2.")
    latent = first.new_zeros(first.shape[0], first.shape[1], frames, *first.shape[2:])
    latent[:, :, 0], latent[:, :, -1] = first, last
    return latent
