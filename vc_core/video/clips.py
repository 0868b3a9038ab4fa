"""VIDEO FILE -> FRAMES: the first frames of a video, fitted to a size, to start a new video from."""

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
    """The first `frames` frames as f h w 3, float32 in 0..1.

    Each is turned upright as the file says, as telephones ask for, and scaled until it covers width x height pixels,
    and its middle is kept. Raises UserError when there is no such file, when it is no video, or when it has fewer
    frames.
    """
    av = require_av()
    file = expanded(path)
    if not file.is_file():
        raise UserError(f"There is no video {str(path)!r}. Check the name and the folder.")
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise UserError(f"{str(path)!r} holds no video, only other streams. Give a video file.")
            decoded = islice(container.decode(video=0), frames)
            clip = [_fitted(_upright(frame), width, height) for frame in decoded]
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(f"{str(path)!r} cannot be read as a video ({error}). Save it again as mp4.") from error
    if len(clip) < frames:
        raise UserError(
            f"{str(path)!r} has {len(clip)} frames, but {frames} were asked for. Ask for fewer (--frames {len(clip)}), "
            "or give a longer video."
        )
    return torch.stack(clip)


def _upright(frame: Any) -> np.ndarray:
    """The bytes h w 3 of a decoded frame, turned by what the file says (PyAV of some age does not tell)."""
    turns = round(getattr(frame, "rotation", 0) / 90)
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def _fitted(values: np.ndarray, width: int, height: int) -> Tensor:
    """h w 3 bytes -> height width 3 in 0..1: scaled to cover the size, the middle kept."""
    picture = torch.from_numpy(values).permute(2, 0, 1)[None].float().div(255.0)
    scale = max(height / picture.shape[2], width / picture.shape[3])
    size = (max(height, round(picture.shape[2] * scale)), max(width, round(picture.shape[3] * scale)))
    if size != tuple(picture.shape[2:]):
        picture = F.interpolate(picture, size, mode="bicubic", antialias=True, align_corners=False).clamp(0.0, 1.0)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return picture[0, :, top : top + height, left : left + width].permute(1, 2, 0).contiguous()
