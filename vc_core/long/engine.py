"""What a method asks for, a clip or a program inside a run, and the engine that samples it.

Engines are vc_core's pipeline (`long.video`) and a MODEL of ComfyUI; methods know neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..denoising import Level, NoiseSchedule, NoiseSource, Source
from ..denoising.fifo import Estimator
from ..specs import Windows

SEEDS = 2**64
"""Seeds are 0 to one less; behind the last, those of later clips continue from 0."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Clip:
    """One clip that a method asks for.

    number: of the clip, from 0. first: the frame of the video, from 0, that it begins with. frames: its length.
    seed: 0 to 2^64 - 1. scene: the number of its prompt, from 0; None for all prompts, spread over the clip.
    noise: b c f h w, standard normal, in place of that of the seed; it is not rescheduled.
    source: latents to hold by a mask, as `denoising.Source`; None for what the video itself starts from.
    image: latents b c 1 h w of the image that the clip continues, for models that do so; None for the video's own.
    """

    frames: int
    seed: int
    number: int = 0
    first: int = 0
    scene: int | None = None
    noise: Tensor | None = None
    source: Source | None = None
    image: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Part:
    """Finished latents, b c f h w, of which the first `keep` frames belong to the video; None keeps all. number: of the
    clip, from 0."""

    latents: Tensor
    number: int = 0
    keep: int | None = None


class Session(Protocol):
    """A network at work, for programs that call it frame by frame. Latents have the scale of the autoencoder's spec."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule of the model."""

    @property
    def seed(self) -> int:
        """The seed of the run, 0 to 2^64 - 1."""

    def opening(self) -> Tensor:
        """Samples the first clip of the video, b c f h w."""

    def estimator(self) -> Estimator:
        """The guided network, for frames of different noise levels."""


Program = Callable[[Session], Iterator[Tensor]]
"""Yields finished frames, b c h w, one after the other."""


class Engine(Protocol):
    """What samples the clips of one video. Latents are b c f h w, at a scale of the engine's own."""

    @property
    def frames(self) -> int:
        """Frames of the whole video."""

    @property
    def shape(self) -> Sequence[int]:
        """b c f h w of the whole video's latents."""

    @property
    def seed(self) -> int:
        """0 to 2^64 - 1."""

    @property
    def prompts(self) -> int:
        """How many prompts follow one another, 1 or more."""

    @property
    def blends_prompts(self) -> bool:
        """Whether each frame has its own text."""

    @property
    def continues_images(self) -> bool:
        """Whether the model continues the image that it is given."""

    @property
    def steps(self) -> int:
        """Steps of a run from noise alone."""

    @property
    def rescheduling(self) -> Windows | None:
        """The windows by which the first noise is rescheduled, if it is."""

    def first_level(self) -> Level:
        """The noise level at which a run from noise alone begins. Raises UserError for models without a schedule."""

    def noise(self, seed: int) -> NoiseSource:
        """The stream of a seed, behind what the latents of a clip's images take from it."""

    def make(self, clip: Clip) -> Tensor:
        """Samples a clip."""

    def scaled(self, latents: Tensor) -> Tensor:
        """Latents at the scale of the autoencoder's spec, in float32."""

    def within(self, program: Program, *, opening: int, turns: int) -> Iterator[Tensor]:
        """Runs a program inside a run of the network. opening: frames of the session's first clip. turns: steps that
        the program takes after it, for progress."""
