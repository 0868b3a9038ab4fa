"""The pictures that ToonCrafter's decoder looks at: they travel in the LATENT, through the sampler to the decoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..vc_core.errors import UserError
from ..vc_core.frames.fitting import fit_ends
from .conditioning import checked_pictures
from .host.vae import decode_clip

KEY = "videocrafter_references"
"""Key of a LATENT: a `Row`."""


@dataclass(frozen=True, eq=False)
class Row:
    """Pictures h w 3 in 0..1 that a clip goes through, and the frames from one to the next, both included; 0 says that
    one way is as long as the clip."""

    pictures: tuple[Tensor, ...]
    frames: int = 0


def with_row(latent: Mapping[str, Any], pictures: Sequence[Tensor], frames: int) -> dict[str, Any]:
    """The LATENT with the pictures that its clip goes through."""
    return {**latent, KEY: Row(tuple(pictures), frames if len(pictures) > 2 else 0)}


def row_of(latent: Mapping[str, Any]) -> Row:
    """What the LATENT carries. Raises UserError where it carries no pictures."""
    row = latent.get(KEY)
    if not isinstance(row, Row):
        raise UserError(
            "This VAE (ToonCrafter's) looks at the pictures at the clip's ends, and the latent brings none along. "
            "Connect the latent of VideoCrafter Picture to Video to the sampler, with this VAE connected there, or the "
            "two pictures to references; VAE Decode decodes without them, less sharply."
        )
    return row


def given_row(pictures: Tensor) -> Row:
    """The pictures of an IMAGE b h w c: one or two. Raises UserError for more."""
    if pictures.ndim == 4 and len(pictures) > 2:
        raise UserError(
            f"references holds {len(pictures)} pictures; it takes two, of the clip's beginning and of its end, or one "
            "for both. Choose them with Image From Batch and Batch Images."
        )
    return Row(tuple(checked_pictures(pictures)))


def decoded_ways(latents: Tensor, vae: Any, row: Row) -> Iterator[Tensor]:
    """The frames of way after way, each h w 3, of latents f c h w: every way is decoded at once, between its pictures.
    The frame where two ways meet is the first of the later one.

    Raises UserError where a row of several ways has another number of frames than the latent.
    """
    ways = max(1, len(row.pictures) - 1)
    step = row.frames - 1 if row.frames else len(latents)
    if row.frames and len(latents) != ways * step + 1:
        raise UserError(
            f"The latent has {len(latents)} frames, but its {len(row.pictures)} key frames make {ways * step + 1}. "
            "Decode it as the sampler gives it, and cut the frames afterwards."
        )
    height, width = (8 * side for side in latents.shape[2:])
    for way in range(ways):
        clip = latents[way * step :][: row.frames or len(latents)]
        frames = decode_clip(vae, clip, fit_ends(row.pictures[way : way + 2], height, width))
        yield frames if way == ways - 1 else frames[:-1]
