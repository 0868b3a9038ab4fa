"""Measures a video frame by frame, so that a long one needs no more memory than a short one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..errors import UserError
from .filters import reduced
from .metric import Clip, Metric
from .moment import Frame, Moment
from .report import Measured, Report, Thumbnail, counted

READ = 3
"""Frames that metrics see at once."""
SHOWN = 8
"""Frames on the contact sheet, at least, where the video has them; up to twice as many are kept."""
SHOWN_SIDE = 160
"""Pixels of their longer side."""


def judge(
    frames: Iterable[Tensor], metrics: Sequence[Metric], *, on_frame: Callable[[int], None] | None = None
) -> Report:
    """The figures of a video. frames: h w 3 in 0..1, one after the other. on_frame: called with the number of frames
    that are done. Raises UserError for frames of different sizes, for values that are not finite, and without frames.
    """
    run = _Run(metrics)
    for frame in frames:
        run.add(frame)
        if on_frame is not None:
            on_frame(run.count)
    return run.report()


class _Run:
    """What is kept of a video while it is measured."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics = [metric for metric in metrics if not metric.missing()]
        self.missing = {metric.name: metric.missing() for metric in metrics if metric.missing()}
        self.series: dict[str, list[float | None]] = {metric.name: [] for metric in self.metrics}
        self.recent: deque[Frame] = deque(maxlen=READ)
        self.first: Frame | None = None
        self.count = 0
        self.shown: list[Thumbnail] = []
        self.every = 1

    def add(self, image: Tensor) -> None:
        frame = Frame(self._checked(image))
        self.first = self.first or frame
        self.recent.append(frame)
        moment = Moment(self.recent, self.first, self.count)
        for metric in self.metrics:
            self.series[metric.name].append(metric.at(moment) if self.count + 1 >= metric.reads else None)
        self._show(frame.image)
        self.count += 1

    def report(self) -> Report:
        if self.first is None:
            raise UserError("The video has no frames. Give one with at least one frame.")
        clip = Clip(first=self.first, last=self.recent[-1], frames=self.count)
        measured, missing = [], dict(self.missing)
        for metric in self.metrics:
            series = self.series[metric.name]
            values = [value for value in series if value is not None]
            if self.count < metric.fewest:
                missing[metric.name] = f"needs {counted(metric.fewest)} or more"
            elif not values:
                missing[metric.name] = "nothing of the video can be measured by it"
            else:
                measured.append(Measured(metric=metric, value=metric.total(values, clip), series=tuple(series)))
        h, w = self.first.image.shape[:2]
        return Report(
            frames=self.count,
            width=w,
            height=h,
            measured=tuple(measured),
            missing=missing,
            shown=tuple(self.shown),
        )

    def _checked(self, image: Tensor) -> Tensor:
        if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
            raise UserError(f"Frame {self.count} has the shape {tuple(image.shape)}; it must be (height, width, 3).")
        if self.first is not None and image.shape != self.first.image.shape:
            (h, w, _), (height, width, _) = image.shape, self.first.image.shape
            raise UserError(
                f"Frame {self.count} has {w}x{h} pixels, but the first one has {width}x{height}. Give frames of one "
                "size."
            )
        image = image.detach().float().cpu()
        if not bool(torch.isfinite(image).all()):
            raise UserError(f"Frame {self.count} contains NaN or infinite values. Check what made it.")
        return image.clamp(0, 1)

    def _show(self, image: Tensor) -> None:
        """Keeps every n-th frame for the contact sheet, n such that `SHOWN` to twice as many are left."""
        if self.count % self.every:
            return
        self.shown.append(Thumbnail(self.count, reduced(image, SHOWN_SIDE)[0].movedim(0, -1).clamp(0, 1)))
        if len(self.shown) == 2 * SHOWN:
            self.shown = self.shown[::2]
            self.every *= 2
