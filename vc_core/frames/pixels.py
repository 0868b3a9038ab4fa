"""Pixels in their three forms, and pictures in files.

For people: `f h w 3`, float32 in 0..1. For networks: `f 3 h w` in -1..1. For files: `uint8`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import UserError
from ..files import placed

WHITE = 1.0


def to_unit(pixels: Tensor) -> Tensor:
    """Frames f h w 3, float32 in 0..1 on the CPU, of a network's pictures f 3 h w in about -1..1, which are clamped."""
    return pixels.detach().float().cpu().permute(0, 2, 3, 1).clamp(-1.0, 1.0).add(1.0).div(2.0).contiguous()


def to_network(frames: Tensor) -> Tensor:
    """Pictures f 3 h w in -1..1 of frames f h w 3 in 0..1, where they lie. Raises UserError for any other shape."""
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise UserError(f"Frames have the shape (frames, height, width, 3); these have {tuple(frames.shape)}.")
    return frames.permute(0, 3, 1, 2).mul(2.0).sub(1.0)


def to_uint8(pixels: Tensor) -> Tensor:
    """Bytes of a network's pixels in about -1..1, any shape, cut off as the reference does in its videos."""
    return pixels.detach().float().clamp(-1.0, 1.0).add(1.0).div(2.0).mul(255.0).to(torch.uint8)


def load_picture(path: str | Path) -> Tensor:
    """A picture file as h w 3, float32 in 0..1.

    Turned upright as its EXIF data say; transparency laid over white; grey made RGB; 16 bits kept. Raises UserError
    when there is no such file or it holds no picture.
    """
    file = Path(path)
    try:
        with Image.open(file) as opened:
            picture: Image.Image = ImageOps.exif_transpose(opened)
            picture.load()
    except FileNotFoundError as error:
        raise UserError(f"There is no picture {str(file)!r}. Check the name and the folder.") from error
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{str(file)!r} cannot be read as a picture ({error}). Save it again as PNG or JPEG."
        ) from error
    if picture.mode.startswith(("I", "F")):
        return _grey(picture)
    if picture.has_transparency_data:
        rgba = torch.from_numpy(np.array(picture.convert("RGBA"))).float().div(255.0)
        alpha = rgba[..., 3:]
        return rgba[..., :3] * alpha + WHITE * (1.0 - alpha)
    return torch.from_numpy(np.array(picture.convert("RGB"))).float().div(255.0)


def _grey(picture: Image.Image) -> Tensor:
    """h w 3 of a picture of one channel with more than 8 bits; floating point ones are taken as 0..1."""
    values = torch.from_numpy(np.array(picture).astype(np.float32))
    top = 1.0 if picture.mode.startswith("F") else 65535.0
    return values.div(top).clamp(0.0, 1.0)[..., None].expand(-1, -1, 3).contiguous()


def to_image(picture: Tensor) -> Image.Image:
    """A Pillow image of h w 3 or h w 4 in 0..1, rounded to 8 bits."""
    values = torch.nan_to_num(picture.detach().float().cpu()).clamp(0.0, 1.0).mul(255.0).add(0.5).to(torch.uint8)
    return Image.fromarray(values.numpy())


def save_picture(path: str | Path, picture: Tensor, *, overwrite: bool = False) -> Path:
    """Writes h w 3 or h w 4 in 0..1; the suffix names the format. Complete or not at all; returns the path.

    Raises UserError when the file exists and `overwrite` is not set, or when the format is unknown.
    """
    file = Path(path)
    kind = Image.registered_extensions().get(file.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise UserError(f"{str(file)!r} names no picture format; end it with .png, .webp or .jpg.")
    with placed(file, overwrite=overwrite) as place:
        to_image(picture).save(place.part, format=kind)
    return place.final
