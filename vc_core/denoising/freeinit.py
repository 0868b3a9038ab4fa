"""FreeInit (arXiv:2312.07537): a clip is sampled again from a start that keeps the low frequencies of the last result.

In training the noisiest latents hold a trace of the clip, which fresh noise lacks; restoring it steadies frames.
Between rounds the result is noised to the first level with the noise that the first round started from, and its high
frequencies are replaced by those of fresh noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UserError
from .noise import NoiseSource
from .schedule import Level
from .start import noised

ORDER = 4
CUT_SPACE = 0.25
CUT_TIME = 0.25
LEAST_SIGNAL = 1e-3
"""Of the first level; VideoCrafter's have 0.02 to 0.09."""


def low_pass(shape: Sequence[int], *, order: int = ORDER, space: float = CUT_SPACE, time: float = CUT_TIME) -> Tensor:
    """The Butterworth filter over (frames, height, width), in the order of an FFT: 1 at frequency 0, 1/2 where the
    frequency, as a share of the highest of its axis and with time stretched by space / time, reaches `space`."""
    axes = [torch.fft.fftfreq(size).abs() * 2 for size in shape]
    f, h, w = torch.meshgrid(*axes, indexing="ij")
    distance = (space / time * f) ** 2 + h**2 + w**2
    return 1 / (1 + (distance / space**2) ** order)


def mixed(low: Tensor, high: Tensor, *, time: float = CUT_TIME) -> Tensor:
    """The low frequencies of one latent b c f h w and the high ones of another, over frames, height and width; `time`
    as in `low_pass`."""
    axes = (-3, -2, -1)
    keep = low_pass(low.shape[-3:], time=time).to(low.device)
    spectrum = torch.fft.fftn(low.float(), dim=axes) * keep + torch.fft.fftn(high.float(), dim=axes) * (1 - keep)
    return torch.fft.ifftn(spectrum, dim=axes).real.to(low.dtype)


def check_first(first: Level) -> None:
    """Raises UserError where a run starts without any signal, so that no trace of a clip can be restored."""
    if first.signal < LEAST_SIGNAL:
        raise UserError(
            "FreeInit restores the trace of a clip in its noisiest latents, but this model begins from noise alone "
            "(zero terminal SNR), which holds none. Set the rounds of FreeInit to 0."
        )


def next_start(result: Tensor, drawn: Tensor, fresh: Tensor, first: Level) -> Tensor:
    """What the next round starts from. result: the clean latents b c f h w. drawn: the noise that the very first round
    started from; later starts hold traces of their clips, which would add up. fresh: new noise. first: the first level
    of the run, whose signal holds VideoCrafter's rescale."""
    return mixed(noised(result, drawn, first), fresh)


class GivenStart:
    """A noise source whose first draw is given; all later draws are those of another source."""

    def __init__(self, start: Tensor, source: NoiseSource) -> None:
        self.start: Tensor | None = start
        self.source = source

    def draw(self, shape: Sequence[int], device: torch.device | str, dtype: torch.dtype) -> Tensor:
        """The next noise of this shape."""
        if self.start is None:
            return self.source.draw(shape, device, dtype)
        given, self.start = self.start, None
        return given.to(device, dtype)
