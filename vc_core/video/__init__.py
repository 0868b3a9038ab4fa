"""FRAMES -> FILE: a clip becomes a video, an animated picture or a folder of pictures."""

from __future__ import annotations

from ..files import check_target
from .arrange import arranged
from .audio import LENGTHS, Audio
from .formats import FORMATS, Format, find_format, format_of, offered, quality_table
from .gif import DITHERS
from .names import safe_name
from .rate import frame_rate
from .values import ODD_SIZES
from .writing import Options, Written, write, write_video

__all__ = [
    "DITHERS",
    "FORMATS",
    "LENGTHS",
    "ODD_SIZES",
    "Audio",
    "Format",
    "Options",
    "Written",
    "arranged",
    "check_target",
    "find_format",
    "format_of",
    "frame_rate",
    "offered",
    "quality_table",
    "safe_name",
    "write",
    "write_video",
]
