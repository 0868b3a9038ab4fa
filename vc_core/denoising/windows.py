"""Long clips in windows of whole model evaluations: each window is predicted separately, and the predictions are
averaged.

This is MultiDiffusion (arXiv:2302.08113) over time. Memory is that of one window; frames that share no window never see
each other, which FreeNoise's windows inside the network avoid. Frames are numbered from 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..conditions import SINGLE, Conditioning, Evaluation
from ..errors import UserError
from ..specs import Windows
from .guidance import Model

Order = Literal["static", "uniform", "looped", "shifted"]
Fuse = Literal["pyramid", "overlap", "flat"]
ORDERS: tuple[Order, ...] = ("static", "uniform", "looped", "shifted")
FUSES: tuple[Fuse, ...] = ("pyramid", "overlap", "flat")
GROUP = 4
"""Frames whose noise is reused in another order where windows lie side by side, as in FreeNoise."""
LAST = 2
"""Steps at the end in which shifted windows overlap by a quarter: no later step hides the borders of these."""


@dataclass(frozen=True, kw_only=True)
class ContextWindows:
    """Windows of `size` frames that begin every `stride` frames (1 to size).

    order: "static" is the same in every step. "uniform" begins elsewhere in each step, so that no border stays in one
        place. "looped" is uniform on a ring: windows continue from the last frame to the first, so that the clip loops.
        "shifted" is uniform for windows side by side (a stride of `size`), whose frames cost little more than those of
        a short clip: in the last two steps, whose borders no later step hides, a quarter of each overlaps.
    fuse: the weight of a frame in its window: "pyramid" rises to the middle, "overlap" rises over the frames that two
        windows share, "flat" is equal.
    reuse: later frames begin from the noise of earlier ones, as in FreeNoise, in another order inside each group of
        `stride` frames, or of 4 in the order "shifted": windows that share no frame agree only where their noise is
        related.

    A clip of `size` frames or fewer is one window in every order, exactly the plain clip.

    Raises UserError for values out of range.
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
        """The frames of each window over a clip, in a step that `left` steps follow; every frame is in one or more."""
        if frames <= self.size:
            return [list(range(frames))]
        return [[(start + i) % frames for i in range(self.size)] for start in self._starts(frames, step, left)]

    def _starts(self, frames: int, step: int, left: int | None) -> list[int]:
        """The first frame of each window over a clip of more frames than one; those of "looped" run over the end."""
        if self.order == "looped":
            return list(range(self._shift(step), self._shift(step) + frames, self.stride))
        overlaps = self.order == "shifted" and left is not None and left < LAST
        stride = self.stride - self.stride // 4 if overlaps else self.stride
        shift = 0 if overlaps or self.order == "static" else self._shift(step)
        last = frames - self.size
        return sorted({0, last, *range(shift, last + 1, stride)})

    def shares(self, frames: int, step: int = 0, left: int | None = None) -> list[tuple[list[int], Tensor]]:
        """For each window its frames, and its share in each of them; the shares of a frame sum to 1."""
        windows = self.frames_of(frames, step, left)
        weight = self._weights(len(windows[0]))
        total = torch.zeros(frames, dtype=torch.float64)
        for window in windows:
            total[window] += weight
        return [(window, weight / total[window]) for window in windows]

    def _shift(self, step: int) -> int:
        """The offset of a step's windows, 0 .. stride - 1: the van der Corput sequence, which fills it evenly."""
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


def windowed(model: Model, windows: ContextWindows) -> Model:
    """A model that predicts long clips window by window. Outside of a run it uses the windows of the first step."""
    cuts: dict[tuple[int, tuple[int, ...]], tuple[Conditioning, Conditioning]] = {}

    def cut(conditioning: Conditioning, window: tuple[int, ...], frames: int) -> Conditioning:
        """The conditioning of a window: the same object in every step, by which the network recognizes what it keeps
        from pass to pass. The whole one is kept as well, so that no other gets its id."""
        key = (id(conditioning), window)
        if key not in cuts:
            cuts[key] = (conditioning, conditioning.of_frames(window, frames))
        return cuts[key][1]

    def predict(x: Tensor, timestep: Tensor, conditioning: Conditioning, evaluation: Evaluation = SINGLE, /) -> Tensor:
        frames = x.shape[2]
        shares = windows.shares(frames, evaluation.step or 0, evaluation.left)
        if len(shares) == 1:
            return model(x, timestep, conditioning, evaluation)
        out = x.new_zeros(len(conditioning.text), *x.shape[1:])
        for index, share in shares:
            window = tuple(index)
            part = model(
                x[:, :, index], timestep, cut(conditioning, window, frames), replace(evaluation, window=window)
            )
            out[:, :, index] += share.to(x)[:, None, None] * part.to(x.dtype)
        return out

    return predict
