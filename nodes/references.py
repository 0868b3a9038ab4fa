"""The reference images of ToonCrafter's decoder, which travel in the LATENT through the sampler to the decoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..vc_core.errors import UserError
from ..vc_core.frames.fitting import fit_ends
from .conditioning import checked_images
from .host.vae import decode_clip

KEY = "videocrafter_references"
"""Key of a LATENT: `References`."""


@dataclass(frozen=True, eq=False)
class References:
    """The images of a clip, in order.

    images: h w 3 in 0..1; with more than two, each pair of neighbours is the two ends of a section.
    frames: length of a section, including both ends; 0 for a single section as long as the clip.
    """

    images: tuple[Tensor, ...]
    frames: int = 0


def with_references(latent: Mapping[str, Any], images: Sequence[Tensor], frames: int) -> dict[str, Any]:
    """A copy of the LATENT with the images of its clip."""
    return {**latent, KEY: References(tuple(images), frames if len(images) > 2 else 0)}


def references_of(latent: Mapping[str, Any]) -> References:
    """The reference images in the LATENT. Raises UserError if it has none."""
    references = latent.get(KEY)
    if not isinstance(references, References):
        raise UserError(
            "ToonCrafter's VAE decodes with the first and the last image of the clip as references, but the latent "
            "contains no images. Sample the latent of VideoCrafter Image to Video, with this VAE connected to that "
            "node, or connect the two images to references. VAE Decode decodes without references, less sharply."
        )
    return references


def given_references(images: Tensor) -> References:
    """The reference images in an IMAGE b h w c: one or two. Raises UserError for more."""
    if images.ndim == 4 and len(images) > 2:
        raise UserError(
            f"references contains {len(images)} images, but at most two are allowed: the first and the last of the "
            "clip, or one image for both. Select them with Image From Batch and Batch Images."
        )
    return References(tuple(checked_images(images)))


def decode_sections(latents: Tensor, vae: Any, references: References) -> Iterator[Tensor]:
    """Decodes latents f c h w section by section, each with its own two reference images; yields frames f h w 3.

    The frame that two sections share is decoded with the later one.

    Raises UserError if the number of frames does not match that of the sections.
    """
    sections = max(1, len(references.images) - 1)
    step = references.frames - 1 if references.frames else len(latents)
    if references.frames and len(latents) != sections * step + 1:
        raise UserError(
            f"The latent has {len(latents)} frames, but its {len(references.images)} key frames need "
            f"{sections * step + 1}. Decode the latent exactly as the sampler outputs it, and cut afterwards."
        )
    height, width = (8 * side for side in latents.shape[2:])
    for index in range(sections):
        clip = latents[index * step :][: references.frames or len(latents)]
        frames = decode_clip(vae, clip, fit_ends(references.images[index : index + 2], height, width))
        yield frames if index == sections - 1 else frames[:-1]
