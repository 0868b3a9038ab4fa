"""Loads the first frames of a video file, fitted to a size, as the start of a new video."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..files import expanded
from .formats import require_av


def load_clip(path: str | Path, *, frames: int, width: int, height: int) -> Tensor:
    """The first `frames` frames of a video file: f h w 3, float32 in 0..1.

    Frames are rotated according to the file's metadata, scaled to cover width x height pixels and center-cropped.
    Raises UserError if the file does not exist, is not a video or has fewer frames.
    """
    av = require_av()
    file = expanded(path)
    if not file.is_file():
        raise UserError(f"Video {str(path)!r} not found. Check the name and the folder.")
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise UserError(f"{str(path)!r} has no video stream. Use a video file.")
            decoded = islice(container.decode(video=0), frames)
            clip = [_fitted(_upright(frame), width, height) for frame in decoded]
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(f"{str(path)!r} cannot be read as a video ({error}). Save it again as mp4.") from error
    if len(clip) < frames:
        raise UserError(
            f"{str(path)!r} has {len(clip)} frames, but {frames} are needed. Use fewer (--frames {len(clip)}) or a "
            "longer video."
        )
    return torch.stack(clip)


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
