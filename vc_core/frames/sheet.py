"""All frames of a clip in one picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import UserError

WHITE = 1.0


def contact_sheet(frames: Tensor, columns: int, *, gap: int = 2) -> Tensor:
    """One picture h w 3 in 0..1 of frames f h w 3, row by row, `columns` to a row, `gap` white pixels between them."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.shape[0] == 0:
        raise UserError(f"A contact sheet takes frames of shape (frames, height, width, 3), not {tuple(frames.shape)}.")
    if columns < 1 or gap < 0:
        raise UserError(f"A contact sheet needs at least 1 column and a gap of 0 or more, not {columns} and {gap}.")
    count, height, width, _ = frames.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    sheet = torch.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), WHITE)
    for i in range(count):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = frames[i].float()
    return sheet
