"""Writers for WebP, APNG and folders of PNG files, whose containers are simple enough to write here.

FFmpeg and Pillow keep a whole animation in memory and lose the metadata or the 16 bits. These writers store each frame
as soon as it is encoded.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from .formats import Format, require_av
from .metadata import exif, png_chunk, png_text
from .options import Encoding

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_RIFF = 2**32 - 2
DIGITS = 5


class PngEncoder:
    """Encodes arrays h w 3 or h w 4 of uint8 or uint16 as PNG chunks."""

    def __init__(self, png: Format, *, size: tuple[int, int], alpha: bool) -> None:
        self.pixels = str(png.alpha if alpha else png.pixels)
        context = require_av().CodecContext.create(png.encoder, "w")
        context.height, context.width = size
        context.pix_fmt, context.time_base = self.pixels, Fraction(1, 25)
        context.options = {"pred": "paeth", "compression_level": "6"}
        context.thread_count = 1  # more threads would delay frames
        self.context = context

    def __call__(self, values: np.ndarray) -> Iterator[tuple[bytes, bytes]]:
        """Type and data of the header and pixel chunks."""
        if values.dtype == np.uint16:
            values = values.astype(">u2")
        frame = self._frame(values)
        for packet in self.context.encode(frame):
            yield from chunks_of(bytes(packet))

    def _frame(self, values: np.ndarray) -> Any:
        av = require_av()
        frame = av.VideoFrame(values.shape[1], values.shape[0], self.pixels)
        plane = frame.planes[0]
        rows = np.zeros((values.shape[0], plane.line_size), dtype=np.uint8)
        flat = np.ascontiguousarray(values).view(np.uint8).reshape(values.shape[0], -1)
        rows[:, : flat.shape[1]] = flat
        plane.update(rows)
        frame.pts = 0
        return frame


def chunks_of(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and data of the header and pixel chunks in a PNG file."""
    at = len(SIGNATURE)
    while at < len(data):
        length = struct.unpack_from(">I", data, at)[0]
        kind = data[at + 4 : at + 8]
        if kind in (b"IHDR", b"IDAT"):
            yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


class PngWriter:
    """A folder of PNG files, each with the metadata."""

    def __init__(self, encoding: Encoding) -> None:
        self.part, self.frames, self.text = encoding.part, 0, png_text(encoding.texts)
        self.encode = PngEncoder(encoding.format, size=encoding.size, alpha=encoding.alpha)

    def add(self, values: np.ndarray) -> None:
        self.frames += 1
        with (self.part / f"frame_{self.frames:0{DIGITS}}.png").open("xb") as file:
            file.write(SIGNATURE)
            for kind, data in self.encode(values):
                file.write(png_chunk(kind, data) + (self.text if kind == b"IHDR" else b""))
            file.write(png_chunk(b"IEND", b""))

    def finish(self) -> None:
        pass

    def abort(self) -> None:
        pass


class ApngWriter:
    """An animated PNG (W3C PNG, third edition)."""

    def __init__(self, encoding: Encoding) -> None:
        delay = (1 / encoding.rate).limit_denominator(65535)
        if not 0 < delay.numerator <= 65535:
            raise UserError(f"A frame rate of {encoding.rate} is not supported by APNG; choose 1 or more.")
        self.delay, self.size, self.plays = delay, encoding.size, encoding.options.plays
        self.text = png_text(encoding.texts)
        self.frames = self.sequence = self.control_at = 0
        self.encode = PngEncoder(encoding.format, size=encoding.size, alpha=encoding.alpha)
        self.file = encoding.part.open("wb")

    def add(self, values: np.ndarray) -> None:
        for kind, data in self.encode(values):
            if kind == b"IHDR":
                if self.frames == 0:
                    self._head(data)
                self._frame_control()
            elif self.frames == 0:
                self._chunk(b"IDAT", data)
            else:
                self._chunk(b"fdAT", self._next() + data)
        self.frames += 1

    def finish(self) -> None:
        self._chunk(b"IEND", b"")
        self.file.seek(self.control_at)
        self._chunk(b"acTL", struct.pack(">II", self.frames, self.plays))
        self.file.close()

    def abort(self) -> None:
        self.file.close()

    def _head(self, header: bytes) -> None:
        self.file.write(SIGNATURE)
        self._chunk(b"IHDR", header)
        self.file.write(self.text)
        self.control_at = self.file.tell()
        self._chunk(b"acTL", struct.pack(">II", 0, 0))

    def _frame_control(self) -> None:
        height, width = self.size
        delay = (self.delay.numerator, self.delay.denominator)
        self._chunk(b"fcTL", self._next() + struct.pack(">IIIIHHBB", width, height, 0, 0, *delay, 0, 0))

    def _next(self) -> bytes:
        self.sequence += 1
        return struct.pack(">I", self.sequence - 1)

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self.file.write(png_chunk(kind, data))


class WebpWriter:
    """An animated WebP. Only the rectangle that differs from the previous frame is stored."""

    def __init__(self, encoding: Encoding) -> None:
        self.rate, self.exif, self.frames = encoding.rate, exif(encoding.texts), 0
        scale = encoding.format.scale
        lossy = {} if scale is None else {"quality": scale.at(encoding.options.quality)}
        self.save: dict[str, Any] = lossy or {"lossless": True, "quality": 60, "exact": True}
        self.previous: np.ndarray | None = None
        height, width = encoding.size
        flags = 0x02 | (0x10 if encoding.alpha else 0) | (0x08 if self.exif else 0)
        self.file = encoding.part.open("wb")
        self.file.write(b"RIFF\0\0\0\0WEBP")
        self._chunk(b"VP8X", bytes([flags, 0, 0, 0]) + _uint24(width - 1) + _uint24(height - 1))
        self._chunk(b"ANIM", struct.pack("<IH", 0, min(encoding.options.plays, 65535)))

    def add(self, values: np.ndarray) -> None:
        top, left, bottom, right = changed_area(self.previous, values)
        self.previous = values.copy()
        out = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(values[top:bottom, left:right])).save(out, "WEBP", **self.save)
        position = _uint24(left // 2) + _uint24(top // 2) + _uint24(right - left - 1) + _uint24(bottom - top - 1)
        start, end = (round(1000 * i / self.rate) for i in (self.frames, self.frames + 1))
        overwrite = b"\x02"
        self._chunk(b"ANMF", position + _uint24(end - start) + overwrite + _image_chunks(out.getvalue()))
        self.frames += 1

    def finish(self) -> None:
        if self.exif:
            self._chunk(b"EXIF", self.exif)
        length = self.file.tell() - 8
        if length > MAX_RIFF:
            raise UserError("The animation exceeds the limit of 4 GB for WebP files. Write a video instead.")
        self.file.seek(4)
        self.file.write(struct.pack("<I", length))
        self.file.close()

    def abort(self) -> None:
        self.file.close()

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self.file.write(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2))


def changed_area(previous: np.ndarray | None, current: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left (both even), bottom and right of the smallest rectangle that contains all changes."""
    if previous is None:
        return 0, 0, current.shape[0], current.shape[1]
    different = (previous != current).any(axis=2)
    rows, columns = np.flatnonzero(different.any(axis=1)), np.flatnonzero(different.any(axis=0))
    if rows.size == 0:
        return 0, 0, 1, 1
    return int(rows[0]) // 2 * 2, int(columns[0]) // 2 * 2, int(rows[-1]) + 1, int(columns[-1]) + 1


def _image_chunks(data: bytes) -> bytes:
    """The chunks of a still WebP file that contain its pixels."""
    at, found = 12, b""
    while at < len(data):
        length = struct.unpack_from("<I", data, at + 4)[0]
        end = at + 8 + length + length % 2
        if data[at : at + 4] in (b"ALPH", b"VP8 ", b"VP8L"):
            found += data[at:end]
        at = end
    return found


def _uint24(number: int) -> bytes:
    return number.to_bytes(3, "little")
