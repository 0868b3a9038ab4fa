"""Flow maps: what moves where from each frame to the next, spread around the points of tracks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from .tracks import Track

REACH = 49
"""Pixels that a point is spread to on each side."""
SIGMA = 10.0


def flow_map(tracks: Sequence[Track], frames: int, height: int, width: int) -> Tensor:
    """2 f h w: dx and dy from the frame before, at the point where it was, spread by a Gaussian of sum 1; the first
    frame is zero. tracks: a point for each frame, at whole pixels; steps from outside of the frame are left out."""
    flow = torch.zeros(2, frames, height, width)
    for track in tracks:
        for frame, (start, end) in enumerate(pairwise(track), start=1):
            x, y = int(start[0]), int(start[1])
            if 0 <= x < width and 0 <= y < height:
                flow[0, frame, y, x] += end[0] - start[0]
                flow[1, frame, y, x] += end[1] - start[1]
    return _spread(_spread(flow, 2), 3)


def _spread(flow: Tensor, axis: int) -> Tensor:
    """The maps blurred along an axis, 2 or 3; beyond the border they are mirrored."""
    reach = min(REACH, flow.shape[axis] - 1)
    places = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-(places**2) / (2 * SIGMA**2))
    kernel = (kernel / kernel.sum()).float()
    rows = flow.movedim(axis, -1)
    padded = F.pad(rows.flatten(0, 2)[:, None], (reach, reach), mode="reflect")
    return F.conv1d(padded, kernel[None, None])[:, 0].unflatten(0, rows.shape[:3]).movedim(-1, axis)
