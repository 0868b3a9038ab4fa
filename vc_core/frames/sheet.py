"""Contact sheets: all frames of a clip in one image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import UserError

WHITE = 1.0


def contact_sheet(frames: Tensor, columns: int, *, gap: int = 2) -> Tensor:
    """Frames f h w 3 as one image h w 3 in 0..1, `columns` per row, with `gap` white pixels between them."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.shape[0] == 0:
        raise UserError(f"A contact sheet needs frames of shape (frames, height, width, 3), not {tuple(frames.shape)}.")
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
