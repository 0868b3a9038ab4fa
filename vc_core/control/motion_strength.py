"""Motion strength: how much temporal attention adds, by stage, level, frame and mask, and Enhance-A-Video
(arXiv:2502.07508)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..network.adapter import Adapter
from ..network.adapters.motion import CrossFrameEnhancement, Strengths, TemporalStrength
from ..parameters import Kind, about
from .attachment import Attachment, Scene
from .control import Control

MOST = 4.0
STAGE = "0 to 4, times the strength, in the {} layers of the network"


@dataclass(frozen=True, kw_only=True)
class MotionStrength(Control):
    """Scales what temporal attention adds."""

    name = "motion_strength"
    title = "Motion Strength"
    summary = "scales how much frames take from each other: over the whole network, by level, over time, inside a mask"
    use = "more or less motion, a still region, motion that sets in slowly, Enhance-A-Video"
    models = "all models"
    search = ("motion scale", "multival", "temporal attention", "enhance a video", "more motion", "flicker")

    strength: float = field(
        default=1.0,
        metadata=about(
            "0 to 4: 1 as trained; from 0.7 to 1.3 changes the motion, 0 keeps frames from attending to each other and "
            "large values break the image",
            low=0,
            high=MOST,
        ),
    )
    temperature: float = field(
        default=0.0,
        metadata=about(
            "0 to 16, of Enhance-A-Video: where frames look at each other much, they count for more. 0 is off; 1 to 4 "
            "are usual",
            low=0,
            high=16,
        ),
    )
    encoder: float = field(default=1.0, metadata=about(STAGE.format("encoder"), low=0, high=MOST))
    middle: float = field(default=1.0, metadata=about(STAGE.format("middle"), low=0, high=MOST))
    decoder: float = field(default=1.0, metadata=about(STAGE.format("decoder"), low=0, high=MOST))
    levels: str = field(
        default="",
        metadata=about(
            "factors of the resolution levels, from the finest to the coarsest, for example 1, 1, 0.5; levels without "
            "one have 1. Coarse levels move whole objects, fine ones their details"
        ),
    )
    over_time: str = field(
        default="",
        metadata=about(
            "factors over time, evenly spaced from the first frame to the last with straight lines in between, for "
            "example 0, 1 for motion that sets in slowly"
        ),
    )
    mask: Tensor | None = field(
        default=None,
        metadata=about(
            "where the strength acts: fully where it is white, not where it is black; one for all frames or one for "
            "each, of any size. The temperature acts everywhere",
            kind=Kind.MASK,
        ),
    )

    @property
    def is_timed(self) -> bool:
        return bool(self.over_time.strip()) or (self.mask is not None and len(self.mask) > 1)

    def check(self, scene: Scene) -> None:
        levels = factors_of("levels", self.levels)
        known = len(scene.spec.unet.channel_mult)
        if len(levels) > known:
            raise UserError(
                f"The levels of {self.title} are {len(levels)}, but {scene.spec.name} has {known}. Give at most "
                f"{known} numbers."
            )
        factors_of("over_time", self.over_time)
        if self.mask is not None and len(self.mask) not in (1, scene.frames):
            raise UserError(
                f"The mask of {self.title} has {len(self.mask)} frames, but the clip has {scene.frames}. Give one for "
                "all frames, or one for each."
            )

    def attach(self, scene: Scene, weights: nn.Module | None) -> Attachment:
        del weights
        strengths = self.strengths(scene)
        adapters: list[Adapter] = []
        if not strengths.plain:
            adapters.append(TemporalStrength(strengths, scene.spec.unet))
        if self.temperature:
            adapters.append(CrossFrameEnhancement(self.temperature))
        return Attachment(adapters=tuple(adapters))

    def strengths(self, scene: Scene) -> Strengths:
        """The factors of a scene."""
        over_time = factors_of("over_time", self.over_time)
        return Strengths(
            everywhere=self.strength,
            stages={"input": self.encoder, "middle": self.middle, "output": self.decoder},
            levels=factors_of("levels", self.levels),
            frames=over_frames(over_time, scene.frames).to(scene.device) if over_time else None,
            mask=None if self.mask is None else self.mask.to(scene.device),
        )


def factors_of(name: str, text: str) -> tuple[float, ...]:
    """The numbers in a text, separated by commas. Raises UserError for anything else, and for numbers out of range."""
    try:
        numbers = tuple(float(number) for number in text.split(",")) if text.strip() else ()
    except ValueError as error:
        raise UserError(
            f"The {name} of {MotionStrength.title} are {text!r}; give numbers separated by commas, such as 1, 0.5."
        ) from error
    for number in numbers:
        if not (math.isfinite(number) and 0 <= number <= MOST):
            raise UserError(f"The {name} of {MotionStrength.title} have {number:g}; each should be 0 to {MOST:g}.")
    return numbers


def over_frames(factors: Sequence[float], frames: int) -> Tensor:
    """A factor for each frame, f, of factors that are evenly spaced from the first frame to the last."""
    if len(factors) == 1:
        return torch.full((frames,), factors[0])
    return F.interpolate(torch.tensor(factors)[None, None], frames, mode="linear", align_corners=True)[0, 0]
