"""How a clip is written, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from .audio import Length
from .formats import DEFAULT_QUALITY, Format
from .values import OddSize

Dither = Literal["sierra2_4a", "floyd_steinberg", "bayer", "none"]
DITHERS: tuple[Dither, ...] = ("sierra2_4a", "floyd_steinberg", "bayer", "none")


MOST_PLAYS = 65_535
"""The largest loop count that a GIF holds."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The user's choices."""

    format: str | None = None
    """A name from `available_formats()`; None for the default format of the file's suffix."""
    quality: int = DEFAULT_QUALITY
    """0 (small file) to 100 (every detail); 80 is crf 18 with h264."""
    multiplier: int = 1
    """Factor on the frame rate: 2 after an interpolator that doubled the number of frames."""
    ping_pong: bool = False
    """Plays forwards, then backwards."""
    fade: int = 0
    """Number of frames at the end that fade into the beginning, for a seamless loop."""
    plays: int = 0
    """How many times it plays. Animated images: 0 loops forever. In videos the frames are written this many times; 0
    and 1 mean once."""
    odd_size: OddSize = "pad"
    """What to do with an odd width or height if the codec needs an even one."""
    dither: Dither = "sierra2_4a"
    """For gif only."""
    audio_length: Length = "trim and pad"


DEFAULTS = Options()


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What a writer needs to know about its file.

    part: the temporary file, or folder for png, to write to.
    size: height and width in pixels.
    alpha: whether the arrays have a fourth channel.
    texts: metadata by key.
    """

    part: Path
    format: Format
    options: Options
    size: tuple[int, int]
    alpha: bool
    rate: Fraction
    texts: Mapping[str, str]
