"""Loads the frames of a video file: as the start of a new video, or as views to follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..files import expanded
from ..frames.pixels import load_image
from .formats import require_av

STILLS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""How the names of image files end; other files are taken for videos."""


def load_clip(path: str | Path, *, frames: int, width: int, height: int) -> Tensor:
    """The first `frames` frames of a video file: f h w 3, float32 in 0..1.

    Frames are rotated according to the file's metadata, scaled to cover width x height pixels and center-cropped.
    Raises UserError if the file does not exist, is not a video or has fewer frames.
    """
    clip = _read(path, lambda values: _fitted(values, width, height), frames)
    if len(clip) < frames:
        raise UserError(
            f"{str(path)!r} has {len(clip)} frames, but {frames} are needed. Use fewer (--frames {len(clip)}) or a "
            "longer video."
        )
    return torch.stack(clip)


def load_views(paths: Sequence[str | Path]) -> Tensor:
    """Rendered views, f h w 3, float32 in 0..1: the images of `load_images`, one file after the other. Raises UserError
    for images of different sizes."""
    images = [image for path in paths for image in load_images(path)]
    sizes = {tuple(image.shape[:2]) for image in images}
    if len(sizes) > 1:
        given = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise UserError(f"The views have different sizes ({given}). Render all of them at the same size.")
    return torch.stack(images)


def load_images(path: str | Path) -> list[Tensor]:
    """Images h w 3, float32 in 0..1: that of an image file, those of a folder in the order of their names, or all
    frames of a video file. Raises UserError if there is none, or if it cannot be read."""
    file = expanded(path)
    if file.is_dir():
        files = sorted(found for found in file.iterdir() if found.suffix.lower() in STILLS)
        if not files:
            raise UserError(f"There are no images in {str(path)!r}. Give a folder of images, or a video.")
        return [load_image(found) for found in files]
    if file.suffix.lower() in STILLS:
        return [load_image(path)]
    return _read(path, lambda values: torch.from_numpy(values.copy()).float().div(255.0))


def _read(path: str | Path, convert: Callable[[np.ndarray], Tensor], frames: int | None = None) -> list[Tensor]:
    """The first frames of a video file, or all of them: bytes h w 3, converted one by one."""
    av = require_av()
    file = expanded(path)
    if not file.is_file():
        raise UserError(f"Video {str(path)!r} not found. Check the name and the folder.")
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise UserError(f"{str(path)!r} has no video stream. Use a video file.")
            return [convert(_upright(frame)) for frame in islice(container.decode(video=0), frames)]
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(f"{str(path)!r} cannot be read as a video ({error}). Save it again as mp4.") from error


def _upright(frame: Any) -> np.ndarray:
    """The bytes h w 3 of a decoded frame, rotated according to the file (unless PyAV is too old to report it)."""
    turns = round(getattr(frame, "rotation", 0) / 90)
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def _fitted(values: np.ndarray, width: int, height: int) -> Tensor:
    """Bytes h w 3 -> height width 3 in 0..1, scaled to cover the size and center-cropped."""
    image = torch.from_numpy(values).permute(2, 0, 1)[None].float().div(255.0)
    scale = max(height / image.shape[2], width / image.shape[3])
    size = (max(height, round(image.shape[2] * scale)), max(width, round(image.shape[3] * scale)))
    if size != tuple(image.shape[2:]):
        image = F.interpolate(image, size, mode="bicubic", antialias=True, align_corners=False).clamp(0.0, 1.0)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return image[0, :, top : top + height, left : left + width].permute(1, 2, 0).contiguous()
