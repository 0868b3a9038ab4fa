"""The audio track: cut or padded to the length of the video, and written together with the frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .formats import require_av

Length = Literal["trim and pad", "trim", "pad", "keep", "trim video"]
LENGTHS: tuple[Length, ...] = ("trim and pad", "trim", "pad", "keep", "trim video")
"""What to do if audio and video differ in length: cut the audio, pad it with silence, both or neither; or cut the
video at the end of the audio."""
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
_RATES = {
    "aac": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000),
    "libopus": (48000,),
}
_SAMPLES = {"aac": "fltp", "libopus": "flt", "flac": "s16", "pcm_s16le": "s16"}
_BITS_PER_SECOND = 192_000
_CHUNK = 1024


@dataclass(frozen=True)
class Audio:
    """`waveform`: channels samples, float in -1..1; `rate`: samples per second."""

    waveform: Tensor
    rate: int

    def __post_init__(self) -> None:
        if self.waveform.ndim != 2 or self.waveform.shape[0] == 0:
            raise UserError(f"The audio has the shape {tuple(self.waveform.shape)}; it must be (channels, samples).")
        if not 1000 <= self.rate <= 768_000:
            raise UserError(f"The sample rate is {self.rate} Hz; it must be between 1000 and 768000.")

    def frames(self, rate: Fraction) -> int:
        """Number of video frames that cover the audio, at `rate` frames per second."""
        return max(1, math.ceil(self.waveform.shape[1] * rate / self.rate))


def check_length(length: str) -> None:
    if length not in LENGTHS:
        raise UserError(f"audio_length is {length!r}; it must be one of {', '.join(LENGTHS)}.")


class AudioTrack:
    """The audio stream of an open container. Call `write_until` as the video grows, then `finish`."""

    def __init__(self, container: Any, encoder: str, audio: Audio, length: str) -> None:
        channels = audio.waveform.shape[0]
        self.channels = channels if channels in _LAYOUTS else min(channels, 2)
        self.waveform, self.rate, self.length = audio.waveform, audio.rate, length
        self.container = container
        self.stream = container.add_stream(encoder, rate=_nearest(audio.rate, _RATES.get(encoder)))
        self.stream.codec_context.layout = _LAYOUTS[self.channels]
        self.stream.codec_context.format = _SAMPLES[encoder]
        if encoder in ("aac", "libopus"):
            self.stream.codec_context.bit_rate = _BITS_PER_SECOND * max(1, self.channels) // 2
        av = require_av()
        self.resampler = av.AudioResampler(
            format=_SAMPLES[encoder], layout=_LAYOUTS[self.channels], rate=self.stream.codec_context.sample_rate
        )
        self.done = 0  # samples, at the rate of the source

    @property
    def message(self) -> str:
        dropped = self.waveform.shape[0] - self.channels
        return f"{dropped} of {self.waveform.shape[0]} audio channels were dropped." if dropped else ""

    def write_until(self, seconds: Fraction) -> None:
        """Writes the audio up to that time. Silence is added only by `finish`."""
        self._write(min(int(seconds * self.rate), self.waveform.shape[1]))

    def finish(self, seconds: Fraction) -> None:
        """Writes the rest, for a video of that length."""
        end, wanted = self.waveform.shape[1], round(seconds * self.rate)
        if self.length in ("trim and pad", "trim", "trim video"):
            end = min(end, wanted)
        self._write(end)
        if self.length in ("trim and pad", "pad", "trim video"):
            self._silence(wanted - self.done)
        self._encode(None)

    def _write(self, end: int) -> None:
        while self.done < end:
            step = min(_CHUNK, end - self.done)
            part = self.waveform[: self.channels, self.done : self.done + step]
            self._push(torch.nan_to_num(part.detach().float().cpu()).clamp(-1.0, 1.0).numpy())

    def _silence(self, samples: int) -> None:
        while samples > 0:
            step = min(_CHUNK, samples)
            self._push(np.zeros((self.channels, step), dtype=np.float32))
            samples -= step

    def _push(self, values: np.ndarray) -> None:
        packed = np.ascontiguousarray(values.T).reshape(1, -1)  # PyAV does not accept eight planes
        frame = require_av().AudioFrame.from_ndarray(packed, format="flt", layout=_LAYOUTS[self.channels])
        frame.sample_rate = self.rate
        frame.time_base = Fraction(1, self.rate)
        frame.pts = self.done
        self.done += values.shape[1]
        self._encode(frame)

    def _encode(self, frame: Any | None) -> None:
        """Resamples, encodes and muxes a frame; None flushes resampler and encoder."""
        for part in self.resampler.resample(frame):
            for packet in self.stream.encode(part):
                self.container.mux(packet)
        if frame is None:
            for packet in self.stream.encode(None):
                self.container.mux(packet)


def _nearest(rate: int, allowed: tuple[int, ...] | None) -> int:
    """The lowest supported rate that is not below `rate`, otherwise the highest."""
    if allowed is None:
        return rate
    return min((other for other in allowed if other >= rate), default=allowed[-1])
