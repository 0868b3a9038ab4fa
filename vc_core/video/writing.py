"""The whole way of a clip into a file: arranged, quantised, encoded, and placed under its name when complete."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import UserError
from ..files import placed
from .arrange import Clip, Frame, arranged
from .audio import Audio, Length, check_length
from .formats import DEFAULT_QUALITY, Format, find_format, format_of, require_av
from .gif import Dither, GifWriter
from .metadata import as_text
from .rate import frame_rate
from .still import ApngWriter, PngWriter, WebpWriter
from .stream import StreamWriter, top_of
from .values import OddSize, Quantiser, as_tensor, even_size

_FULL = frozenset(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name))

log = logging.getLogger(__name__)

OnFrame = Callable[[int, "int | None"], None]
"""Told the number of frames written so far and of all, None while that is unknown; 0 while a GIF's palette is made.
What it raises stops the work."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a clip is written."""

    format: str | None = None
    """A name from `offered()`; None takes the usual one for the file's suffix."""
    quality: int = DEFAULT_QUALITY
    """0 (small file) to 100 (every detail); 80 is crf 18 for h264."""
    multiplier: int = 1
    """The frame rate is multiplied by it: 2 after an interpolator that doubled the frames."""
    ping_pong: bool = False
    fade: int = 0
    """So many frames at the end fade into the beginning, for a seamless loop."""
    plays: int = 0
    """How often it plays. Animated pictures: 0 for ever. Videos hold it so many times; 0 and 1 are once."""
    odd_size: OddSize = "pad"
    dither: Dither = "sierra2_4a"
    """For gif."""
    audio_length: Length = "trim and pad"


@dataclass(frozen=True, kw_only=True)
class Written:
    """What became of a clip. `path` is a file, or a folder for pictures; `messages` tell what was changed."""

    path: Path
    format: Format
    frames: int
    fps: Fraction
    width: int
    height: int
    messages: tuple[str, ...] = ()


class Writer(Protocol):
    """Takes arrays h w 3 or h w 4 one by one."""

    def add(self, values: np.ndarray) -> None: ...

    def finish(self) -> None: ...

    def abort(self) -> None: ...


def write_video(
    path: str | Path,
    frames: Iterable[Frame],
    *,
    fps: float | str | Fraction,
    options: Options = Options(),
    audio: Audio | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes frames h w 3 (or 4), float in 0..1 or uint8, and returns the path; see `write`."""
    return write(path, frames, fps=fps, options=options, audio=audio, metadata=metadata, overwrite=overwrite).path


def write(
    path: str | Path,
    frames: Iterable[Frame],
    *,
    fps: float | str | Fraction,
    options: Options = Options(),
    audio: Audio | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_frame: OnFrame | None = None,
) -> Written:
    """Writes a clip to `path`, one frame in memory at a time.

    frames: a tensor or array f h w c, a list, or any iterator of frames h w 3 or h w 4, float in 0..1 or uint8.
    fps: frames per second before `options.multiplier`; a number, or text like "24000/1001".
    metadata: values are stored as JSON under their keys, strings as they are.

    The file has its name only when it is complete; another file of that name is never replaced unless `overwrite` is
    set (a folder of pictures replaces nothing), and a name that was taken meanwhile gets `-2` added. Raises UserError
    for what cannot be written and when the disk is full; nothing is left behind then.
    """
    form = _format(path, options)
    rate = frame_rate(fps) * _checked(options, form)
    if rate > form.max_fps:
        raise UserError(f"{form.name} plays at most {form.max_fps} frames per second, not {float(rate):g}.")
    plays = max(1, options.plays) if form.kind in ("stream", "png") else 1
    ordered, count = arranged(frames, ping_pong=options.ping_pong, fade=options.fade, plays=plays)
    if audio is not None and form.audio and options.audio_length == "trim video":
        most = audio.frames(rate)
        ordered, count = islice(ordered, most), count and min(count, most)
    job = _Job(form, options, rate, as_text(metadata or {}), audio)
    with _explained(job), placed(path, overwrite=overwrite, folder=form.kind == "png") as place:
        survey = _again(frames, options, on_frame, count) if form.kind == "gif" else None
        written = job.run(place.part, ordered, count, survey, on_frame)
    for message in job.messages:
        log.info("%s: %s", place.final.name, message)
    height, width = job.size
    return Written(
        path=place.final,
        format=form,
        frames=written,
        fps=rate,
        width=width,
        height=height,
        messages=tuple(job.messages),
    )


class _Job:
    """One clip on its way into one file."""

    def __init__(
        self, form: Format, options: Options, rate: Fraction, texts: Mapping[str, str], audio: Audio | None
    ) -> None:
        self.form, self.options, self.rate, self.texts, self.audio = form, options, rate, texts, audio
        self.size = (0, 0)
        self.messages: list[str] = []

    def run(
        self,
        part: Path,
        ordered: Iterator[Frame],
        count: int | None,
        survey: Iterator[Frame] | None,
        on_frame: OnFrame | None,
    ) -> int:
        """Writes all frames to `part` and returns their number."""
        first = next(ordered, None)
        if first is None:
            raise UserError("There are no frames to write. Connect at least one.")
        quantise, alpha = self._prepare(first)
        surveyed = None if survey is None else map(self._prepare(first)[0], survey)
        done = 0
        writer = self._writer(part, alpha, surveyed)
        try:
            for frame in chain([first], ordered):
                writer.add(quantise(frame))
                done += 1
                if on_frame is not None:
                    on_frame(done, count)
            writer.finish()
        except BaseException:
            writer.abort()
            raise
        if quantise.broken:
            self.messages.append(
                f"{quantise.broken} frames hold values that are not numbers; they were written as black."
            )
        return done

    def _prepare(self, first: Frame) -> tuple[Quantiser, bool]:
        """What turns frames into numbers, and whether their transparency is kept."""
        height, width, channels = as_tensor(first).shape
        self.messages.clear()
        self.size = even_size(height, width, even=self.form.even, odd=self.options.odd_size)
        if self.size != (height, width):
            self.messages.append(
                f"{width}x{height} was {'padd' if self.options.odd_size == 'pad' else 'cropp'}ed to "
                f"{self.size[1]}x{self.size[0]}: {self.form.name} needs even sizes."
            )
        least, most = self.form.min_side, self.form.max_side
        if min(self.size) < least or max(self.size) > most:
            raise UserError(
                f"{self.form.name} takes {least} to {most} pixels a side, not {width}x{height}. Resize it, or choose "
                "another format."
            )
        alpha = channels == 4 and self.form.alpha is not None
        if channels == 4 and not alpha:
            self.messages.append(
                f"{self.form.name} keeps no transparency; the colours were written as they are. For "
                "transparency choose webm vp9, mov prores 4444, mkv ffv1, webp, apng, png or gif."
            )
        if self.audio is not None and not self._sound():
            self.messages.append(f"{self.form.name} holds no sound here; it was left out.")
        return Quantiser(self.size, 4 if alpha else 3, top_of(self.form)), alpha

    def _sound(self) -> bool:
        return bool(self.form.audio) and self.form.audio in require_av().codecs_available

    def _writer(self, part: Path, alpha: bool, survey: Iterator[np.ndarray] | None) -> Writer:
        form, options = self.form, self.options
        common: dict[str, Any] = {"size": self.size, "alpha": alpha, "texts": self.texts}
        if form.kind == "png":
            return PngWriter(part, form, **common)
        common["rate"] = self.rate
        if form.kind == "apng":
            return ApngWriter(part, form, plays=options.plays, **common)
        common["quality"] = options.quality
        if form.kind == "webp":
            return WebpWriter(part, form, plays=options.plays, **common)
        if form.kind == "gif":
            return GifWriter(part, form, plays=options.plays, dither=options.dither, survey=survey, **common)
        audio = (self.audio, options.audio_length) if self.audio is not None and self._sound() else None
        writer = StreamWriter(part, form, audio=audio, **common)
        if writer.track is not None and writer.track.message:
            self.messages.append(writer.track.message)
        return writer


@contextlib.contextmanager
def _explained(job: _Job) -> Iterator[None]:
    """A full disk and an encoder's refusal become a UserError; everything else stays what it is."""
    try:
        yield
    except (OSError, ValueError) as error:
        number: int | None = getattr(error, "errno", None)
        if number is not None and number in _FULL:
            raise UserError(
                f"There is no room for the whole file ({os.strerror(number)}); what was written of it has been "
                "removed. Make space, or choose another folder or a lower quality."
            ) from error
        if not type(error).__module__.startswith("av") or number in (errno.EIO, errno.EROFS, errno.EACCES):
            raise
        raise UserError(
            f"The encoder of {job.form.name} refused a video of {job.size[1]}x{job.size[0]} ({error}). "
            "Try another size or format."
        ) from error


def _format(path: str | Path, options: Options) -> Format:
    form = format_of(path) if options.format is None else find_format(options.format)
    suffix = Path(path).suffix.lower()
    if form.suffix and suffix != form.suffix and not (form.kind == "apng" and suffix == ".apng"):
        raise UserError(f"{form.name} is written to files that end with {form.suffix}, not to {str(path)!r}.")
    return form


def _checked(options: Options, form: Format) -> int:
    """The multiplier, after a look at everything that is wrong before any work."""
    if not 0 <= options.quality <= 100:
        raise UserError(f"The quality is {options.quality}; it must be 0 to 100, and {DEFAULT_QUALITY} is good.")
    if options.multiplier < 1:
        raise UserError(f"The frame rate multiplier is {options.multiplier}; it must be at least 1.")
    if options.plays < 0:
        raise UserError(f"The loop count is {options.plays}; it must be 0 or more.")
    check_length(options.audio_length)
    return options.multiplier


def _again(
    frames: Iterable[Frame], options: Options, on_frame: OnFrame | None, count: int | None
) -> Iterator[Frame] | None:
    """The arranged frames once more, where they can be had twice; `on_frame` is told that none is written yet."""
    if not isinstance(frames, Clip):
        return None

    def told() -> Iterator[Frame]:
        for frame in arranged(frames, ping_pong=options.ping_pong, fade=options.fade, plays=1)[0]:
            if on_frame is not None:
                on_frame(0, count)
            yield frame

    return told()
