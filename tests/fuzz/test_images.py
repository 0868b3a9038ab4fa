"""Images of every kind that Pillow writes, damaged, and headers that claim what is not there."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from fuzz.damage import CHANGES, damaged
from fuzz.fuzzing import fuzzed
from fuzz.guards import Folder
from hypothesis import strategies as st
from PIL import Image

from vc_core.errors import UserError
from vc_core.frames import pixels
from vc_core.frames.pixels import load_image
from vc_core.video import clips
from vc_core.video.clips import load_images, open_frames

MODES = {
    "1": ("png", "tiff", "gif"),
    "L": ("png", "jpeg", "webp", "gif", "bmp", "tiff", "ppm", "jpeg2000"),
    "P": ("png", "gif", "bmp", "tiff"),
    "LA": ("png", "tiff", "tga"),
    "RGB": ("png", "jpeg", "webp", "bmp", "tiff", "ppm", "jpeg2000", "tga", "pcx", "ico", "mpo"),
    "RGBA": ("png", "webp", "tiff", "ico", "icns", "dds"),
    "CMYK": ("jpeg", "tiff"),
    "YCbCr": ("jpeg", "tiff"),
    "LAB": ("tiff",),
    "I;16": ("png", "tiff"),
    "I": ("tiff",),
    "F": ("tiff",),
}
KINDS = sorted((mode, kind) for mode, kinds in MODES.items() for kind in kinds)
ANIMATED = ("gif", "webp", "png", "tiff")


@cache
def image(mode: str, kind: str, frames: int = 1) -> bytes:
    """A small image file, with EXIF data where the format has it."""
    values = np.arange(13 * 11 * 3, dtype=np.uint8).reshape(13, 11, 3)
    colors = Image.fromarray(values)
    first = colors.convert("L").convert(mode) if mode in ("I;16", "I", "F") else _converted(colors, mode)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    options: dict[str, Any] = {"exif": exif} if kind in ("png", "jpeg", "webp", "tiff") else {}
    if frames > 1:
        options.update(save_all=True, append_images=[first.copy() for _ in range(frames - 1)], duration=50)
    file = io.BytesIO()
    first.save(file, format=kind, **options)
    return file.getvalue()


def _converted(colors: Image.Image, mode: str) -> Image.Image:
    if mode == "LAB":
        return Image.merge("LAB", colors.split())
    return colors.convert("RGBA").convert("LA") if mode == "LA" else colors.convert(mode)


@pytest.fixture(autouse=True)
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a decoded file may take in memory beside its own size is bounded by the pixels that are allowed; fewer keep
    the bound of the tests low."""
    for module in (pixels, clips):
        monkeypatch.setattr(module, "MOST_PIXELS", 2**21)


def look(folder: Folder, name: str, data: bytes) -> None:
    """Reads a file in each of the ways in which the product reads images."""
    path = folder.file(name, data)
    for read in (load_image, load_images, lambda path: list(open_frames(path).frames)):
        try:
            found = read(path)
        except UserError:
            continue
        for each in found if isinstance(found, list) else [found]:
            assert each.dtype == torch.float32
            assert each.shape[-1] == 3
            assert bool(((each >= 0) & (each <= 1)).all())


@pytest.mark.parametrize(("mode", "kind"), KINDS)
def test_every_mode_is_read_or_refused(mode: str, kind: str, folder: Folder) -> None:
    look(folder, "image.png", image(mode, kind))


@fuzzed(st.tuples(st.sampled_from(KINDS), st.integers(1, 3), CHANGES), examples=100)
def test_damaged_images(case: tuple[tuple[str, str], int, list[Any]], folder: Folder) -> None:
    (mode, kind), frames, changes = case
    look(folder, "image.png", damaged(image(mode, kind, frames if kind in ANIMATED else 1), changes))


SIDES = st.sampled_from([0, 1, 11, 16_383, 65_535, 2**31 - 1, 2**32 - 1])


@fuzzed(
    st.tuples(
        SIDES,
        SIDES,
        st.sampled_from([0, 1, 2, 4, 8, 16, 32, 255]),
        st.integers(0, 7),
        st.one_of(st.binary(max_size=64), st.integers(0, 2**20).map(lambda size: zlib.compress(bytes(size)))),
        st.lists(
            st.tuples(st.sampled_from([b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"eXIf", b"acTL"]), st.binary(max_size=40)),
            max_size=3,
        ),
    ),
    examples=40,
)
def test_headers_of_png_that_lie(case: tuple[Any, ...], folder: Folder) -> None:
    width, height, depth, color, data, more = case
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)), *more, (b"IDAT", data)]
    body = b"".join(_chunk(kind, content) for kind, content in [*chunks, (b"IEND", b"")])
    look(folder, "image.png", b"\x89PNG\r\n\x1a\n" + body)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HEADERS = {
    "gif": lambda w, h: (
        b"GIF89a"
        + struct.pack("<HHBBB", w % 65536, h % 65536, 0x80, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", 0, 0, w % 65536, h % 65536, 0)
        + b"\x02\x02L\x01\x00;"
    ),
    "bmp": lambda w, h: (
        b"BM" + struct.pack("<IHHIIiiHHIIIIII", 54, 0, 0, 54, 40, w % 2**31, h % 2**31, 1, 24, 0, 0, 0, 0, 0, 0)
    ),
    "tga": lambda w, h: (
        struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, w % 65536, h % 65536, 24, 0) + b"\xff\0\0\0"
    ),
    "jpeg": lambda w, h: (
        b"\xff\xd8\xff\xc0\x00\x11\x08"
        + struct.pack(">HH", h % 65536, w % 65536)
        + b"\x03\x01\x22\0\x02\x11\1\x03\x11\1\xff\xda\0\x0c\3\1\0\2\x11\3\x11\0\x3f\0\xff\xd9"
    ),
    "ppm": lambda w, h: b"P6 %d %d 255\n" % (w, h),
    "eps": lambda w, h: b"%%!PS-Adobe-3.0 EPSF-3.0\n%%%%BoundingBox: 0 0 %d %d\n%%%%EndComments\nshowpage\n" % (w, h),
}


@fuzzed(st.tuples(st.sampled_from(sorted(HEADERS)), SIDES, SIDES, st.one_of(st.just([]), CHANGES)), examples=40)
def test_headers_that_lie(case: tuple[str, int, int, list[Any]], folder: Folder) -> None:
    kind, width, height, changes = case
    look(folder, "image.png", damaged(HEADERS[kind](width, height), changes))


def test_an_image_that_a_program_would_draw_is_refused(folder: Folder) -> None:
    """Pillow gives PostScript to Ghostscript."""
    path = folder.file("image.png", HEADERS["eps"](8, 8))
    with pytest.raises(UserError, match="cannot be read as an image"):
        load_image(path)


def test_an_image_of_a_size_that_fills_the_memory_is_refused(folder: Folder) -> None:
    with pytest.raises(UserError, match="at most 2,097,152 are supported"):
        load_image(folder.file("image.png", _png(1500, 1500)))


def _png(width: int, height: int) -> bytes:
    """Black, with one bit for each pixel."""
    rows = zlib.compress(bytes((width // 8 + 1) * height))
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")
