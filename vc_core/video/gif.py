"""GIF, with FFmpeg's palettes and dithering, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import UserError
from .formats import require_av
from .metadata import gif_comments
from .options import DITHERS, Encoding

TRAILER = b"\x3b"


class GifWriter:
    """An animated GIF.

    `preview`, all frames as arrays from the start, lets one palette serve the whole clip, which avoids flicker and
    makes smaller files. Without it, each frame gets its own palette.
    """

    def __init__(self, encoding: Encoding, preview: Iterator[np.ndarray] | None) -> None:
        options, scale, size = encoding.options, encoding.format.scale, encoding.size
        if options.dither not in DITHERS:
            raise UserError(f"dither is {options.dither!r}; it must be one of {', '.join(DITHERS)}.")
        assert scale is not None
        self.part, self.rate, self.frames = encoding.part, encoding.rate, 0
        self.comments = gif_comments(encoding.texts)
        self.source = "rgba" if encoding.alpha else "rgb24"
        self.colours = scale.at(options.quality)
        self.palette = None if preview is None else self._common_palette(preview, size)
        self.graph, self.inputs = self._filters(size, options.dither)
        if self.palette is not None:
            self.inputs[1].push(self.palette)
            self.inputs[1].push(None)
        self.container = require_av().open(str(self.part), "w", format="gif", options={"loop": _loop(options.plays)})
        self.stream = self.container.add_stream("gif", rate=self.rate)
        context = self.stream.codec_context
        context.height, context.width = size
        context.pix_fmt, context.time_base = "pal8", 1 / self.rate

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
                raise UserError("The GIF file is incomplete; the disk may be full. Free some space and try again.")
            file.seek(-1, 2)
            file.write(self.comments + TRAILER)

    def abort(self) -> None:
        av = require_av()
        with suppress(OSError, ValueError, av.error.FFmpegError):
            self.container.close()

    def _common_palette(self, preview: Iterator[np.ndarray], size: tuple[int, int]) -> Any:
        """The palette of all frames, as an image of 16 x 16 pixels."""
        av = require_av()
        graph = av.filter.Graph()
        first = self._buffer(graph, self.source, size)
        make = graph.add("palettegen", f"max_colors={self.colours}:stats_mode=full")
        _link(graph, first, make, graph.add("buffersink"))
        graph.configure()
        for i, values in enumerate(preview):
            first.push(self._frame(values, i))
            with suppress(av.error.BlockingIOError):  # the filter consumes a frame only when the palette is requested
                graph.pull()
        first.push(None)
        return graph.pull()

    def _filters(self, size: tuple[int, int], dither: str) -> tuple[Any, list[Any]]:
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
        """Encodes all frames that the filters have finished."""
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


def _loop(plays: int) -> str:
    """FFmpeg's option `loop` for a number of plays, where 0 is endless: the number of repeats, -1 for none."""
    if plays == 0:
        return "0"
    return "-1" if plays == 1 else str(min(plays - 1, 65535))


def _link(graph: Any, *filters: Any) -> None:
    for one, other in pairwise(filters):
        one.link_to(other)
