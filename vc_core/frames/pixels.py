"""The three representations of pixels, and image files.

Frames: `f h w 3`, float32 in 0..1. Networks: `f 3 h w` in -1..1. Files: `uint8`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import DAMAGED, UserError, reason
from ..files import expanded, placed

WHITE = 1.0
MOST_PIXELS = 2**28 // 3
"""Of an image or of a frame of a video: those that fill 256 MiB with 8 bits for each color. A small file may claim any
size."""
STARTS_PROGRAMS = frozenset({"EPS", "WMF"})
"""Formats that are drawn by a program (Ghostscript) or by the system, as the file says."""


def to_unit(pixels: Tensor) -> Tensor:
    """A network's output f 3 h w in about -1..1, clamped -> frames f h w 3, float32 in 0..1 on the CPU."""
    return pixels.detach().float().cpu().permute(0, 2, 3, 1).clamp(-1.0, 1.0).add(1.0).div(2.0).contiguous()


def to_network(frames: Tensor) -> Tensor:
    """Frames f h w 3 in 0..1 -> f 3 h w in -1..1 on the same device. Raises UserError for any other shape."""
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise UserError(f"Frames must have the shape (frames, height, width, 3); these have {tuple(frames.shape)}.")
    return frames.permute(0, 3, 1, 2).mul(2.0).sub(1.0)


def to_uint8(pixels: Tensor) -> Tensor:
    """A network's pixels in about -1..1, any shape -> bytes, rounded down as in the reference's videos."""
    return pixels.detach().float().clamp(-1.0, 1.0).add(1.0).div(2.0).mul(255.0).to(torch.uint8)


def load_image(path: str | Path) -> Tensor:
    """Loads an image file as h w 3, float32 in 0..1.

    The image is rotated according to its EXIF data; transparency is blended onto white; grey becomes RGB; 16 bits are
    kept. Raises UserError if the file does not exist, is not an image, or has more than `MOST_PIXELS` pixels.
    """
    with opened_image(path) as opened:
        image: Image.Image = ImageOps.exif_transpose(opened)
        image.load()
        return _pixels(image)


@contextmanager
def opened_image(path: str | Path) -> Iterator[Image.Image]:
    """An image file as Pillow opens it. Raises UserError if it does not exist, is not an image or is too large, and for
    what is wrong with it while the block reads it."""
    file = expanded(path)
    try:
        with Image.open(file, formats=_formats()) as opened:
            check_pixels(file, *opened.size)
            yield opened
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"Image {str(file)!r} not found. Check the name and the folder.") from error
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise UserError(
            f"{str(file)!r} cannot be read as an image ({reason(error)}). Save it again as PNG or JPEG."
        ) from error


def _formats() -> list[str]:
    """The formats that Pillow reads on its own."""
    Image.init()
    return [name for name in Image.ID if name not in STARTS_PROGRAMS]


def check_pixels(file: str | Path, width: int, height: int) -> None:
    """Raises UserError for images and frames that are too large to decode."""
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{str(file)!r} has {width} x {height} pixels; at most {MOST_PIXELS:,} are supported. Scale it down first."
        )


def _pixels(image: Image.Image) -> Tensor:
    """h w 3, float32 in 0..1, of a decoded image."""
    if image.mode.startswith(("I", "F")):
        return _grey(image)
    if image.has_transparency_data:
        rgba = torch.from_numpy(np.array(image.convert("RGBA"))).float().div(255.0)
        alpha = rgba[..., 3:]
        return rgba[..., :3] * alpha + WHITE * (1.0 - alpha)
    return torch.from_numpy(np.array(image.convert("RGB"))).float().div(255.0)


def _grey(image: Image.Image) -> Tensor:
    """h w 3 of a single-channel image with more than 8 bits; floating point values are assumed to be in 0..1."""
    values = torch.nan_to_num(torch.from_numpy(np.array(image).astype(np.float32)), nan=0.0)
    top = 1.0 if image.mode.startswith("F") else 65535.0
    return values.div(top).clamp(0.0, 1.0)[..., None].expand(-1, -1, 3).contiguous()


def to_pillow(image: Tensor) -> Image.Image:
    """h w 3 or h w 4 in 0..1 as a Pillow image, rounded to 8 bits."""
    values = torch.nan_to_num(image.detach().float().cpu()).clamp(0.0, 1.0).mul(255.0).add(0.5).to(torch.uint8)
    return Image.fromarray(values.numpy())


def save_image(path: str | Path, image: Tensor, *, overwrite: bool = False) -> Path:
    """Saves an image h w 3 or h w 4 in 0..1 atomically, in the format of the suffix. Returns the path.

    Raises UserError if the file exists and `overwrite` is not set, or if the format is unknown.
    """
    file = Path(path)
    kind = Image.registered_extensions().get(file.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise UserError(f"{str(file)!r} does not end with the suffix of an image format. Use .png, .webp or .jpg.")
    with placed(file, overwrite=overwrite) as place:
        to_pillow(image).save(place.part, format=kind)
    return place.final
