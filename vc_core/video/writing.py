"""Writes a clip to a file: arranges, quantises and encodes the frames, and names the file once it is complete."""

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
from ..files import Place, placed
from .arrange import Clip, Frame, arranged
from .audio import Audio, check_length
from .formats import DEFAULT_QUALITY, Format, find_format, format_of, require_av
from .gif import GifWriter
from .metadata import as_text
from .options import DEFAULTS, MOST_PLAYS, Encoding, Options
from .rate import frame_rate
from .still import ApngWriter, PngWriter, WebpWriter
from .stream import StreamWriter, top_of
from .values import Quantiser, as_tensor, even_size

_FULL = frozenset(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name))

log = logging.getLogger(__name__)

OnFrame = Callable[[int, "int | None"], None]
"""Called with the number of frames written so far (0 while the palette of a GIF is computed), and their total, or None
if it is unknown. An exception that it raises stops the work."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """The result, a file, or a folder for png; `messages` describe what had to be changed."""

    place: Place
    format: Format
    frames: int
    fps: Fraction
    width: int
    height: int
    messages: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Its name; until it has it (see `writing`), the name that it was given."""
        return self.place.final

    @property
    def bytes(self) -> int:
        """Its size, that of all its files together for a folder."""
        return bytes_of(self.place.part if self.place.part.exists() else self.path)


def bytes_of(path: Path) -> int:
    """The bytes of a file, or of the files in a folder."""
    return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else (path,)))


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error says that there is no space left."""
    return getattr(error, "errno", None) in _FULL


class Writer(Protocol):
    """Writes arrays h w 3 or h w 4 one by one."""

    def add(self, values: np.ndarray) -> None: ...

    def finish(self) -> None: ...

    def abort(self) -> None: ...


def write_video(
    path: str | Path,
    frames: Iterable[Frame],
    *,
    fps: float | str | Fraction,
    options: Options = DEFAULTS,
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
    options: Options = DEFAULTS,
    audio: Audio | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_frame: OnFrame | None = None,
) -> Written:
    """Writes a clip to `path`, with only one frame in memory at a time.

    frames: a tensor or array f h w c, a list, or any iterable of frames h w 3 or h w 4, float in 0..1 or uint8.
    fps: frames per second before `options.multiplier`; a number, or text such as "24000/1001".
    metadata: values are stored as JSON under their keys, strings unchanged.
    on_frame: progress callback.

    The file gets its name only once it is complete. An existing file is replaced only with `overwrite` (a folder of
    images never is); if the name is taken in the meantime, `-2` is appended. Raises UserError for invalid input and if
    the disk is full; no partial file remains.
    """
    with writing(
        path,
        frames,
        fps=fps,
        options=options,
        audio=audio,
        metadata=metadata,
        overwrite=overwrite,
        on_frame=on_frame,
    ) as written:
        return written


@contextlib.contextmanager
def writing(
    path: str | Path,
    frames: Iterable[Frame],
    *,
    fps: float | str | Fraction,
    options: Options = DEFAULTS,
    audio: Audio | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_frame: OnFrame | None = None,
) -> Iterator[Written]:
    """As `write`, with a complete file under a temporary name: it gets its own when the block ends, and is removed if
    the block fails."""
    target = _format(path, options)
    _check(options)
    rate = frame_rate(fps) * options.multiplier
    if rate > target.max_fps:
        raise UserError(f"{target.name} supports at most {target.max_fps} frames per second, not {float(rate):g}.")
    plays = max(1, options.plays) if target.kind in ("stream", "png") else 1
    ordered, count = arranged(frames, ping_pong=options.ping_pong, fade=options.fade, plays=plays)
    if audio is not None and target.audio and options.audio_length == "trim video":
        most = audio.frames(rate)
        ordered, count = islice(ordered, most), count and min(count, most)
    job = _Job(target, options, rate, as_text(metadata or {}), audio)
    with _explained(job), placed(path, overwrite=overwrite, folder=target.kind == "png") as place:
        preview = _preview(frames, options, on_frame, count) if target.kind == "gif" else None
        done = job.run(place.part, ordered, count, preview, on_frame)
        yield job.written(place, done)
    for message in job.messages:
        log.info("%s: %s", place.final.name, message)


class _Job:
    """Writes one clip to one file."""

    def __init__(
        self, target: Format, options: Options, rate: Fraction, texts: Mapping[str, str], audio: Audio | None
    ) -> None:
        self.format, self.options, self.rate, self.texts, self.audio = target, options, rate, texts, audio
        self.size = (0, 0)
        self.messages: list[str] = []

    def run(
        self,
        part: Path,
        ordered: Iterator[Frame],
        count: int | None,
        preview: Iterator[Frame] | None,
        on_frame: OnFrame | None,
    ) -> int:
        """Writes all frames to `part` and returns their number; `preview` yields them beforehand, for a GIF's
        palette."""
        first = next(ordered, None)
        if first is None:
            raise UserError("There are no frames to write; at least one is needed.")
        quantise, alpha = self._prepare(first)
        previewed = None if preview is None else map(self._prepare(first)[0], preview)
        done = 0
        writer = self._writer(part, alpha, previewed)
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
        if quantise.invalid:
            self.messages.append(f"{quantise.invalid} frames contain NaN values, which were written as black.")
        return done

    def written(self, place: Place, frames: int) -> Written:
        """The result: that number of frames, at a place."""
        height, width = self.size
        return Written(
            place=place,
            format=self.format,
            frames=frames,
            fps=self.rate,
            width=width,
            height=height,
            messages=tuple(self.messages),
        )

    def _prepare(self, first: Frame) -> tuple[Quantiser, bool]:
        """The quantiser for frames like the first, and whether their transparency is kept."""
        height, width, channels = as_tensor(first).shape
        self.messages.clear()
        self.size = self._fit_size(height, width)
        alpha = channels == 4 and self.format.alpha is not None
        if channels == 4 and not alpha:
            self.messages.append(
                f"{self.format.name} does not support transparency; it was ignored. For transparency choose webm vp9, "
                "mov prores 4444, mkv ffv1, webp, apng, png or gif."
            )
        if self.audio is not None and not self._supports_audio():
            self.messages.append(f"{self.format.name} does not support audio here; the audio was dropped.")
        return Quantiser(self.size, 4 if alpha else 3, top_of(self.format)), alpha

    def _fit_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width as the format needs them. Raises UserError if it does not support the size."""
        size = even_size(height, width, even=self.format.even, odd=self.options.odd_size)
        if size != (height, width):
            self.messages.append(
                f"{width}x{height} was {'padd' if self.options.odd_size == 'pad' else 'cropp'}ed to "
                f"{size[1]}x{size[0]}: {self.format.name} needs even sizes."
            )
        least, most = self.format.min_side, self.format.max_side
        if min(size) < least or max(size) > most:
            raise UserError(
                f"{self.format.name} supports {least} to {most} pixels per side, not {width}x{height}. Resize the "
                "frames, or choose another format."
            )
        return size

    def _supports_audio(self) -> bool:
        return bool(self.format.audio) and self.format.audio in require_av().codecs_available

    def _writer(self, part: Path, alpha: bool, preview: Iterator[np.ndarray] | None) -> Writer:
        encoding = Encoding(
            part=part,
            format=self.format,
            options=self.options,
            size=self.size,
            alpha=alpha,
            rate=self.rate,
            texts=self.texts,
        )
        if self.format.kind == "png":
            return PngWriter(encoding)
        if self.format.kind == "apng":
            return ApngWriter(encoding)
        if self.format.kind == "webp":
            return WebpWriter(encoding)
        if self.format.kind == "gif":
            return GifWriter(encoding, preview)
        writer = StreamWriter(encoding, self.audio if self._supports_audio() else None)
        if writer.track is not None and writer.track.message:
            self.messages.append(writer.track.message)
        return writer


@contextlib.contextmanager
def _explained(job: _Job) -> Iterator[None]:
    """Converts a full disk and an encoder's error into a UserError; other errors are raised unchanged."""
    try:
        yield
    except (OSError, ValueError) as error:
        number: int | None = getattr(error, "errno", None)
        if number is not None and is_disk_full(error):
            raise UserError(
                f"There is not enough space for the file ({os.strerror(number)}); the incomplete file has been "
                "removed. Free some space, or choose another folder or a lower quality."
            ) from error
        if not type(error).__module__.startswith("av") or number in (errno.EIO, errno.EROFS, errno.EACCES):
            raise
        raise UserError(
            f"The encoder of {job.format.name} rejected a video of {job.size[1]}x{job.size[0]} ({error}). Try another "
            "size or format."
        ) from error


def _format(path: str | Path, options: Options) -> Format:
    target = format_of(path) if options.format is None else find_format(options.format)
    suffix = Path(path).suffix.lower()
    if target.suffix and suffix != target.suffix and not (target.kind == "apng" and suffix == ".apng"):
        raise UserError(f"{target.name} needs a file name that ends in {target.suffix}, not {str(path)!r}.")
    return target


def _check(options: Options) -> None:
    """Raises UserError for options out of range."""
    if not 0 <= options.quality <= 100:
        raise UserError(
            f"The quality is {options.quality}; it must be between 0 and 100. The default is {DEFAULT_QUALITY}."
        )
    if options.multiplier < 1:
        raise UserError(f"The frame rate multiplier is {options.multiplier}; it must be at least 1.")
    if not 0 <= options.plays <= MOST_PLAYS:
        raise UserError(f"The loop count is {options.plays}; it must be between 0 and {MOST_PLAYS}.")
    check_length(options.audio_length)


def _preview(
    frames: Iterable[Frame], options: Options, on_frame: OnFrame | None, count: int | None
) -> Iterator[Frame] | None:
    """The arranged frames for a first pass, or None if they can be read only once. Reports 0 frames written."""
    if not isinstance(frames, Clip):
        return None

    def reported() -> Iterator[Frame]:
        for frame in arranged(frames, ping_pong=options.ping_pong, fade=options.fade, plays=1)[0]:
            if on_frame is not None:
                on_frame(0, count)
            yield frame

    return reported()
