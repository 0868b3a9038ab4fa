"""A small classifier of single frames: which actors are where, in which colour and size, and in which scenery.

It is trained on drawn clips alone, apart from the models that it judges. Actors are found as peaks of one map for each
kind (arXiv:1904.07850).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worlds.storybook.world import ACTORS, COLOURS, PLACES, TIMES, WEATHERS

WIDTH = 48
GRID = 4
"""Pixels along one side of a cell of the maps."""
SPREAD = 0.8
"""Cells: the deviation of the peaks in the targets."""
HEADS = {"place": len(PLACES), "time": len(TIMES), "weather": len(WEATHERS)}


class Residual(nn.Module):
    """Two convolutions with a residual. n c h w -> n c h w"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


@dataclass(frozen=True, eq=False)
class Seen:
    """What the classifier says of n frames. peaks: logits of the kinds, n 12 h w; colours: logits at every place, n 8
    h w; size: half heights as a logarithm, n h w; place, time, weather: logits, n k."""

    peaks: Tensor
    colours: Tensor
    size: Tensor
    place: Tensor
    time: Tensor
    weather: Tensor


class Recogniser(nn.Module):
    """Frames n 3 h w in -1..1 -> `Seen`, with maps of h / 4 and w / 4."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv2d(3, WIDTH // 2, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(WIDTH // 2, WIDTH, 3, stride=2, padding=1),
            Residual(WIDTH),
        )
        self.coarse = nn.Sequential(
            nn.Conv2d(WIDTH, 2 * WIDTH, 3, stride=2, padding=1), Residual(2 * WIDTH), Residual(2 * WIDTH)
        )
        self.up = nn.Conv2d(3 * WIDTH, WIDTH, 3, padding=1)
        self.last = Residual(WIDTH)
        self.maps = nn.Conv2d(WIDTH, len(ACTORS) + len(COLOURS) + 1, 1)
        self.scene = nn.Linear(4 * WIDTH, sum(HEADS.values()))
        nn.init.constant_(self.maps.bias, -3.0)  # type: ignore[arg-type]

    def forward(self, frames: Tensor) -> Seen:
        fine = self.fine(frames)
        coarse = self.coarse(fine)
        wide = F.interpolate(coarse, scale_factor=2, mode="nearest")
        maps = self.maps(F.silu(self.last(self.up(torch.cat([fine, wide], dim=1)))))
        peaks, colours, size = maps.split([len(ACTORS), len(COLOURS), 1], dim=1)
        scene = self.scene(torch.cat([coarse.mean((2, 3)), coarse.amax((2, 3))], dim=1))
        place, time, weather = scene.split(list(HEADS.values()), dim=1)
        return Seen(peaks, colours, size[:, 0], place, time, weather)

    @classmethod
    def load(cls, path: Path) -> Recogniser:
        """From the file that `save` wrote."""
        model = cls()
        model.load_state_dict(load_file(path))
        return model.eval().requires_grad_(False)

    def save(self, path: Path) -> None:
        """The weights, in half precision on disk they would lose little; they stay in float32."""
        save_file({key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}, path)


class RecogniserLesson(nn.Module):
    """The classifier; called with frames n 3 h w, the actors' names n 2 3 and places n 2 4, and the scenery's numbers
    n 3, it gives the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Recogniser()

    def forward(self, frames: Tensor, names: Tensor, poses: Tensor, around: Tensor) -> Tensor:
        dtype = next(self.parameters()).dtype
        seen = self.model(frames.to(dtype))
        height, width = seen.size.shape[1:]
        there = (names[..., 0] >= 0).float()  # n 2
        at = poses[..., :2] * width  # frames are square
        loss = _focal(seen.peaks.float(), _targets(names[..., 0], at, there, seen.peaks.shape))
        column = at[..., 0].long().clamp(0, width - 1)
        row = at[..., 1].long().clamp(0, height - 1)
        index = row * width + column  # n 2
        colours = seen.colours.float().flatten(2).gather(2, index[:, None].expand(-1, len(COLOURS), -1))  # n 8 2
        colour = F.cross_entropy(colours, names[..., 1].clamp_min(0), reduction="none")
        sizes = seen.size.float().flatten(1).gather(1, index)
        size = (sizes - poses[..., 2].clamp_min(1e-3).log()).abs()
        loss = loss + 0.5 * ((colour + size) * there).sum() / there.sum().clamp_min(1)
        for column_of, logits in enumerate((seen.place, seen.time, seen.weather)):
            loss = loss + 0.3 * F.cross_entropy(logits.float(), around[:, column_of])
        return loss


def _targets(kinds: Tensor, at: Tensor, there: Tensor, shape: torch.Size) -> Tensor:
    """Maps n 12 h w with a smooth peak of 1 for each actor."""
    rows = torch.arange(shape[2], device=at.device) + 0.5
    columns = torch.arange(shape[3], device=at.device) + 0.5
    cell = at.floor() + 0.5
    across = (columns - cell[..., :1]).square()  # n 2 w
    down = (rows - cell[..., 1:2]).square()  # n 2 h
    bumps = torch.exp(-(down[..., :, None] + across[..., None, :]) / (2 * SPREAD**2)) * there[..., None, None]
    which = (torch.arange(shape[1], device=at.device) == kinds[..., None]).float()  # n 2 12
    return (which[..., None, None] * bumps[:, :, None]).amax(1)


def _focal(logits: Tensor, targets: Tensor) -> Tensor:
    """The focal loss of arXiv:1904.07850, by the number of peaks."""
    chance = logits.sigmoid()
    peak = (targets > 0.999).float()
    hit = -F.logsigmoid(logits) * (1 - chance).square() * peak
    miss = -F.logsigmoid(-logits) * chance.square() * (1 - targets).pow(4) * (1 - peak)
    return (hit + miss).sum() / peak.sum().clamp_min(1)
