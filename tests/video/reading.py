"""Reads what the writer wrote with another program: the ffmpeg binary of imageio-ffmpeg, or the system's."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

LAYOUTS = {"mono": 1, "stereo": 2, "5.1": 6, "7.1": 8}


def ffmpeg() -> str:
    """Another ffmpeg than the one inside PyAV."""
    try:
        import imageio_ffmpeg
    except ImportError:
        found = shutil.which("ffmpeg")
        assert found, "install the test requirements: they bring imageio-ffmpeg"
        return found
    return str(imageio_ffmpeg.get_ffmpeg_exe())


@dataclass(frozen=True)
class Seen:
    """What the other reader says of the picture stream. `times`: each frame's time and duration in seconds."""

    times: tuple[tuple[Fraction, Fraction], ...]
    line: str
    """ffmpeg's description of the stream as stored."""

    @property
    def count(self) -> int:
        return len(self.times)

    @property
    def duration(self) -> Fraction:
        return self.times[-1][0] + self.times[-1][1] - self.times[0][0]


def _source(path: Path) -> list[str]:
    return ["-i", str(path / "frame_%05d.png" if path.is_dir() else path)]


def look(path: Path, rate: Fraction | None = None) -> Seen:
    """Decodes everything. Without `rate` the times are those stored in the file."""
    forced = ["-framerate", str(rate)] if rate is not None else []
    words = [ffmpeg(), "-hide_banner", *forced, *_source(path), "-map", "0:v:0", "-fps_mode", "passthrough"]
    done = subprocess.run(
        [*words, "-enc_time_base", "demux", "-f", "framecrc", "-"], capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    base = Fraction(re.search(r"#tb 0: (\S+)", done.stdout)[1])
    rows = [line.split(",") for line in done.stdout.splitlines() if line.startswith("0,")]
    times = tuple((int(row[2]) * base, int(row[3]) * base) for row in rows)
    return Seen(times, next(line.strip() for line in done.stderr.splitlines() if "Video:" in line))


def pixels(path: Path, *, deep: bool = False, alpha: bool = False, decoder: str = "") -> np.ndarray:
    """All frames f h w c, uint8 or (deep) uint16, converted by ffmpeg as the file's tags say."""
    size = re.search(r", (\d+)x(\d+)[ ,]", f"{look(path).line} ")
    width, height = int(size[1]), int(size[2])
    name = {(False, False): "rgb24", (False, True): "rgba", (True, False): "rgb48le", (True, True): "rgba64le"}[
        deep, alpha
    ]
    words = [ffmpeg(), "-v", "error", *(["-c:v", decoder] if decoder else []), *_source(path), "-map", "0:v:0"]
    flags = ["-sws_flags", "bicubic+accurate_rnd+full_chroma_int", "-fps_mode", "passthrough"]
    done = subprocess.run([*words, *flags, "-f", "rawvideo", "-pix_fmt", name, "-"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    values = np.frombuffer(done.stdout, np.uint16 if deep else np.uint8)
    return values.reshape(-1, height, width, 4 if alpha else 3)


def planes(path: Path, stored: str) -> np.ndarray:
    """All frames f h w 3 of planar RGB with more than 8 bits as stored (ffmpeg's name), nothing converted."""
    size = re.search(r", (\d+)x(\d+)[ ,]", f"{look(path).line} ")
    words = [ffmpeg(), "-v", "error", *_source(path), "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", stored]
    done = subprocess.run([*words, "-"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    values = np.frombuffer(done.stdout, np.uint16).reshape(-1, 3, int(size[2]), int(size[1]))  # green, blue, red
    return values[:, [2, 0, 1]].transpose(0, 2, 3, 1)


def sound(path: Path) -> tuple[np.ndarray, int]:
    """Samples s c in -1..1 and their rate, at the stored rate and channels."""
    done = subprocess.run([ffmpeg(), "-hide_banner", *_source(path)], capture_output=True, check=False, text=True)
    line = next(line for line in done.stderr.splitlines() if "Audio:" in line)
    rate = int(re.search(r"(\d+) Hz", line)[1])
    channels = next(count for layout, count in LAYOUTS.items() if f" {layout}" in line)
    raw = subprocess.run(
        [ffmpeg(), "-v", "error", *_source(path), "-map", "0:a:0", "-f", "f32le", "-"], capture_output=True, check=False
    )
    assert raw.returncode == 0, raw.stderr
    return np.frombuffer(raw.stdout, np.float32).reshape(-1, channels), rate


def page_metadata(path: Path) -> dict[str, object]:
    """Prompt and workflow as ComfyUI's page finds them (frontend 1.47): the same walk over the same bytes.

    GIF and Matroska are not read by the page itself but by the script in `web/` of this pack, the same way as WebP's
    text and WebM's tags.
    """
    file = sorted(path.iterdir())[0] if path.is_dir() else path
    data = file.read_bytes()
    walks = {
        ".png": _png,
        ".webp": _webp,
        ".gif": _gif,
        ".mp4": _isobmff,
        ".mov": _isobmff,
        ".webm": _ebml,
        ".mkv": _ebml,
    }
    return {key: json.loads(text) for key, text in walks[file.suffix](data).items() if key in ("prompt", "workflow")}


def _png(data: bytes) -> dict[str, str]:
    found, at = {}, 8
    while at < len(data):
        length = struct.unpack_from(">I", data, at)[0]
        if data[at + 4 : at + 8] in (b"tEXt", b"comf"):
            key, text = data[at + 8 : at + 8 + length].split(b"\0", 1)
            found[key.decode()] = text.decode()
        at += 12 + length
    return found


def _webp(data: bytes) -> dict[str, str]:
    at = 12
    while at < len(data):
        length = struct.unpack_from("<I", data, at + 4)[0]
        if data[at : at + 4] == b"EXIF":
            return _exif(data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    return {}


def _exif(block: bytes) -> dict[str, str]:
    block = block.removeprefix(b"Exif\0\0")
    order = "<" if block[:2] == b"II" else ">"
    start = struct.unpack_from(f"{order}I", block, 4)[0]
    found = {}
    for i in range(struct.unpack_from(f"{order}H", block, start)[0]):
        _, kind, count, at = struct.unpack_from(f"{order}HHII", block, start + 2 + 12 * i)
        if kind == 2:
            key, _, text = block[at : at + count - 1].decode().partition(":")
            found[key] = text
    return found


def _gif(data: bytes) -> dict[str, str]:
    """Walks the blocks from the first one on, as any reader of GIF."""
    at = 13 + (3 * 2 ** ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    found = {}
    while data[at] != 0x3B:
        if data[at] == 0x2C:
            at += 10 + (3 * 2 ** ((data[at + 9] & 7) + 1) if data[at + 9] & 0x80 else 0) + 1
            at, _ = _sub_blocks(data, at)
            continue
        label = data[at + 1]
        at, value = _sub_blocks(data, at + 2)
        if label == 0xFE:
            key, _, text = value.decode().partition(":")
            found[key] = text
    return found


def _sub_blocks(data: bytes, at: int) -> tuple[int, bytes]:
    value = b""
    while data[at]:
        value += data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
    return at + 1, value


def _ebml(data: bytes) -> dict[str, str]:
    """Tags in the first 2 MB; the end of the JSON is where the braces balance."""
    data = data[: 2 * 1024 * 1024]
    found, at = {}, 0
    while (at := data.find(b"\x67\xc8", at)) >= 0:
        length, size = _vint(data, at + 2)
        start, end = at + 2 + size, at + 2 + size + length
        at += 1
        if length <= 0 or end > len(data):
            continue
        name, value = (_element(data, start, end, kind) for kind in (b"\x45\xa3", b"\x44\x87"))
        if name is not None and value is not None:
            key = name.rstrip(b"\0").decode().strip()
            if key in ("PROMPT", "WORKFLOW"):
                found[key.lower()] = _balanced(value.split(b"\0")[0].decode())
    return found


def _element(data: bytes, start: int, end: int, kind: bytes) -> bytes | None:
    at = data.find(kind, start, end)
    if at < 0:
        return None
    length, size = _vint(data, at + 2)
    return data[at + 2 + size : at + 2 + size + length]


def _vint(data: bytes, at: int) -> tuple[int, int]:
    size = 9 - data[at].bit_length()
    return int.from_bytes(data[at : at + size], "big") & ((1 << (7 * size)) - 1), size


def _balanced(text: str) -> str:
    text = text[text.index("{") :]
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return text[: i + 1]
    raise AssertionError("braces do not balance")


def _isobmff(data: bytes) -> dict[str, str]:
    """moov / udta / meta / keys and ilst, in the first 64 MB."""
    data = data[: 64 * 1024 * 1024]
    moov = _box(data, 0, len(data), b"moov")
    udta = _box(data, *moov, b"udta")
    start, end = _box(data, *udta, b"meta")
    keys = _box(data, start + 4, end, b"keys")
    names, at = [], keys[0] + 8
    for _ in range(struct.unpack_from(">I", data, keys[0] + 4)[0]):
        length = struct.unpack_from(">I", data, at)[0]
        names.append(data[at + 8 : at + length].decode())
        at += length
    at, end = _box(data, start + 4, end, b"ilst")
    found = {}
    while at < end - 8:
        length, index = struct.unpack_from(">II", data, at)
        inner = _box(data, at + 8, at + length, b"data")
        text = data[inner[0] + 8 : inner[1]].decode()
        if names[index - 1] in ("prompt", "workflow"):
            found[names[index - 1]] = text[text.index("{") :]
        at += length
    return found


def _box(data: bytes, start: int, end: int, kind: bytes) -> tuple[int, int]:
    at = start
    while at < end - 8:
        length = struct.unpack_from(">I", data, at)[0]
        if data[at + 4 : at + 8] == kind:
            return at + 8, at + length
        assert length >= 8, f"box of {length} bytes before {kind!r}"
        at += length
    raise AssertionError(f"no {kind!r} box")
