"""A row of key frames in the host: a CONDITIONING that holds the images of every section."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..vc_core.errors import UserError
from ..vc_core.long.keyframes import KeyFrames
from .host.model import KEY_FRAMES

Conditioning = list[tuple[Any, dict[str, Any]]]
FRAMES, SECTIONS = "frames", "ways"
"""Keys of a row in the CONDITIONING."""


def length(images: int, frames: int, *, loop: bool) -> int:
    """Frames of the latent: those of the video, and for a loop the last one, which is the first again. One image alone
    makes a clip of `frames`."""
    if images == 1:
        return frames + int(loop)
    return KeyFrames(sections=images - (not loop), frames=frames).length


def with_sections(conditioning: Conditioning, sections: Sequence[Mapping[str, Any]], frames: int) -> Conditioning:
    """The conditioning of a row: what each section adds to it, and how many frames a section has."""
    row = {SECTIONS: [dict(section) for section in sections], FRAMES: frames}
    return [(text, {**values, KEY_FRAMES: row}) for text, values in conditioning]


def of_section(values: dict[str, Any], number: int) -> dict[str, Any]:
    """The values of a conditioning for one section; those of a plain clip stay as they are."""
    if KEY_FRAMES not in values:
        return values
    plain = {key: value for key, value in values.items() if key != KEY_FRAMES}
    return {**plain, **values[KEY_FRAMES][SECTIONS][number]}


def has_row(conditionings: Iterable[Conditioning | None]) -> bool:
    """Whether the conditionings of a run hold a row of key frames. Raises UserError where they differ."""
    return _row(conditionings) is not None


def row_of(conditionings: Iterable[Conditioning | None], latents: Tensor, mask: Tensor | None) -> KeyFrames | None:
    """The row of key frames that the conditionings of a run hold, if any.

    Raises UserError where they differ, for a noise mask, and for a latent of another length than the row.
    """
    row = _row(conditionings)
    if row is None:
        return None
    if mask is not None:
        raise UserError("A noise mask is not supported with a row of key frames: leave the mask out.")
    if latents.shape[0] != row.length:
        raise UserError(
            f"The latent has {latents.shape[0]} frames, but this row of key frames makes {row.length}: {row.sections} "
            f"sections of {row.frames} frames whose ends they share. Connect the latent that VideoCrafter Picture to "
            "Video returns."
        )
    return row


def _row(conditionings: Iterable[Conditioning | None]) -> KeyFrames | None:
    found = [values.get(KEY_FRAMES) for each in conditionings if each is not None for _, values in each]
    rows = {None if row is None else KeyFrames(sections=len(row[SECTIONS]), frames=row[FRAMES]) for row in found}
    if len(rows) > 1:
        raise UserError(
            "Only some of the conditionings hold the row of key frames. Connect positive, negative and, if it is used, "
            "picture_only of the same VideoCrafter Image to Video."
        )
    return rows.pop() if rows else None
