"""FreeTraj's initial noise (arXiv:2406.16863): the same noise moves along the path of an object.

In addition to what is published, a trace of the object may move along its path. In training even the noisiest latents
hold a trace of the clip (see `denoising.freeinit`), by which a model decides where an object is. What the trace is, a
draft of the run shows: how the part of each frame that differs most from the frame differs from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..denoising import NoiseSource
from ..denoising.freeinit import mixed
from .freetraj_path import Path

CUT_TIME = 0.1
"""Where the filter over frames is at 1/2, as a share of the highest frequency; over height and width as in FreeInit."""


def with_paths(paths: Sequence[Path], noise: Tensor, source: NoiseSource) -> Tensor:
    """The initial noise, b c f h w, with other low frequencies: those of noise in which a patch moves along each path.
    What is drawn: that noise, then a patch for each path."""
    shape, where = noise.shape, (noise.device, noise.dtype)
    moving = source.draw(shape, *where)
    for path in paths:
        first = path.cells(*shape[3:])[0]
        patch = source.draw((*shape[:2], first.height, first.width), *where)
        place_patch(moving, patch, path)
    return mixed(moving, noise, time=CUT_TIME)


def place_patch(noise: Tensor, patch: Tensor, path: Path) -> None:
    """Writes a patch, b c h w, into the box of every frame of b c f h w."""
    size = noise.shape[3:]
    for frame, cells in enumerate(path.cells(*size)):
        rows, columns = cells.seen(*size)
        own_rows, own_columns = cells.part(*size)
        noise[:, :, frame, rows, columns] = patch[:, :, own_rows, own_columns]


INSET = 0.15
"""The share of a box at each of its sides that is left empty around an object."""


CORE = 0.4
"""The share of the cells of a box that shows nothing but the object, also where its shape fills little of the box."""


LARGEST = 2.0
"""The length of the largest trace, where the noise has 1 in each channel. Larger ones change the object's color."""


def with_trace(path: Path, strength: float, noise: Tensor, clip: Tensor) -> Tensor:
    """The initial noise, b c f h w, with a trace of an object of a clip along a path. clip: clean latents b c f h w."""
    grid = noise.shape[-2:]
    cells = max(1, round(CORE * path.height * grid[0] * path.width * grid[1]))
    trace = strength * difference(clip, cells)
    trace = trace * (LARGEST / trace.norm(dim=1, keepdim=True).clamp_min(LARGEST))
    return noise + trace[:, :, None, None, None].to(noise) * coverage(path, *grid).to(noise)


def difference(clip: Tensor, cells: int) -> Tensor:
    """b c: by how much those cells of each frame of b c f h w that differ most from the frame's median, so many in a
    frame, differ from it."""
    values = clip.float().flatten(3)
    apart = values - values.median(dim=-1, keepdim=True).values
    lengths = apart.norm(dim=1, keepdim=True)
    places = lengths.topk(min(cells, lengths.shape[-1]), dim=-1).indices
    return apart.gather(-1, places.expand(-1, apart.shape[1], -1, -1)).mean((2, 3))


def coverage(path: Path, height: int, width: int) -> Tensor:
    """f h w: the share of each cell that the inner part of the box covers."""
    rows, columns = [], []
    for top, left in path.corners:
        rows.append(_covered(top, path.height, height))
        columns.append(_covered(left, path.width, width))
    return torch.stack(rows)[:, :, None] * torch.stack(columns)[:, None]


def _covered(start: float, size: float, cells: int) -> Tensor:
    """The share of each of so many cells in a row that lies in a span of 0..1, without the inset at both ends."""
    edges = torch.arange(cells + 1, dtype=torch.float64) / cells
    inner = edges.clamp(start + INSET * size, start + (1 - INSET) * size)
    return ((inner[1:] - inner[:-1]) * cells).float()
