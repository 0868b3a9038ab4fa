"""Rendered views as the frames of a clip, with the original images in their places (ViewCrafter, arXiv:2409.02048)."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .fitting import Fit, fit
from .pixels import to_pillow


def clip_of_views(
    views: Tensor, first: Tensor, last: Tensor | None = None, *, height: int, width: int, how: Fit = "crop"
) -> Tensor:
    """The frames f height width 3 that a clip is made from, in 0..1.

    views: f h w 3 in 0..1, rendered along the path of the camera, of any size; they are scaled bilinearly in floating
    point, and cropped where their aspect ratio differs, or padded if `how` is "pad".
    first, last: h w 3 in 0..1, the original images that take the places of the first and, if given, of the last view;
    see `fit_original`.
    """
    scaled: Fit = "pad" if how == "pad" else "crop"
    clip = torch.stack([fit(view, height, width, scaled, scaling="smooth") for view in views])
    clip[0] = fit_original(first, height, width, how)
    if last is not None:
        clip[-1] = fit_original(last, height, width, how)
    return clip


def fit_original(image: Tensor, height: int, width: int, how: Fit = "crop") -> Tensor:
    """An original image h w 3 in 0..1 of any size -> height width 3. As `fitting.fit`, but "published" is as
    ViewCrafter's own command does it: scaled to cover the frame with Lanczos' filter in 8 bits, then cropped evenly,
    with bicubic resampling where that is half a pixel."""
    if how != "published":
        return fit(image, height, width, how)
    h, w = image.shape[:2]
    scale = max(height / h, width / w)
    size = (max(width, int(w * scale)), max(height, int(h * scale)))
    covering = to_pillow(image).resize(size, Image.Resampling.LANCZOS)
    fitted = ImageOps.fit(covering, (width, height), method=Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(fitted)).float().div(255.0)
