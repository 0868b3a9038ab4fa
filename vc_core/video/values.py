"""One frame on its way to an encoder: checked, made even, turned into whole numbers."""

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
"""Values that are worked on at once."""


class Quantiser:
    """Turns frames into arrays h w c of uint8, or uint16 for more than 8 bits, all of one size.

    top: the number that stands for 1.0. channels: 3, or 4 to keep the transparency.
    """

    def __init__(self, size: tuple[int, int], channels: int, top: int) -> None:
        self.size, self.channels, self.top = size, channels, top
        self.seen: tuple[int, ...] | None = None
        self.broken = 0

    def __call__(self, frame: Frame) -> np.ndarray:
        values = as_tensor(frame)
        if self.seen is None:
            self.seen = tuple(values.shape)
        elif tuple(values.shape) != self.seen:
            raise UserError(
                f"A frame has the shape {tuple(values.shape)}, those before it {self.seen}. All must be the same size."
            )
        values = resized(values[..., : self.channels], self.size)
        if values.dtype == torch.uint8:
            return (
                values.numpy()
                if self.top == 255
                else np.round(values.numpy() * np.float32(self.top / 255)).astype(np.uint16)
            )
        whole, broken = self._rounded(values.float().numpy())
        self.broken += broken
        return whole

    def _rounded(self, values: np.ndarray) -> tuple[np.ndarray, bool]:
        """Whole numbers, and whether some value was none. A few rows at a time stay in the processor's cache, and
        NumPy wakes no threads that would then spin in the encoder's way."""
        height, width, channels = values.shape
        whole = np.empty(values.shape, np.uint8 if self.top == 255 else np.uint16)
        rows, broken = max(1, CACHED // (width * channels)), False
        for start in range(0, height, rows):
            part = values[start : start + rows] * np.float32(self.top)
            np.clip(part, 0, self.top, out=part)
            if np.isnan(part.sum()):
                np.nan_to_num(part, copy=False)
                broken = True
            part += np.float32(0.5)
            whole[start : start + rows] = part
        return whole, broken


def as_tensor(frame: Frame) -> Tensor:
    """h w 3 or h w 4 on the CPU, float in 0..1 or uint8. Raises UserError for any other shape or type."""
    values = torch.from_numpy(frame) if isinstance(frame, np.ndarray) else frame
    if not isinstance(values, Tensor) or values.ndim != 3 or values.shape[-1] not in (1, 3, 4):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(frame).__name__
        raise UserError(f"A frame has the shape (height, width, 3), or 4 with transparency; this one is {shape}.")
    if not (values.is_floating_point() or values.dtype == torch.uint8):
        raise UserError(f"A frame is floating point in 0..1 or uint8, not {values.dtype}.")
    if values.shape[-1] == 1:
        values = values.expand(-1, -1, 3)
    return values.detach().cpu()


def even_size(height: int, width: int, *, even: tuple[bool, bool], odd: OddSize) -> tuple[int, int]:
    """Height and width with odd ones padded or cropped by one pixel, where `even` width, height are asked for."""
    if odd not in ODD_SIZES:
        raise UserError(f"Odd sizes can be {' or '.join(ODD_SIZES)}ped, not {odd!r}.")
    step = 1 if odd == "pad" else -1
    even_width, even_height = even
    return height + step * (even_height and height % 2), width + step * (even_width and width % 2)


def resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    """h w c with the last row or column repeated or cut off, to reach `size`, height and width."""
    height, width = size
    values = values[:height, :width]
    if values.shape[0] < height:
        values = torch.cat([values, values[-1:]])
    if values.shape[1] < width:
        values = torch.cat([values, values[:, -1:]], dim=1)
    return values.contiguous()
