"""Writes a clip to a video file, an animated image or a folder of images."""

from __future__ import annotations

from ..files import check_target
from .arrange import arranged
from .audio import LENGTHS, Audio
from .formats import FORMATS, Format, available_formats, find_format, format_of, quality_table
from .names import safe_name
from .options import DITHERS, Options
from .rate import frame_rate
from .values import ODD_SIZES
from .writing import Written, bytes_of, is_disk_full, write, write_video

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
    "available_formats",
    "bytes_of",
    "check_target",
    "find_format",
    "format_of",
    "frame_rate",
    "is_disk_full",
    "quality_table",
    "safe_name",
    "write",
    "write_video",
]
