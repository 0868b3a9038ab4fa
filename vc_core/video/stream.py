"""Writer for mp4, mov, mkv and webm files, encoded frame by frame with PyAV."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from .audio import Audio, AudioTrack
from .formats import Format, require_av
from .options import Encoding

LIMITED, FULL = 1, 2
BT709, RGB, SRGB = 1, 0, 13
"""Codes of ITU-T H.273: BT.709 as primaries, transfer and matrix; the identity matrix; the sRGB transfer."""
MOST_DELAY, REORDER = 64, 2
"""In frames. x265 sets a random decoding time in clips of one or two frames; the right one is 2 before its position."""
SMALL = 128 * 128
"""Number of pixels up to which x264's macroblock tree (mbtree) is turned off, because at widths that are not multiples
of 128 it is not deterministic. In frames of this size mbtree saves only a few kilobytes."""
_LIMITED_16 = 65280
"""The 16-bit value of 1.0 for FFmpeg's conversion from RGB to YUV, which treats the upper byte as the 8-bit value."""


def top_of(video_format: Format) -> int:
    """The integer that represents 1.0 in the arrays for a writer of this format."""
    if video_format.bits == 8:
        return 255
    if video_format.kind == "stream" and not video_format.rgb:
        return _LIMITED_16
    return 2**video_format.bits - 1


class StreamWriter:
    """One video file. Call `add` with arrays h w 3 or h w 4 (uint8, or uint16 up to `top_of`), then `finish`."""

    def __init__(self, encoding: Encoding, audio: Audio | None) -> None:
        self.format, self.rate, self.size = encoding.format, encoding.rate, encoding.size
        self.frames = self.packets = 0
        target, alpha = encoding.format, encoding.alpha
        self.pixels = target.alpha if alpha and target.alpha else target.pixels
        self.colour = (FULL, RGB, BT709, SRGB) if target.rgb else (LIMITED, BT709, BT709, BT709)
        self.container = _open(encoding)
        try:
            self.container.metadata.update(encoding.texts)
            self.stream = self._add_stream(encoding.options.quality)
            self.track = (
                None
                if audio is None
                else AudioTrack(self.container, target.audio, audio, encoding.options.audio_length)
            )
            self.convert = (
                None
                if target.rgb and target.bits > 8
                else _Converter(_source(target, alpha), self.pixels, self.size, rgb=target.rgb)
            )
        except BaseException:
            self.abort()
            raise

    def _add_stream(self, quality: int) -> Any:
        target = self.format
        options = dict(target.options)
        if target.scale is not None:
            options[target.scale.name] = str(target.scale.at(quality))
        if target.encoder == "libx264" and self.size[0] * self.size[1] <= SMALL:
            options["x264-params"] = "mbtree=0"
        if target.encoder == "prores_ks" and target.alpha is None:
            options.pop("alpha_bits", None)
        stream = self.container.add_stream(target.encoder, rate=self.rate, options=options)
        context = stream.codec_context
        context.height, context.width = self.size
        context.pix_fmt = self.pixels
        context.bit_rate = 0
        context.time_base = 1 / self.rate
        context.thread_type = "AUTO"  # frame threads; PyAV's default, slices, makes x264 slower and files larger
        if target.tag:
            context.codec_tag = target.tag
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
        if hasattr(frame, "color_primaries"):  # PyAV 16 and later; older versions only tag the stream
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
        """Closes the file, which the caller removes."""
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


def _open(encoding: Encoding) -> Any:
    muxer = encoding.format.muxer
    options = {"movflags": "use_metadata_tags+faststart"} if muxer in ("mp4", "mov") else {}
    return require_av().open(str(encoding.part), "w", format=muxer, options=options)


def _source(target: Format, alpha: bool) -> str:
    """PyAV's pixel format of the arrays passed to `add`."""
    if target.bits == 8:
        return "rgba" if alpha else "rgb24"
    return "rgba64le" if alpha else "rgb48le"


class _Converter:
    """Converts arrays to the encoder's pixel format with FFmpeg's scaler, with exact rounding and full chroma."""

    def __init__(self, source: str, pixels: str, size: tuple[int, int], *, rgb: bool) -> None:
        av = require_av()
        height, width = size
        self.source = source
        self.graph = av.filter.Graph()
        buffer = self.graph.add("buffer", f"video_size={width}x{height}:pix_fmt={source}:time_base=1/1000")
        target = "" if rgb else ":in_range=pc:out_color_matrix=bt709:out_range=tv"
        scale = self.graph.add("scale", f"flags=bicubic+accurate_rnd+full_chroma_inp{target}")
        pixel_format = self.graph.add("format", f"pix_fmts={pixels}")
        sink = self.graph.add("buffersink")
        for one, other in ((buffer, scale), (scale, pixel_format), (pixel_format, sink)):
            one.link_to(other)
        self.graph.configure()

    def __call__(self, values: np.ndarray) -> Any:
        frame = require_av().VideoFrame.from_ndarray(values, format=self.source)
        frame.pts = 0
        self.graph.push(frame)
        return self.graph.pull()


def _packed(av: Any, values: np.ndarray, pixels: str) -> Any:
    """An RGB frame with more than 8 bits, with exactly the values of the array."""
    if not pixels.startswith("gbr"):
        return av.VideoFrame.from_ndarray(values, format=pixels)
    height, width, channels = values.shape
    frame = av.VideoFrame(width, height, pixels)
    for plane, channel in zip(frame.planes, (1, 2, 0, 3)[:channels], strict=True):
        plane.update(_rows(values[..., channel], plane.line_size))
    return frame


def _rows(values: np.ndarray, line_size: int) -> np.ndarray:
    """The values of one plane, each row padded to `line_size` bytes."""
    height, width = values.shape
    padded = np.zeros((height, line_size // values.itemsize), dtype=values.dtype)
    padded[:, :width] = values
    return padded
