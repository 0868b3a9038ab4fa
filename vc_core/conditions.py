"""What the network is told beside the noised latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Conditioning:
    """One conditioning for a batch of clips.

    text: b n d, or b f n d with a text for each frame. image: b m d, or b f m d, or None for text-only models.
    fps: b, the frames per second that the motion should have, or None for the network's default.
    concat: b c f h w, the latent that stands beside the noised one (DynamiCrafter), or None.
    guidance, motion: b, guidance scales for networks that have an embedding of them (T2V-Turbo), or None.
    early_text: as text, in its place in the first half of the network in some of the steps (FreeNoise), or None.
    window: the frames, from 0, of a longer clip that this is about; None for whole clips.
    """

    text: Tensor
    image: Tensor | None = None
    fps: Tensor | None = None
    concat: Tensor | None = None
    guidance: Tensor | None = None
    motion: Tensor | None = None
    early_text: Tensor | None = None
    window: tuple[int, ...] | None = None


def join(parts: Sequence[Conditioning]) -> Conditioning | None:
    """Conditionings of the same clips as one, text and image one behind the other; None where they differ in more than
    that, or in shape."""
    first = parts[0]
    for name in ("fps", "concat", "guidance", "motion"):
        if any(not _equal(getattr(first, name), getattr(part, name)) for part in parts[1:]):
            return None
    joined: dict[str, Tensor | None] = {}
    for name in ("text", "image", "early_text"):
        given = [getattr(part, name) for part in parts]
        there = [tensor for tensor in given if tensor is not None]
        if there and (len(there) < len(parts) or any(tensor.shape != there[0].shape for tensor in there)):
            return None
        joined[name] = torch.cat(there) if there else None
    return replace(first, **joined)  # type: ignore[arg-type]


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))
