"""Where the actors of a clip are from frame to frame, and how the camera moves, as far as pixels say it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from worlds.storybook.world import ACTORS, CAMERAS, FRAMES, PLACES, TIMES

from .recogniser import Recogniser

Array = npt.NDArray[np.float32]

FOUND = 0.25
"""The least height of a peak that counts."""
PAN, ZOOM, ROLL = 0.0092, 0.0212, 0.0237
"""What a camera moves from frame to frame at 8 frames per second, as the flow sees it: parts of the frame, on the
average over scenery near and far; a logarithm; radians."""
STILL = 0.38
"""A camera that moves less than this much of the above counts as still."""


@dataclass(frozen=True, eq=False)
class Track:
    """One actor: heights of its peaks, f; places, f 2 in 0..1; half heights, f; its colour's number."""

    heights: Array
    places: Array
    sizes: Array
    colour: int

    @property
    def share(self) -> float:
        """The share of the frames in which it was found."""
        return float((self.heights > FOUND).mean())


@dataclass(frozen=True, eq=False)
class Observed:
    """What is seen in one clip. tracks: for each wanted kind, in their order; camera: a name of the world's."""

    tracks: list[Track]
    place: str
    time: str
    camera: str
    turning: list[float]
    """How much each actor's drawing changes where it is, from frame to frame."""


@torch.no_grad()
def observe(clips: Tensor, wanted: Sequence[Sequence[str]], model: Recogniser, *, fps: int) -> list[Observed]:
    """What n clips show, n f 3 h w in -1..1; `wanted` are the kinds of actors to look for in each."""
    found = [_in_clip(clip, list(kinds), model) for clip, kinds in zip(clips, wanted, strict=True)]
    flows = camera_flow(clips, [tracks for tracks, _, _ in found])
    return [
        Observed(
            tracks,
            place,
            time,
            camera_name(flow, fps),
            [
                turning(clip, track) if "spin" in ACTORS[kind].motions else 0.0
                for kind, track in zip(kinds, tracks, strict=True)
            ],
        )
        for clip, kinds, (tracks, place, time), flow in zip(clips, wanted, found, flows, strict=True)
    ]


def _in_clip(clip: Tensor, kinds: list[str], model: Recogniser) -> tuple[list[Track], str, str]:
    seen = model(clip)
    tracks: list[Track | None] = [None] * len(kinds)
    for kind in set(kinds):
        slots = [index for index, name in enumerate(kinds) if name == kind]
        peaks = seen.peaks[:, list(ACTORS).index(kind)].sigmoid()
        for slot, track in zip(slots, _tracks(peaks, seen.colours, seen.size, len(slots)), strict=True):
            tracks[slot] = track
    place, time = (int(logits.float().softmax(1).mean(0).argmax()) for logits in (seen.place, seen.time))
    return [track for track in tracks if track is not None], PLACES[place], TIMES[time]


def _tracks(peaks: Tensor, colours: Tensor, sizes: Tensor, count: int) -> list[Track]:
    """The `count` highest peaks of each frame, joined over time by nearness."""
    top = peaks * (F.max_pool2d(peaks[:, None], 5, stride=1, padding=2)[:, 0] == peaks)
    heights, index = top.flatten(1).topk(count, dim=1)  # f count
    width = peaks.shape[2]
    x, y = _centre(peaks, index)
    at = torch.stack([x, y], dim=-1) / width  # f count 2
    looks = colours.flatten(2).gather(2, index[:, None].expand(-1, colours.shape[1], -1)).log_softmax(1)
    half = sizes.flatten(1).gather(1, index).exp()
    heights, at, looks, half = (value.float().cpu() for value in (heights, at, looks, half))
    order = torch.arange(count).expand(len(peaks), -1).clone()
    for frame in range(1, len(peaks) if count == 2 else 0):
        before = at[frame - 1, order[frame - 1]]
        if (at[frame].flip(0) - before).norm(dim=-1).sum() < (at[frame] - before).norm(dim=-1).sum():
            order[frame] = torch.tensor([1, 0])
    rows = torch.arange(len(peaks))
    found = []
    for slot in range(count):
        pick = order[:, slot]
        colour = int((looks[rows, :, pick] * heights[rows, pick][:, None]).mean(0).argmax())
        found.append(
            Track(heights[rows, pick].numpy(), at[rows, pick].numpy(), half[rows, pick].numpy(), colour)
        )  # fmt: skip
    return found


def _centre(peaks: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The middles of peaks to parts of a cell, x and y in cells, by their 3x3 neighbours."""
    width = peaks.shape[2]
    row, column = index // width, index % width
    padded = F.pad(peaks, (1, 1, 1, 1))
    total = x = y = torch.zeros_like(index, dtype=peaks.dtype)
    frames = torch.arange(len(peaks), device=peaks.device)[:, None]
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            value = padded[frames, row + 1 + dy, column + 1 + dx] + 1e-6
            total, x, y = total + value, x + value * dx, y + value * dy
    return column + 0.5 + x / total, row + 0.5 + y / total


def camera_flow(clips: Tensor, tracks: Sequence[Sequence[Track]]) -> Array:
    """The motion of the whole scenery from frame to frame, n 4: to the right and down, in parts of the frame, the
    logarithm of its growth and its turn in radians; the median over time.

    One similarity for the whole frame, by least squares on the optical flow's constraint (Lucas and Kanade, 1981),
    without the places of the actors."""
    grey = clips.float().mean(2)  # n f h w
    kernel = torch.exp(-torch.arange(-4, 5, device=grey.device).float().square() / (2 * 1.6**2))
    kernel = kernel / kernel.sum()
    flat = grey.flatten(0, 1)[:, None]
    flat = F.conv2d(F.pad(flat, (4, 4, 4, 4), mode="replicate"), kernel.view(1, 1, 1, 9))
    grey = F.conv2d(flat, kernel.view(1, 1, 9, 1))[:, 0].unflatten(0, grey.shape[:2])
    side = grey.shape[-1]
    middle = (grey[:, 1:] + grey[:, :-1]) / 2
    by_y, by_x = torch.gradient(middle, dim=(2, 3))
    by_t = grey[:, 1:] - grey[:, :-1]
    place = (torch.arange(side, device=grey.device) + 0.5 - side / 2).float()
    x, y = place[None, :].expand(side, side), place[:, None].expand(side, side)
    columns = torch.stack([by_x, by_y, by_x * x + by_y * y, by_y * x - by_x * y], dim=-1)  # n f h w 4
    weight = _background(tracks, side, grey)[..., None]
    rows = (columns * weight).flatten(2, 3)
    square = rows.transpose(2, 3) @ columns.flatten(2, 3)
    right = -(rows * by_t.flatten(2)[..., None]).sum(2)
    ridge = torch.diag(torch.tensor([1e-3, 1e-3, 1.0, 1.0]))
    flow = torch.linalg.solve(square.cpu() + ridge, right.cpu())
    flow = flow.median(1).values * torch.tensor([1 / side, 1 / side, 1, 1])
    return np.asarray(flow.numpy(), dtype=np.float32)


def _background(tracks: Sequence[Sequence[Track]], side: int, like: Tensor) -> Tensor:
    """n f-1 h w: 1 away from the actors, 0 at them."""
    weight = torch.ones(len(tracks), FRAMES - 1, side, side)
    place = (torch.arange(side) + 0.5) / side
    for index, several in enumerate(tracks):
        for track in several:
            at = torch.from_numpy(track.places[:-1])
            reach = torch.from_numpy(track.sizes[:-1]).clamp(0.05, 0.35)[:, None, None] * 1.35
            far = (place[None, None, :] - at[:, 0, None, None]).square() + (
                place[None, :, None] - at[:, 1, None, None]
            ).square()
            weight[index] *= (far > reach.square()).float()
    return weight.to(like)


def camera_name(flow: Array, fps: int) -> str:
    """The camera's motion: that of which the scenery's flow shows most, or still."""
    rate = fps / 8
    x, y, growth, turn = (float(value) for value in flow * rate)
    amounts = {
        "left": x / PAN, "right": -x / PAN, "up": y / PAN, "down": -y / PAN,
        "in": growth / ZOOM, "out": -growth / ZOOM, "clockwise": -turn / ROLL, "anticlockwise": turn / ROLL,
    }  # fmt: skip
    name = max(amounts, key=lambda key: amounts[key])
    assert set(amounts) < set(CAMERAS)
    return name if amounts[name] > STILL else "still"


def turning(clip: Tensor, track: Track) -> float:
    """The mean change of an actor's inner half over three frames, where it is in each, 0..2."""
    crops = []
    steps = torch.linspace(-0.6, 0.6, 12, device=clip.device)
    for frame in range(0, len(clip), 3):
        x, y = (2 * float(value) - 1 for value in track.places[frame])
        reach = 2 * float(np.median(track.sizes))
        grid = torch.stack(torch.meshgrid(y + reach * steps, x + reach * steps, indexing="ij")[::-1], dim=-1)
        crops.append(F.grid_sample(clip[frame : frame + 1].float(), grid[None], align_corners=False)[0])
    changes = [float((a - b).abs().mean()) for a, b in zip(crops[1:], crops[:-1], strict=True)]
    return float(np.median(changes)) if changes else math.nan
