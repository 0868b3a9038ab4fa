"""GIF: FFmpeg's palettes and dithering, streamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import UserError
from .formats import Format, require_av
from .metadata import gif_comments

Dither = Literal["sierra2_4a", "floyd_steinberg", "bayer", "none"]
DITHERS: tuple[Dither, ...] = ("sierra2_4a", "floyd_steinberg", "bayer", "none")
TRAILER = b"\x3b"


class GifWriter:
    """An animated GIF. `plays`: how often it runs, 0 for ever.

    With `survey`, the frames as arrays once more and from the start, one palette is made for the whole clip: no flicker
    and smaller files. Without, each frame gets its own.
    """

    def __init__(
        self,
        part: Path,
        form: Format,
        *,
        size: tuple[int, int],
        alpha: bool,
        rate: Fraction,
        quality: int,
        plays: int,
        dither: str,
        texts: Mapping[str, str],
        survey: Iterator[np.ndarray] | None,
    ) -> None:
        if dither not in DITHERS:
            raise UserError(f"The dithering {dither!r} is not known. There are: {', '.join(DITHERS)}.")
        av = require_av()
        assert form.scale is not None
        self.part, self.rate, self.frames, self.comments = part, rate, 0, gif_comments(texts)
        self.source = "rgba" if alpha else "rgb24"
        self.colours = form.scale.at(quality)
        self.palette = None if survey is None else self._survey(survey, size)
        self.graph, self.inputs = self._use(size, dither)
        if self.palette is not None:
            self.inputs[1].push(self.palette)
            self.inputs[1].push(None)
        loop = "0" if plays == 0 else "-1" if plays == 1 else str(min(plays - 1, 65535))
        self.container = av.open(str(part), "w", format="gif", options={"loop": loop})
        self.stream = self.container.add_stream("gif", rate=rate)
        context = self.stream.codec_context
        context.height, context.width = size
        context.pix_fmt, context.time_base = "pal8", 1 / rate

    def add(self, values: np.ndarray) -> None:
        self.inputs[0].push(self._frame(values))
        self._drain()

    def finish(self) -> None:
        self.inputs[0].push(None)
        self._drain()
        self._encode(None)
        self.container.close()
        with self.part.open("rb+") as file:
            file.seek(-1, 2)
            if file.read(1) != TRAILER:
                raise UserError("The GIF file is not complete; is the disk full? Make space and run it again.")
            file.seek(-1, 2)
            file.write(self.comments + TRAILER)

    def abort(self) -> None:
        av = require_av()
        with suppress(OSError, ValueError, av.error.FFmpegError):
            self.container.close()

    def _survey(self, survey: Iterator[np.ndarray], size: tuple[int, int]) -> Any:
        """The palette of all frames, as a picture of 16 x 16."""
        av = require_av()
        graph = av.filter.Graph()
        first = self._buffer(graph, self.source, size)
        make = graph.add("palettegen", f"max_colors={self.colours}:stats_mode=full")
        _link(graph, first, make, graph.add("buffersink"))
        graph.configure()
        for i, values in enumerate(survey):
            first.push(self._frame(values, i))
            with suppress(av.error.BlockingIOError):  # the filter takes the frame only when asked for the palette
                graph.pull()
        first.push(None)
        return graph.pull()

    def _use(self, size: tuple[int, int], dither: str) -> tuple[Any, list[Any]]:
        graph = require_av().filter.Graph()
        first = self._buffer(graph, self.source, size)
        use = graph.add("paletteuse", f"dither={dither}:new={int(self.palette is None)}")
        inputs = [first]
        if self.palette is None:
            split = graph.add("split")
            make = graph.add("palettegen", f"max_colors={self.colours}:stats_mode=single")
            first.link_to(split)
            split.link_to(use, 0, 0)
            split.link_to(make, 1, 0)
            make.link_to(use, 0, 1)
        else:
            second = self._buffer(graph, "bgra", (16, 16))
            first.link_to(use, 0, 0)
            second.link_to(use, 0, 1)
            inputs.append(second)
        use.link_to(graph.add("buffersink"))
        graph.configure()
        return graph, inputs

    def _buffer(self, graph: Any, pixels: str, size: tuple[int, int]) -> Any:
        base = 1 / self.rate
        return graph.add(
            "buffer",
            f"video_size={size[1]}x{size[0]}:pix_fmt={pixels}:time_base={base.numerator}/{base.denominator}",
        )

    def _frame(self, values: np.ndarray, index: int | None = None) -> Any:
        frame = require_av().VideoFrame.from_ndarray(values, format=self.source)
        frame.time_base = 1 / self.rate
        if index is None:
            index = self.frames
            self.frames += 1
        frame.pts = index
        return frame

    def _drain(self) -> None:
        """Everything that the filters have ready goes to the file."""
        av = require_av()
        while True:
            try:
                frame = self.graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            self._encode(frame)

    def _encode(self, frame: Any | None) -> None:
        for packet in self.stream.encode(frame):
            packet.duration = packet.duration or 1
            self.container.mux(packet)


def _link(graph: Any, *filters: Any) -> None:
    for one, other in pairwise(filters):
        one.link_to(other)
