"""A video through key frames: a clip from each to the next, joined so that no frame is in the video twice.

Each section is a clip between two images (DynamiCrafter, best its model for interpolation, or ToonCrafter); its last
frame is the first of the next. A closed row returns from the last key frame to the first: it loops without a seam.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..errors import UserError
from .engine import SEEDS, Clip, Engine, Part

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class KeyFrames:
    """sections: clips from one key frame to the next. frames: of each, both ends included, 2 or more. closed: the last
    section ends with the first key frame, which is then left out."""

    sections: int
    frames: int
    closed: bool = False

    def __post_init__(self) -> None:
        if self.sections < 1 or self.frames < 2:
            keys = self.sections if self.closed else self.sections + 1
            raise UserError(
                f"{keys} key frames with {self.frames} frames from one to the next were asked for; give 2 or more of "
                "both."
            )

    @property
    def length(self) -> int:
        """Frames of the whole video."""
        return self.sections * (self.frames - 1) + (not self.closed)

    def check_prompts(self, count: int) -> None:
        """Raises UserError for more prompts than sections."""
        if count > self.sections:
            raise UserError(
                f"{count} prompts were given for {self.sections} sections from one key frame to the next: give one for "
                "each, or one for all."
            )

    def run(self, engine: Engine) -> Iterator[Part]:
        """The sections, part after part. The seed rises by one from each to the next; the last prompt stays in use."""
        for number in range(self.sections):
            clip = Clip(
                frames=self.frames,
                seed=(engine.seed + number) % SEEDS,
                number=number,
                first=number * (self.frames - 1),
                scene=min(number, engine.prompts - 1),
            )
            last = number == self.sections - 1 and not self.closed
            yield Part(latents=engine.make(clip), number=number, keep=None if last else self.frames - 1)


def pairs(row: Sequence[Item], *, closed: bool) -> list[tuple[Item, Item]]:
    """Where each section begins and ends."""
    ends = [*row[1:], row[0]] if closed else row[1:]
    return list(zip(row, ends, strict=False))
