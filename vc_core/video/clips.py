"""Loads the frames of a video file: as the start of a new video, or as views to follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ImageSequence
from torch import Tensor

from ..errors import DAMAGED, UserError, reason
from ..files import expanded, is_file, is_folder
from ..frames.pixels import MOST_PIXELS, check_pixels, load_image, opened_image
from .formats import require_av

OPENS_OTHERS = frozenset({"concat", "dash", "hls", "imf", "rtsp", "sdp", "vobsub", "webm_dash_manifest"})
"""Formats of lists whose entries are other files or addresses on the network."""
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
    if _is_still(path):
        return [load_image(path)]
    return list(open_frames(path).frames)


@dataclass(frozen=True, eq=False)
class Opened:
    """Frames h w 3, float32 in 0..1, each read when it is asked for. fps: of a video or an animated image, None for
    images. count: of images, None where it is not known."""

    frames: Iterator[Tensor]
    fps: float | None = None
    count: int | None = None


def open_frames(path: str | Path) -> Opened:
    """The frames of `load_images`, and those of an animated image, one after the other. Raises UserError if there is
    none, or if the file is no video; one that breaks off raises it when it is read that far."""
    file = expanded(path)
    if is_folder(file):
        files = sorted(found for found in file.iterdir() if found.suffix.lower() in STILLS)
        if not files:
            raise UserError(f"There are no images in {str(path)!r}. Give a folder of images, or a video.")
        return Opened(map(load_image, files), count=len(files))
    if _is_still(path):
        return _open_image(path)
    with _opened(path) as container:
        rate = container.streams.video[0].average_rate
    return Opened(
        (torch.from_numpy(values.copy()).float().div(255.0) for values in _decoded(path)), float(rate or 0) or None
    )


def _is_still(path: str | Path) -> bool:
    return expanded(path).suffix.lower() in STILLS


def _open_image(path: str | Path) -> Opened:
    """The frames of an image file, which is one unless it is animated; transparency is left out of animations."""
    first = load_image(path)
    with opened_image(path) as image:
        count = getattr(image, "n_frames", 1)
    if count == 1:
        return Opened(iter([first]), count=1)
    with opened_image(path) as image:
        image.seek(1)
        image.load()  # which reads the duration
        duration = image.info.get("duration", 0)
    return Opened(_animation(path), 1000 / duration if duration else None, count)


def _animation(path: str | Path) -> Iterator[Tensor]:
    with opened_image(path) as image:
        for frame in ImageSequence.Iterator(image):
            yield torch.from_numpy(np.array(frame.convert("RGB"))).float().div(255.0)


def _read(path: str | Path, convert: Callable[[np.ndarray], Tensor], frames: int | None = None) -> list[Tensor]:
    """The first frames of a video file, or all of them: bytes h w 3, converted one by one."""
    return [convert(values) for values in islice(_decoded(path), frames)]


def _decoded(path: str | Path) -> Iterator[np.ndarray]:
    """The frames of a video file, bytes h w 3."""
    with _opened(path) as container:
        empty = True
        for frame in container.decode(video=0):
            empty = False
            yield _upright(frame)
        if empty:
            raise UserError(f"{str(path)!r} has no frames that can be read. Save it again as mp4.")


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """A video file as PyAV opens it. Raises UserError if it does not exist, is not a video or breaks off."""
    av = require_av()
    file = expanded(path)
    if not is_file(file):
        raise UserError(f"Video {str(path)!r} not found. Check the name and the folder.")
    try:
        formats = ",".join(av.formats_available - OPENS_OTHERS)
        with av.open(str(file), options={"format_whitelist": formats}) as container:
            if not container.streams.video:
                raise UserError(f"{str(path)!r} has no video stream. Use a video file.")
            context = container.streams.video[0].codec_context
            check_pixels(path, context.width, context.height)
            context.options = {"max_pixels": str(MOST_PIXELS)}  # a stream may say another size than its container
            yield container
    except UserError:
        raise
    except (*DAMAGED, av.error.FFmpegError) as error:
        raise UserError(f"{str(path)!r} cannot be read as a video ({reason(error)}). Save it again as mp4.") from error


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
