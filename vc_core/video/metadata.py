"""Metadata in video and image files: the prompt and the workflow that made them.

Values are JSON, encoded once. The JSON is pure ASCII, so that it survives containers without an encoding, and braces in
strings are escaped, because ComfyUI's frontend finds the end of the JSON in WebM files by counting braces.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from collections.abc import Mapping
from typing import Any

from ..errors import UserError

_ODD = re.compile(r"[^A-Za-z0-9_.\- ]")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACES = str.maketrans({"{": r"\u007b", "}": r"\u007d"})

ASCII = 2
PROMPT_TAG, FIRST_TAG = 0x0110, 0x010F
"""The Exif text tags `Model` and `Make`: ComfyUI stores the prompt in the first, and the rest from the second
downwards."""
SUB_BLOCK = 255


def as_text(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Each value as text: strings are unchanged, everything else becomes JSON.

    Keys are reduced to what every container supports: at most 79 letters, digits, spaces, `_`, `-` and `.`.
    """
    return {
        _ODD.sub("_", key)[:79] or "_": value if isinstance(value, str) else to_json(value)
        for key, value in metadata.items()
    }


def to_json(value: Any) -> str:
    """ASCII JSON in which braces in strings are escaped. Raises UserError if the value cannot be written as JSON."""
    try:
        text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"The metadata cannot be written as JSON ({error}). Remove the offending value.") from error
    return _STRING.sub(lambda match: match[0].translate(_BRACES), text)


def _finite(value: Any) -> Any:
    """The value with NaN and infinities replaced by null, since JSON has none and ComfyUI's prompts may contain
    them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return value


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file: length, kind, data, checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_text(texts: Mapping[str, str]) -> bytes:
    """Text chunks: `tEXt` for ASCII, `iTXt` for everything else."""
    chunks = []
    for key, text in texts.items():
        if text.isascii():
            chunks.append(png_chunk(b"tEXt", key.encode() + b"\0" + text.encode()))
        else:
            chunks.append(png_chunk(b"iTXt", key.encode() + b"\0\0\0\0\0" + text.encode()))
    return b"".join(chunks)


def exif(texts: Mapping[str, str]) -> bytes:
    """A little-endian Exif block with one text `key:value` per tag; empty without texts."""
    if not texts:
        return b""
    others = [key for key in texts if key != "prompt"]
    tags = {FIRST_TAG - i: key for i, key in enumerate(others)} | ({PROMPT_TAG: "prompt"} if "prompt" in texts else {})
    start = 8 + 2 + 12 * len(tags) + 4
    entries, data = b"", b""
    for tag, key in sorted(tags.items()):
        value = (
            f"{key}:{texts[key]}".encode().ljust(4, b"\0") + b"\0"
        )  # shorter values would be stored in the entry itself
        entries += struct.pack("<HHII", tag, ASCII, len(value), start + len(data))
        data += value + b"\0" * (len(value) % 2)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


def gif_comments(texts: Mapping[str, str]) -> bytes:
    """One comment extension `key:value` per text."""
    blocks = []
    for key, text in texts.items():
        value = f"{key}:{text}".encode()
        parts = (value[i : i + SUB_BLOCK] for i in range(0, len(value), SUB_BLOCK))
        blocks.append(b"\x21\xfe" + b"".join(bytes([len(part)]) + part for part in parts) + b"\0")
    return b"".join(blocks)
