"""What a long-video method is: a record of its parameters, of what it is for, and of what it does not support.

A method is written once, in a file of its own, and is a row of the table `long.METHODS`. Python, the command line, the
nodes and the documentation read everything about it from its record.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, TypeVar

from ..denoising import Level
from ..denoising.freeinit import check_first
from ..denoising.windows import ContextWindows
from ..errors import UserError
from ..features import Feature, Use
from ..specs import ModelSpec, Windows
from .engine import Engine, Part
from .rounds import in_rounds

__all__ = ["Feature", "Method", "OneClip", "Parameter", "Strided", "Use", "Video", "Windowed", "about"]


@dataclass(frozen=True, kw_only=True)
class Video:
    """What a method is checked against before work starts.

    frames: of the whole video. prompts: how many follow one another. spec: None for models of another kind.
    first: the first noise level of a run from noise alone. option, rounds_option: what the front end calls the
    choice of a method and the rounds of FreeInit. uses: the features that are in use.
    """

    frames: int
    first: Callable[[], Level]
    prompts: int = 1
    spec: ModelSpec | None = None
    option: str = "the method"
    rounds_option: str = "free_init"
    uses: Mapping[Feature, Use] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a method, as front ends show it. choices: the only values, for text."""

    name: str
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def kind(self) -> type:
        """int, float or str."""
        return type(self.default)

    def check(self, value: Any, method: str) -> None:
        """Raises UserError for a value out of range."""
        if self.choices:
            if value not in self.choices:
                raise UserError(
                    f"The {self.name} of {method} is {value!r}; it should be one of {', '.join(self.choices)}."
                )
        elif not (self.low or 0) <= value <= (self.high if self.high is not None else value):
            upper = "or more" if self.high is None else f"to {self.high:g}"
            raise UserError(f"The {self.name} of {method} is {value:g}; it should be {self.low or 0:g} {upper}.")


def about(
    text: str, *, low: float | None = None, high: float | None = None, choices: Sequence[str] = ()
) -> dict[str, Any]:
    """The metadata of a field that users set: what it means, and its range or its choices. Without a low it is 0."""
    return {"help": text, "low": low, "high": high, "choices": tuple(choices)}


M = TypeVar("M", bound="Method")
W = TypeVar("W", bound="Windowed")
S = TypeVar("S", bound="Strided")


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """How a video is sampled. The fields are the parameters; the description is in attributes of the class.

    name: as users choose it. summary: what it does, in a line. use: what it is for. memory, time: what it costs, for
    tables; the time is per frame, relative to clips of the trained length.
    eta: the share of fresh noise that suits it, 0..1; None for the model's own.
    conflicts: the features that it does not support, and why.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    use: ClassVar[str]
    memory: ClassVar[str]
    time: ClassVar[str]
    eta: ClassVar[float | None] = None
    conflicts: ClassVar[Mapping[Feature, str]] = {}

    def __post_init__(self) -> None:
        for item in self.parameters():
            item.check(getattr(self, item.name), self.name)

    @classmethod
    def parameters(cls) -> tuple[Parameter, ...]:
        """The parameters, in the order in which they are shown."""
        return tuple(Parameter(name=item.name, default=item.default, **item.metadata) for item in fields(cls))

    def settled(self: M, trained: int) -> M:
        """With what the model decides filled in; `trained` is the number of frames that it was trained on."""
        del trained
        return self

    def is_plain(self, frames: int) -> bool:
        """Whether a video of this many frames is the plain clip, before rounds of FreeInit."""
        del frames
        return True

    def windows(self) -> Windows | ContextWindows | None:
        """The windows in which the network runs, if any."""
        return None

    def check(self, video: Video) -> None:
        """Raises UserError where the video cannot be made by this method; features are checked by `long.table`."""

    @abstractmethod
    def run(self, engine: Engine) -> Iterator[Part]:
        """The video, part after part, each as soon as nothing changes it any more."""


@dataclass(frozen=True, kw_only=True)
class OneClip(Method):
    """A video that is sampled as one clip, perhaps in several rounds.

    round_conflicts: the features that further rounds do not support, and why.
    """

    round_conflicts: ClassVar[Mapping[Feature, str]] = {
        Feature.SOURCE: "its rounds start from noise",
        Feature.MASK: "its rounds start from noise",
        Feature.KEY_FRAMES: "each section between key frames is a clip of its own",
        Feature.ANALYTIC_INIT: "its rounds have a first noise of their own",
        Feature.NOISE_ROUNDS: "both begin each round with a noise of their own",
    }

    free_init: int = field(
        default=0,
        metadata=about(
            "further rounds of FreeInit, each from the low frequencies of the last result: steadier frames, and "
            "as many times longer; its authors use 2 to 4, 0 is off",
            high=10,
        ),
    )

    def check(self, video: Video) -> None:
        if self.free_init:
            check_first(video.first())

    def run(self, engine: Engine) -> Iterator[Part]:
        yield Part(latents=in_rounds(engine, self.free_init))


@dataclass(frozen=True, kw_only=True)
class Windowed(Method):
    """A method whose network sees a window of frames. Videos of one window or less are the plain clip."""

    window: int = field(
        default=0,
        metadata=about(
            "frames that the network sees at once; 0 is the number that the model was trained on, which works best",
            high=256,
        ),
    )

    def settled(self: W, trained: int) -> W:
        return self if self.window else replace(self, window=trained)

    def is_plain(self, frames: int) -> bool:
        return frames <= self.window


STRIDE = (
    "frames from one window to the next, 1 to the window's size: smaller is smoother and slower, larger is faster and "
    "shows the borders of windows sooner"
)


@dataclass(frozen=True, kw_only=True)
class Strided(OneClip, Windowed):
    """One clip, in windows that begin every `stride` frames."""

    stride: int = field(default=8, metadata=about(STRIDE, low=1, high=256))

    def settled(self: S, trained: int) -> S:
        return self if self.window else replace(self, window=trained, stride=min(self.stride, trained))
