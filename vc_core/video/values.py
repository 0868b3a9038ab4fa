"""Prepares a frame for an encoder: checks it, makes its size even and quantises its values."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .arrange import Frame

OddSize = Literal["pad", "crop"]
ODD_SIZES: tuple[OddSize, ...] = ("pad", "crop")
CACHED = 2**16
"""Number of values quantised at once."""


class Quantiser:
    """Converts frames to arrays h w c of uint8, or uint16 for more than 8 bits, all of one size.

    channels: 3, or 4 to keep the transparency.
    top: the integer that represents 1.0.
    """

    def __init__(self, size: tuple[int, int], channels: int, top: int) -> None:
        self.size, self.channels, self.top = size, channels, top
        self.shape: tuple[int, ...] | None = None
        self.invalid = 0

    def __call__(self, frame: Frame) -> np.ndarray:
        values = as_tensor(frame)
        if self.shape is None:
            self.shape = tuple(values.shape)
        elif tuple(values.shape) != self.shape:
            raise UserError(
                f"A frame has the shape {tuple(values.shape)}, earlier frames {self.shape}. All must be the same size."
            )
        values = resized(values[..., : self.channels], self.size)
        if values.dtype == torch.uint8:
            return (
                values.numpy()
                if self.top == 255
                else np.round(values.numpy() * np.float32(self.top / 255)).astype(np.uint16)
            )
        integers, invalid = self._rounded(values.float().numpy())
        self.invalid += invalid
        return integers

    def _rounded(self, values: np.ndarray) -> tuple[np.ndarray, bool]:
        """The frame as integers, and whether it contained NaN. A few rows at a time fit into the processor's cache, and
        NumPy starts no threads that would compete with the encoder."""
        height, width, channels = values.shape
        integers = np.empty(values.shape, np.uint8 if self.top == 255 else np.uint16)
        rows, invalid = max(1, CACHED // (width * channels)), False
        for start in range(0, height, rows):
            part = values[start : start + rows] * np.float32(self.top)
            np.clip(part, 0, self.top, out=part)
            if np.isnan(part.sum()):
                np.nan_to_num(part, copy=False)
                invalid = True
            part += np.float32(0.5)
            integers[start : start + rows] = part
        return integers, invalid


def as_tensor(frame: Frame) -> Tensor:
    """h w 3 or h w 4 on the CPU, float in 0..1 or uint8. Raises UserError for any other shape or type."""
    values = torch.from_numpy(frame) if isinstance(frame, np.ndarray) else frame
    if not isinstance(values, Tensor) or values.ndim != 3 or values.shape[-1] not in (1, 3, 4):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(frame).__name__
        raise UserError(f"A frame must have the shape (height, width, 3), or 4 with transparency; this one is {shape}.")
    if not (values.is_floating_point() or values.dtype == torch.uint8):
        raise UserError(f"A frame must be floating point in 0..1 or uint8, not {values.dtype}.")
    if values.shape[-1] == 1:
        values = values.expand(-1, -1, 3)
    return values.detach().cpu()


def even_size(height: int, width: int, *, even: tuple[bool, bool], odd: OddSize) -> tuple[int, int]:
    """Height and width, with odd values padded or cropped by one pixel where `even` (for width, height) requires it."""
    if odd not in ODD_SIZES:
        raise UserError(f"odd_size is {odd!r}; it must be one of {', '.join(ODD_SIZES)}.")
    step = 1 if odd == "pad" else -1
    even_width, even_height = even
    return height + step * (even_height and height % 2), width + step * (even_width and width % 2)


def resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    """h w c with the last row or column repeated or removed to reach `size` (height, width)."""
    height, width = size
    values = values[:height, :width]
    if values.shape[0] < height:
        values = torch.cat([values, values[-1:]])
    if values.shape[1] < width:
        values = torch.cat([values, values[:, -1:]], dim=1)
    return values.contiguous()
