"""Long clips in windows of whole model calls: each window is predicted by itself, and the predictions are averaged.

This is MultiDiffusion (arXiv:2302.08113) over time. Memory is that of one window; frames that share no window never see
each other, which FreeNoise's windows inside the network avoid. Frames are numbered from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..conditions import Conditioning
from ..errors import UserError
from ..specs import Windows
from .guidance import Model
from .schedule import Level

Order = Literal["static", "uniform", "looped", "shifted"]
Fuse = Literal["pyramid", "overlap", "flat"]
ORDERS: tuple[Order, ...] = ("static", "uniform", "looped", "shifted")
FUSES: tuple[Fuse, ...] = ("pyramid", "overlap", "flat")
Place = tuple[int, int | None]
"""The number of a step, from 0, and how many steps follow; None where that is not known."""
GROUP = 4
"""Frames whose noise is used again in another order where windows lie side by side, as FreeNoise's authors take it."""
LAST = 2
"""Steps at the end in which shifted windows overlap by a quarter: no later step hides the borders of these."""


@dataclass(frozen=True, kw_only=True)
class ContextWindows:
    """Windows of `size` frames that begin every `stride` frames (1 to size).

    order: "static" is the same in every step. "uniform" begins elsewhere in each step, so that no border stays in its
        place. "looped" is uniform on a ring: windows run over the end into the beginning, so that the clip loops.
        "shifted" is uniform for windows side by side (a stride of `size`), whose frames cost little more than those of
        a short clip: in the last two steps, which no other follows to hide their borders, a quarter of each overlaps.
    fuse: the weight of a frame in its window: "pyramid" rises to the middle, "overlap" rises over the frames that two
        windows share, "flat" is equal.
    reuse: later frames begin from the noise of earlier ones, as FreeNoise's do, in another order inside each group of
        `stride` frames, or of 4 in the order "shifted": windows that share no frame agree only when they begin alike.

    A clip of `size` frames or fewer is one window in every order, exactly the plain clip.
    """

    size: int = 16
    stride: int = 8
    order: Order = "static"
    fuse: Fuse = "pyramid"
    reuse: bool = True

    def __post_init__(self) -> None:
        if self.size < 1 or not 1 <= self.stride <= self.size:
            raise UserError(
                f"Windows of {self.size} frames every {self.stride} were asked for; the size should be 1 or more, and "
                "the stride from 1 to the size, so that no frame is left out."
            )
        if self.order not in ORDERS or self.fuse not in FUSES:
            raise UserError(
                f"Windows in the order {self.order!r} with the weights {self.fuse!r} were asked for; the order can be "
                f"{', '.join(ORDERS)}, the weights {', '.join(FUSES)}."
            )

    @property
    def noise(self) -> Windows | None:
        """The windows that reorder the first noise, if any."""
        if not self.reuse:
            return None
        group = min(GROUP, self.stride) if self.order == "shifted" else self.stride
        return Windows(size=self.size, stride=group)

    def frames_of(self, frames: int, step: int = 0, left: int | None = None) -> list[list[int]]:
        """The frames of each window over a clip in a step that `left` steps follow; every frame is in one or more."""
        if frames <= self.size:
            return [list(range(frames))]
        if self.order == "looped":
            starts = range(self._shift(step), self._shift(step) + frames, self.stride)
            return [[(start + i) % frames for i in range(self.size)] for start in starts]
        overlaps = self.order == "shifted" and left is not None and left < LAST
        stride = self.stride - self.stride // 4 if overlaps else self.stride
        shift = 0 if overlaps or self.order == "static" else self._shift(step)
        last = frames - self.size
        starts_inside = {0, last, *range(shift, last + 1, stride)}
        return [list(range(start, start + self.size)) for start in sorted(starts_inside)]

    def shares(self, frames: int, step: int = 0, left: int | None = None) -> list[tuple[list[int], Tensor]]:
        """(frames, the share of this window in each of them) of each window; the shares of a frame sum to 1."""
        windows = self.frames_of(frames, step, left)
        weight = self._weights(len(windows[0]))
        total = torch.zeros(frames, dtype=torch.float64)
        for window in windows:
            total[window] += weight
        return [(window, weight / total[window]) for window in windows]

    def _shift(self, step: int) -> int:
        """Where the windows of a step begin, 0 .. stride - 1: the van der Corput sequence, which fills the stride."""
        value, share = 0.0, 0.5
        while step > 0:
            value += share * (step % 2)
            step, share = step // 2, share / 2
        return int(value * self.stride)

    def _weights(self, length: int) -> Tensor:
        place = torch.arange(length, dtype=torch.float64)
        rise = torch.minimum(place, length - 1 - place) + 1
        if self.fuse == "flat":
            return torch.ones_like(rise)
        return rise if self.fuse == "pyramid" else rise.clamp_max(max(1, self.size - self.stride))


def windowed(model: Model, windows: ContextWindows, levels: Sequence[Level]) -> Model:
    """A model that predicts long clips window by window; `levels` are those of the run, which number its steps."""
    last = len(levels) - 2
    places: dict[float, Place] = {float(level.timestep): (i, last - i) for i, level in enumerate(levels[:-1])}
    return in_windows(model, windows, lambda timestep: places.get(float(timestep.flatten()[0]), (0, None)))


def in_windows(model: Model, windows: ContextWindows, place_of: Callable[[Tensor], Place]) -> Model:
    """As `windowed`; `place_of` tells which step runs from its timesteps."""
    cuts: dict[tuple[int, tuple[int, ...]], tuple[Conditioning, Conditioning]] = {}

    def cut(told: Conditioning, window: list[int], frames: int) -> Conditioning:
        """What belongs to a window: the same object in every step, by which caches know a pass again."""
        key = (id(told), tuple(window))
        if key not in cuts:
            cuts[key] = (told, of_frames(told, window, frames))
        return cuts[key][1]

    def predict(x: Tensor, timestep: Tensor, conditioning: Conditioning, /, *, temporal: bool = True) -> Tensor:
        frames = x.shape[2]
        shares = windows.shares(frames, *place_of(timestep))
        if len(shares) == 1:
            return model(x, timestep, conditioning, temporal=temporal)
        out = x.new_zeros(len(conditioning.text), *x.shape[1:])
        for window, share in shares:
            part = model(x[:, :, window], timestep, cut(conditioning, window, frames), temporal=temporal)
            out[:, :, window] += share.to(x)[:, None, None] * part.to(x.dtype)
        return out

    return predict


def of_frames(told: Conditioning, window: Sequence[int], frames: int) -> Conditioning:
    """What belongs to these frames of a clip of `frames`: everything that is given for each frame is cut, the rest
    (a text or a picture for all, rates and scales) stays."""
    index = list(window)

    def tokens(given: Tensor | None) -> Tensor | None:
        return given[:, index] if given is not None and given.ndim == 4 and given.shape[1] == frames else given

    text = tokens(told.text)
    assert text is not None
    return replace(
        told,
        text=text,
        image=tokens(told.image),
        early_text=tokens(told.early_text),
        concat=None if told.concat is None else told.concat[:, :, index],
        window=tuple(window),
    )
