"""A row of key frames in the host: a CONDITIONING that knows every way from a picture to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..vc_core.errors import UserError
from ..vc_core.keyframes import length as core_length
from .host.model import KEY_FRAMES

Conditioning = list[tuple[Any, dict[str, Any]]]
FRAMES = "frames"


def length(pictures: int, frames: int, *, loop: bool) -> int:
    """Frames of the latent: those of the video, and for a loop the last one, which is the first again. One picture
    alone makes a clip of `frames`."""
    if pictures == 1:
        return frames + int(loop)
    return core_length(pictures, frames, closed=loop) + int(loop)


def with_ways(conditioning: Conditioning, ways: Sequence[Mapping[str, Any]], frames: int) -> Conditioning:
    """The conditioning of a row: what each way adds to it, and how many frames a way has."""
    row = {"ways": [dict(way) for way in ways], FRAMES: frames}
    return [(text, {**told, KEY_FRAMES: row}) for text, told in conditioning]


def ways_of(conditionings: Sequence[Conditioning | None]) -> int:
    """How many ways the conditionings of a run hold; 0 for a plain clip. Raises UserError where they differ."""
    rows = [told.get(KEY_FRAMES) for each in conditionings if each is not None for _, told in each]
    counts = {0 if row is None else len(row["ways"]) for row in rows}
    if len(counts) > 1:
        raise UserError(
            "Only some of the conditionings hold the row of key frames. Connect positive, negative and, if it is used, "
            "picture_only of the same VideoCrafter Picture to Video."
        )
    return counts.pop() if counts else 0


def along(
    make: Callable[..., Tensor],
    told: Mapping[str, Conditioning | None],
    latents: Tensor,
    mask: Tensor | None,
    seed: int,
) -> Tensor:
    """The ways one after the other, as `vc_core.keyframes` joins them: latents f c h w without doubled frames.

    make: (where a clip starts, its noise mask, its seed, conditionings by name) -> the clip.
    Raises UserError for a noise mask, and for a latent of another length than the row.
    """
    positive = told["positive"]
    assert positive  # a row was found in it
    row = positive[0][1][KEY_FRAMES]
    ways, frames = len(row["ways"]), row[FRAMES]
    wanted = ways * (frames - 1) + 1
    if mask is not None:
        raise UserError("A row of key frames does not go together with a noise mask: leave the mask out.")
    if latents.shape[0] != wanted:
        raise UserError(
            f"The latent has {latents.shape[0]} frames, but this row of key frames makes {wanted}: {ways} ways of "
            f"{frames} frames whose ends they share. Connect the latent that VideoCrafter Picture to Video gives."
        )
    parts = []
    for way in range(ways):
        start = latents[way * (frames - 1) :][:frames]
        chosen = {name: None if each is None else _of_way(each, way, frames) for name, each in told.items()}
        clip = make(start, None, (seed + way) % 2**64, chosen)
        parts.append(clip if way == ways - 1 else clip[:-1])
    return torch.cat(parts)


def _of_way(conditioning: Conditioning, way: int, frames: int) -> Conditioning:
    """What one way adds to the conditioning; of a text for each frame, those of its own frames."""
    first = way * (frames - 1)
    return [
        (
            text[first : first + frames] if text.shape[0] > 1 else text,
            {**{key: value for key, value in told.items() if key != KEY_FRAMES}, **told[KEY_FRAMES]["ways"][way]},
        )
        for text, told in conditioning
    ]
