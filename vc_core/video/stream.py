"""Video files: mp4, mov, mkv and webm, encoded frame by frame with PyAV."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from .audio import Audio, AudioTrack
from .formats import Format, require_av

LIMITED, FULL = 1, 2
BT709, RGB, SRGB = 1, 0, 13
"""Numbers of ITU-T H.273: bt709 as primaries, transfer and matrix; no matrix; the transfer of sRGB."""
MOST_DELAY, REORDER = 64, 2
"""Frames. x265 gives clips of one or two frames a random decoding time; the right one is 2 before its place."""
SMALL = 128 * 128
"""Pixels of a frame up to which x264 works without its tree of macroblocks, which in widths that are no multiple of 128
now and then encodes the same frames to other pixels. In frames of this size the tree saves a few kilobytes."""
_LIMITED_16 = 65280
"""What stands for 1.0 in 16 bits where FFmpeg turns RGB into YUV: it takes the upper byte for the value in 8 bits."""


def top_of(form: Format) -> int:
    """The number that stands for 1.0 in the arrays that a writer of that format takes."""
    if form.bits == 8:
        return 255
    if form.kind == "stream" and not form.rgb:
        return _LIMITED_16
    return 2**form.bits - 1


class StreamWriter:
    """One video file at `part`. `add` takes arrays h w 3 or 4 (uint8, or uint16 up to `top_of`), then `finish`."""

    def __init__(
        self,
        part: Path,
        form: Format,
        *,
        size: tuple[int, int],
        alpha: bool,
        rate: Fraction,
        quality: int,
        texts: Mapping[str, str],
        audio: tuple[Audio, str] | None,
    ) -> None:
        av = require_av()
        self.form, self.rate, self.size = form, rate, size
        self.frames = self.packets = 0
        self.pixels = form.alpha if alpha and form.alpha else form.pixels
        self.colour = (FULL, RGB, BT709, SRGB) if form.rgb else (LIMITED, BT709, BT709, BT709)
        moov = form.muxer in ("mp4", "mov")
        options = {"movflags": "use_metadata_tags+faststart"} if moov else {}
        self.container = av.open(str(part), "w", format=form.muxer, options=options)
        try:
            self.container.metadata.update(texts)
            self.stream = self._add_stream(quality)
            self.track = AudioTrack(self.container, form.audio, *audio) if audio else None
            self.convert = (
                None if form.rgb and form.bits > 8 else _Converter(self.source(alpha), self.pixels, size, rgb=form.rgb)
            )
        except BaseException:
            self.abort()
            raise

    def source(self, alpha: bool) -> str:
        """PyAV's name of the pixels that `add` is given."""
        if self.form.bits == 8:
            return "rgba" if alpha else "rgb24"
        return "rgba64le" if alpha else "rgb48le"

    def _add_stream(self, quality: int) -> Any:
        form = self.form
        options = dict(form.options)
        if form.scale is not None:
            options[form.scale.name] = str(form.scale.at(quality))
        if form.encoder == "libx264" and self.size[0] * self.size[1] <= SMALL:
            options["x264-params"] = "mbtree=0"
        if form.encoder == "prores_ks" and form.alpha is None:
            options.pop("alpha_bits", None)
        stream = self.container.add_stream(form.encoder, rate=self.rate, options=options)
        context = stream.codec_context
        context.height, context.width = self.size
        context.pix_fmt = self.pixels
        context.bit_rate = 0
        context.time_base = 1 / self.rate
        context.thread_type = "AUTO"  # several frames at once; PyAV's slices cost x264 speed and bytes
        if form.tag:
            context.codec_tag = form.tag
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = self.colour
        return stream

    def add(self, values: np.ndarray) -> None:
        av = require_av()
        if self.convert is None:
            frame = _packed(av, values, self.pixels)
        else:
            frame = self.convert(values)
        frame.pts, frame.time_base = self.frames, 1 / self.rate
        frame.color_range, frame.colorspace, primaries, transfer = self.colour
        if hasattr(frame, "color_primaries"):  # PyAV 16 and later; older ones tag the stream only
            frame.color_primaries, frame.color_trc = primaries, transfer
        self.frames += 1
        self._encode(frame)
        if self.track is not None:
            self.track.write_until(self.frames / self.rate)

    def finish(self) -> None:
        self._encode(None)
        if self.track is not None:
            self.track.finish(self.frames / self.rate)
        self.container.close()

    def abort(self) -> None:
        """Ends without caring for the file, which the caller removes."""
        av = require_av()
        with suppress(OSError, ValueError, av.error.FFmpegError):
            self.container.close()

    def _encode(self, frame: Any | None) -> None:
        for packet in self.stream.encode(frame):
            packet.duration = packet.duration or 1
            if packet.dts is not None and abs(packet.dts - packet.pts) > MOST_DELAY:
                packet.dts = self.packets - REORDER
            self.packets += 1
            self.container.mux(packet)


class _Converter:
    """Arrays to frames of the encoder's pixel format through FFmpeg's scaler, with exact rounding and full chroma."""

    def __init__(self, source: str, pixels: str, size: tuple[int, int], *, rgb: bool) -> None:
        av = require_av()
        height, width = size
        self.source = source
        self.graph = av.filter.Graph()
        buffer = self.graph.add("buffer", f"video_size={width}x{height}:pix_fmt={source}:time_base=1/1000")
        target = "" if rgb else ":in_range=pc:out_color_matrix=bt709:out_range=tv"
        scale = self.graph.add("scale", f"flags=bicubic+accurate_rnd+full_chroma_inp{target}")
        form = self.graph.add("format", f"pix_fmts={pixels}")
        sink = self.graph.add("buffersink")
        for one, other in ((buffer, scale), (scale, form), (form, sink)):
            one.link_to(other)
        self.graph.configure()

    def __call__(self, values: np.ndarray) -> Any:
        frame = require_av().VideoFrame.from_ndarray(values, format=self.source)
        frame.pts = 0
        self.graph.push(frame)
        return self.graph.pull()


def _packed(av: Any, values: np.ndarray, pixels: str) -> Any:
    """A frame of RGB with more than 8 bits, bit by bit what the array holds."""
    if not pixels.startswith("gbr"):
        return av.VideoFrame.from_ndarray(values, format=pixels)
    height, width, channels = values.shape
    frame = av.VideoFrame(width, height, pixels)
    for plane, channel in zip(frame.planes, (1, 2, 0, 3)[:channels], strict=True):
        plane.update(_rows(values[..., channel], plane.line_size))
    return frame


def _rows(values: np.ndarray, line_size: int) -> np.ndarray:
    """The bytes of one plane, each row filled up to `line_size`."""
    height, width = values.shape
    padded = np.zeros((height, line_size // values.itemsize), dtype=values.dtype)
    padded[:, :width] = values
    return padded
