"""ToonCrafter's sketch guidance (arXiv:2405.17933): what frames show follows line drawings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError
from ..frames.fitting import FITS, Fit, fit
from ..network.adapters.sketch import SketchEncoder, SketchResiduals
from ..parameters import Kind, about
from ..specs import UNetSpec
from .attachment import NOTHING, Attachment, Scene
from .control import WeightedControl

DARK, LIGHT = "dark on light", "light on dark"
LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the grey of an image (ITU-R BT.601)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sketch(WeightedControl):
    """Guides frames by sketches."""

    name = "sketch"
    title = "Sketch"
    summary = "guides frames by sketches"
    use = "drawings between two key frames: a sketch for every frame, or for some of them"
    models = "ToonCrafter"
    part = "sketch_encoder"
    folder = "controlnet"
    search = ("tooncrafter", "sketch", "line art", "drawing", "controlnet", "inbetween")

    images: tuple[Tensor, ...] = field(
        default=(),
        metadata=about(
            "the sketches, of any size: one for each frame in order, or one for each of the frames named in frames",
            kind=Kind.IMAGES,
            required=True,
        ),
    )
    frames: str = field(
        default="",
        metadata=about(
            "the frames of the sketches, from 0, in the order of the sketches; -1 is the last, as in '4, 8, -1'; empty "
            "for a sketch for each frame"
        ),
    )
    strength: float = field(
        default=0.6, metadata=about("how closely sketches are followed; 0 is off, and 0.6 is usual", low=0, high=2)
    )
    strengths: str = field(
        default="",
        metadata=about(
            "factors of the strength over time, as frame:factor, with a linear change in between, as in '0:1, 15:0.3'; "
            "empty is 1 for all frames"
        ),
    )
    lines: str = field(
        default=DARK,
        metadata=about(
            f"how the sketches are drawn: '{DARK}' as on paper, which is inverted, or '{LIGHT}', as line art detectors "
            "draw",
            choices=(DARK, LIGHT),
        ),
    )
    fit: Fit = field(
        default="crop",
        metadata=about(
            "how sketches of another shape are fitted to the clip; choose the same as for the images", choices=FITS
        ),
    )

    conflicts = {"sketch": "one Sketch holds the sketches of all frames"}

    def check(self, scene: Scene) -> None:
        if not (scene.spec.continues_images and scene.spec.reads_images):
            raise UserError(
                f"Sketches guide ToonCrafter, and {scene.spec.name} is another kind of model. Load ToonCrafter, or "
                "leave Sketch out."
            )
        self.sketched(scene.frames)
        self.factors(scene.frames)

    def sketched(self, frames: int) -> list[int]:
        """The frames, from 0, of a clip of `frames` that the sketches are for. Raises UserError for frames that do not
        exist, and for another number of them than of sketches."""
        count = len(self.images)
        if not self.frames.strip():
            if count not in (0, frames):
                raise UserError(
                    f"There are {count} sketches for a clip of {frames} frames. Give one for each frame, or say in "
                    "frames which frames they are for, for example '0, 8, -1'."
                )
            return list(range(count))
        found = [_frame(word, frames) for word in _words(self.frames)]
        if len(found) != count:
            raise UserError(
                f"frames names {len(found)} frames, but there are {count} sketches. Name one frame for each sketch."
            )
        if len(set(found)) < count:
            raise UserError(f"frames is {self.frames!r}, which names a frame twice. Give each frame one sketch.")
        return found

    def factors(self, frames: int) -> list[float]:
        """The factor of the strength of each frame. Raises UserError for what cannot be read as such."""
        given: dict[int, float] = {}
        for word in _words(self.strengths):
            place, colon, factor = word.partition(":")
            if not colon:
                raise _unreadable_factors(word)
            given[_frame(place, frames)] = _factor(factor, word)
        if not given:
            return [1.0] * frames
        places = sorted(given)
        values = np.interp(range(frames), places, [given[place] for place in places])
        return [float(value) for value in values]

    def attach(self, scene: Scene, weights: nn.Module | None) -> Attachment:
        assert isinstance(weights, SketchEncoder)
        factors, sketched = self.factors(scene.frames), self.sketched(scene.frames)
        strengths = [0.0] * scene.frames
        for frame in sketched:
            strengths[frame] = self.strength * factors[frame]
        if not any(strengths):
            return NOTHING
        check_base(weights, scene.spec.unet)
        sketches = torch.zeros(scene.frames, 1, scene.height, scene.width)
        for frame, image in zip(sketched, self.images, strict=True):
            sketches[frame, 0] = line_art(image, scene.height, scene.width, invert=self.lines == DARK, how=self.fit)
        return Attachment(adapters=(SketchResiduals(weights, sketches.to(scene.device), strengths),))


def line_art(image: Tensor, height: int, width: int, *, invert: bool, how: Fit = "crop") -> Tensor:
    """An image h w 3 in 0..1 of any size as the sketch encoder reads it: height width in 0..1, light lines on black.
    invert: the lines are dark on light. Bars around an image that is padded have no lines."""
    grey = (image.float() * image.new_tensor(LUMA)).sum(-1, keepdim=True)
    lines = (1 - grey if invert else grey).clamp(0, 1)
    return fit(lines.expand(-1, -1, 3), height, width, how, scaling="smooth")[..., 0]


def check_base(weights: SketchEncoder, unet: UNetSpec) -> None:
    """Raises UserError for a sketch encoder whose residuals do not fit the UNet."""
    names = ("model_channels", "channel_mult", "num_res_blocks", "context_dim")
    wrong = [
        f"{name} is {getattr(weights.spec, name)} in the file and {getattr(unet, name)} in the model"
        for name in names
        if getattr(weights.spec, name) != getattr(unet, name)
    ]
    if wrong:
        raise UserError(
            f"The sketch encoder does not fit this model: {'; '.join(wrong)}. The published one, sketch_encoder.ckpt, "
            "belongs to ToonCrafter."
        )


def _words(text: str) -> Sequence[str]:
    return text.replace(",", " ").split()


def _frame(word: str, frames: int) -> int:
    """The number of a frame, from 0; negative ones count from the end."""
    try:
        frame = int(word)
    except ValueError:
        raise UserError(
            f"{word!r} is not the number of a frame; write numbers from 0, for example '0, 8, -1'."
        ) from None
    if not -frames <= frame < frames:
        raise UserError(
            f"There is no frame {frame} in a clip of {frames} frames; they are numbered from 0 to {frames - 1}, and -1 "
            "is the last."
        )
    return frame % frames


def _factor(text: str, word: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _unreadable_factors(word) from None
    if not 0 <= value <= 10:
        raise UserError(f"strengths has the factor {value:g}; it should be from 0 to 10.")
    return value


def _unreadable_factors(word: str) -> UserError:
    return UserError(
        f"strengths has {word!r}, which is not a frame and a factor with a colon between them. Write for example "
        "'0:1, 15:0.3'."
    )
