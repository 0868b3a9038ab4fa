"""FreeTraj (arXiv:2406.16863): objects of the prompt follow boxes, without training."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from .. import bundled
from ..conditioning.tokenizer import END, START, tokenize
from ..denoising import NoiseSource
from ..denoising.sampling import Open
from ..errors import UserError
from ..parameters import Kind, about
from .attachment import Attachment, Scene
from .boxes import Canvas, paths_of
from .control import Control
from .freetraj_attention import DAMPING, STRENGTH, BoxAttention, Subject
from .freetraj_noise import with_paths, with_trace
from .freetraj_path import Path

HELP = (
    "where the object is: keyframes, a line each with frame, top, bottom, left, right in fractions of the image, of "
    "which later ones may be frame, top, left, with an empty line between objects; boxes in pixels, or tracks of the "
    "centers in pixels, of other nodes or as their JSON text"
)
AUTOMATIC = -1
SHARE = 0.12
"""The share of the steps that is guided: 6 of 50, as published."""
TRACE = 0.65
"""The strength of the trace for the bundled models."""


@dataclass(frozen=True, kw_only=True)
class FreeTraj(Control):
    """Moves objects of the prompt along boxes."""

    name = "freetraj"
    title = "FreeTraj"
    summary = "moves objects of the prompt along boxes, without further weights"
    use = "an object of the prompt that follows a box"
    models = "VideoCrafter1 and 2, T2V-Turbo"
    search = ("trajectory", "bounding box", "drag", "move object")
    wants_step = True
    conflicts = {
        "freetraj": "one FreeTraj moves several objects",
        "freqprior": "its rounds would take the boxes out of the noise",
    }

    words: str = field(
        default="",
        metadata=about(
            "the words that name the object, as they appear in the prompt; those of several objects are separated by "
            ";, in the order of their boxes",
            required=True,
        ),
    )
    boxes: str = field(default="", metadata=about(HELP, kind=Kind.BOXES, required=True))
    box_width: float = field(
        default=0.3, metadata=about("width of a box around a track, as a fraction of the image", low=0.01, high=1)
    )
    box_height: float = field(
        default=0.3, metadata=about("height of a box around a track, as a fraction of the image", low=0.01, high=1)
    )
    canvas: int = field(
        default=0,
        metadata=about(
            "width in pixels of the image that boxes or tracks in pixels were drawn on; 0 is that of the video",
            low=0,
            high=16384,
        ),
    )
    guided_steps: int = field(
        default=AUTOMATIC,
        metadata=about(
            "how many of the first steps guide the attention; more is stronger and costs quality. -1 is 12 % of the "
            "steps, 6 of 50 as published; 0 is off",
            low=AUTOMATIC,
            high=1000,
        ),
    )
    strength: float = field(
        default=STRENGTH,
        metadata=about("how strongly the words of an object act inside of its box; 0.25 as published", low=0, high=10),
    )
    damping: float = field(
        default=DAMPING,
        metadata=about(
            "what attention between the inside and the outside of a box is multiplied by; 0.01 as published, 1 is off",
            low=0,
            high=1,
        ),
    )
    noise: bool = field(
        default=True, metadata=about("whether the initial noise also moves along the boxes, as published")
    )
    trace: float = field(
        default=float(AUTOMATIC),
        metadata=about(
            "how much of a trace of the object the initial noise gets along its box, from a draft of 4 steps; not "
            "published. -1 is 0 (off), and for the bundled models, which do not follow boxes without it, 0.65; for one "
            "object",
            low=AUTOMATIC,
            high=2,
        ),
    )
    prompt: str = field(
        default="",
        metadata=about(
            "the prompt that the words are looked for in, where another node encodes it; otherwise leave it empty",
            kind=Kind.DOCUMENT,
        ),
    )

    def check(self, scene: Scene) -> None:
        self.subjects(scene)

    def attach(self, scene: Scene, weights: nn.Module | None) -> Attachment:
        del weights
        subjects, steps = self.subjects(scene), self.steps_of(scene)
        adapter = BoxAttention(subjects, steps=steps, damping=self.damping, strength=self.strength)
        paths, trace = [subject.path for subject in subjects], self.trace_of(scene)
        return Attachment(
            adapters=(adapter,) if steps else (),
            noise=partial(_begin, paths, self.noise, trace) if self.noise or trace else None,
        )

    def trace_of(self, scene: Scene) -> float:
        """The strength of the trace, which only one object has."""
        if self.trace != AUTOMATIC:
            return self.trace
        return TRACE if scene.spec.name.startswith(bundled.NAMES) and ";" not in self.words else 0.0

    def steps_of(self, scene: Scene) -> int:
        """How many steps are guided, at least one where the number is left to the model."""
        if self.guided_steps == AUTOMATIC:
            return max(1, round(SHARE * scene.steps))
        return self.guided_steps

    def subjects(self, scene: Scene) -> list[Subject]:
        """The objects with their paths and tokens. Raises UserError for words that the prompt does not have, and for
        another number of boxes."""
        names, paths = [name.strip() for name in self.words.split(";") if name.strip()], self.paths(scene)
        if not names or len(names) != len(paths):
            raise UserError(
                f"FreeTraj was given words for {len(names)} objects and boxes for {len(paths)}. Give for each object "
                "the words that name it in the prompt (those of several are separated by ;), and its boxes."
            )
        prompts = [spoken(self.prompt)] if self.prompt.strip() else list(scene.prompts)
        if not prompts:
            raise UserError("FreeTraj looks for words in the prompt. Give it the prompt that is encoded, too.")
        if len(names) > 1 and self.trace > 0:
            raise UserError(f"The trace of FreeTraj is {self.trace:g}, but it is for one object. Set it to 0.")
        return [
            Subject(path, tokens_of(name, prompts, scene.tokenize)) for path, name in zip(paths, names, strict=True)
        ]

    def paths(self, scene: Scene) -> list[Path]:
        """The path of each object."""
        width = self.canvas or scene.width
        canvas = Canvas(
            frames=scene.frames,
            width=width,
            height=width * scene.height / scene.width,
            box=(self.box_height, self.box_width),
        )
        return paths_of(self.boxes, canvas)


def _begin(
    paths: Sequence[Path], moving: bool, trace: float, noise: Tensor, source: NoiseSource, opening: Open
) -> Tensor:
    """The initial noise with what moves along the paths; `trace` is for a single one."""
    out = with_paths(paths, noise, source) if moving else noise
    return with_trace(paths[0], trace, out, opening().draft(noise)) if trace else out


def spoken(prompt: str) -> str:
    """A prompt without the weights that ComfyUI reads: (word:1.2) is word."""
    plain = re.sub(r"(?<!\\)[()]", "", re.sub(r":\s*[\d.]+\s*(?=\))", "", prompt))
    return plain.replace("\\(", "(").replace("\\)", ")")


Tokenize = Callable[[Sequence[str]], Tensor]
"""prompts -> tokens b n, with start and end tokens"""


def tokens_of(words: str, prompts: Sequence[str], tokenize: Tokenize = tokenize) -> tuple[int, ...]:
    """Which tokens of the text, from 0 with the start token, are these words, wherever they occur. Raises UserError
    where a prompt lacks them, and where they appear in other places than in the first prompt."""
    wanted = _row(words, tokenize)
    found = [_places(wanted, _row(prompt, tokenize)) for prompt in prompts]
    for prompt, places in zip(prompts, found, strict=True):
        if not places:
            raise UserError(
                f"The prompt {prompt[:80]!r} does not have the words {words!r}, which FreeTraj was given. Write them "
                "as they appear in the prompt, among its first 75 tokens."
            )
        if places != found[0]:
            raise UserError(
                f"The words {words!r} appear in different places of the prompts {prompts[0][:60]!r} and "
                f"{prompt[:60]!r}. For FreeTraj, write the prompts so that they appear in the same place."
            )
    return found[0]


def _row(text: str, tokenize: Tokenize) -> list[int]:
    """The tokens of a text, between the start token and the end token."""
    row: list[int] = tokenize([text])[0].tolist()
    return row[row.index(START) + 1 : row.index(END)]


def _places(wanted: Sequence[int], row: Sequence[int]) -> tuple[int, ...]:
    """The tokens of `row`, counted with the start token before it, that belong to an occurrence of `wanted`."""
    size = len(wanted)
    starts = [start for start in range(len(row) - size + 1) if list(row[start : start + size]) == list(wanted)]
    return tuple(sorted({1 + start + number for start in starts for number in range(size)})) if size else ()
