"""What a network is conditioned on beside the noised latents, and which of a run's evaluations of it is meant.

Shapes use `b` clips, `f` frames, `n` tokens of width `d`, and `c h w` for the channels and the grid of a latent.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

ROLE = "role"
"""The key of a field's `Role` in its metadata."""


@dataclass(frozen=True, kw_only=True)
class Role:
    """How a field of `Conditioning` is joined, cut to a window and moved. Its first axis is always that of the clips.

    label: what error messages call the field.
    joined: whether conditionings that share a pass are concatenated in this field, along the first axis. Otherwise the
        field has to be the same in all of them.
    cast: whether the field takes the network's data type. Otherwise it keeps its own.
    frame_axis: the axis of the frames, for a tensor of `ndim` axes; a tensor of another number of axes, or of another
        number of frames than the clip, applies to all frames. None for a field that never has such an axis.
    """

    label: str
    joined: bool
    cast: bool
    frame_axis: int | None = None
    ndim: int = 0

    @property
    def grid(self) -> bool:
        """Whether the field is a latent of the clip's size."""
        return self.ndim == 5

    def over_frames(self, tensor: Tensor) -> int | None:
        """The axis of the frames in this tensor; None where it applies to all frames."""
        return self.frame_axis if tensor.ndim == self.ndim else None


def tokens(label: str) -> dict[str, Role]:
    """Metadata of tokens for cross-attention, b n d, or b f n d where each frame has its own."""
    return {ROLE: Role(label=label, joined=True, cast=True, frame_axis=1, ndim=4)}


def latent(label: str) -> dict[str, Role]:
    """Metadata of a latent of the clip's size, b c f h w."""
    return {ROLE: Role(label=label, joined=False, cast=True, frame_axis=2, ndim=5)}


def number(label: str) -> dict[str, Role]:
    """Metadata of a number for each clip, b; in float32, whatever the network's data type is."""
    return {ROLE: Role(label=label, joined=False, cast=False)}


@dataclass(frozen=True, eq=False)
class Conditioning:
    """The conditioning of a batch of clips. Each field states its `Role`; everything here is derived from the roles.

    text: b n d, or b f n d with a text for each frame.
    image: image tokens, b m d, or b f m d; None for text-to-video models.
    fps: b, the frames per second of the motion; None for the network's default.
    concat: b c f h w, the latent that is concatenated to the noised one (DynamiCrafter), or None.
    guidance, motion: b, guidance scales for networks that have an embedding of them (T2V-Turbo), or None.
    early_text: as text, in its place in the first half of the network in some of the steps (FreeNoise), or None.
    """

    text: Tensor = field(metadata=tokens("text"))
    image: Tensor | None = field(default=None, metadata=tokens("image"))
    fps: Tensor | None = field(default=None, metadata=number("fps"))
    concat: Tensor | None = field(default=None, metadata=latent("image latent"))
    guidance: Tensor | None = field(default=None, metadata=number("guidance scale"))
    motion: Tensor | None = field(default=None, metadata=number("motion guidance"))
    early_text: Tensor | None = field(default=None, metadata=tokens("early text"))

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are given, by name."""
        found = {name: getattr(self, name) for name in roles(type(self))}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def of_frames(self, index: Sequence[int], frames: int) -> Conditioning:
        """The conditioning of the frames `index`, from 0, of a clip of `frames`: what is given for each frame is cut,
        everything else stays as it is."""
        known = roles(type(self))
        cut: dict[str, Any] = {}
        for name, tensor in self.tensors().items():
            axis = known[name].over_frames(tensor)
            if axis is not None and tensor.shape[axis] == frames:
                cut[name] = tensor[(slice(None),) * axis + (list(index),)]
        return replace(self, **cut)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """The conditioning on a device; fields that are cast also get the data type."""
        known = roles(type(self))
        moved: dict[str, Any] = {
            name: tensor.to(device=device, dtype=dtype if known[name].cast else None)
            for name, tensor in self.tensors().items()
        }
        return replace(self, **moved)

    @staticmethod
    def joined(parts: Sequence[Conditioning]) -> Conditioning | None:
        """k conditionings of the same b clips as one for a shared pass: (k b) n d, all clips of the first, then all of
        the second. None where they differ in a field that cannot be joined, or in shape."""
        changed: dict[str, Any] = {}
        for name, role in roles(type(parts[0])).items():
            given = [getattr(part, name) for part in parts]
            if not _can_share(role, given):
                return None
            if role.joined and given[0] is not None:
                changed[name] = torch.cat(given)
        return replace(parts[0], **changed)

    @staticmethod
    def batched(parts: Sequence[Conditioning]) -> Conditioning:
        """Conditionings of one clip each as that of a batch of clips. A field has to be given in all of them or in
        none."""
        given = [part.tensors() for part in parts]
        batch: dict[str, Any] = {name: torch.cat([tensors[name] for tensors in given]) for name in given[0]}
        return replace(parts[0], **batch)


def roles(kind: type[Conditioning]) -> dict[str, Role]:
    """The role of each field. Raises TypeError for a field that states none."""
    missing = [one.name for one in fields(kind) if not isinstance(one.metadata.get(ROLE), Role)]
    if missing:
        raise TypeError(
            f"{kind.__name__} does not state how {', '.join(missing)} should be joined, cut to frames and cast; give "
            "each field the metadata of a `Role`."
        )
    return {one.name: one.metadata[ROLE] for one in fields(kind)}


def _can_share(role: Role, given: Sequence[Tensor | None]) -> bool:
    """Whether conditionings with these tensors in a field can share a pass."""
    if not role.joined:
        return all(_equal(given[0], other) for other in given[1:])
    return len({None if tensor is None else tensor.shape for tensor in given}) == 1


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


@dataclass(frozen=True)
class Branch:
    """One of the predictions that guidance combines.

    conditioning: the name of its conditioning: "positive", "negative", "image_only" or another.
    temporal: False keeps frames from attending to each other.
    without: the names of the controls that do not act on it.
    """

    conditioning: str
    temporal: bool = True
    without: frozenset[str] = frozenset()


POSITIVE, NEGATIVE, IMAGE_ONLY = Branch("positive"), Branch("negative"), Branch("image_only")
"""The prompt (with its image), the negative prompt, and the image with an empty prompt."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Which evaluation of a model this is.

    branches: what it computes; several, which differ in their conditioning alone, where they share a pass.
    step, steps: the sampling step, from 0, and how many the whole schedule has; None where that is not known.
    window: the frames, from 0, of the longer clip that this is about; None for whole clips.
    """

    branches: tuple[Branch, ...] = (POSITIVE,)
    step: int | None = None
    steps: int | None = None
    window: tuple[int, ...] | None = None

    @property
    def temporal(self) -> bool:
        """Whether frames attend to each other."""
        return self.branches[0].temporal

    @property
    def without(self) -> frozenset[str]:
        """The names of the controls that do not act, which are the same for all branches of a pass."""
        return self.branches[0].without

    @property
    def left(self) -> int | None:
        """How many steps follow this one; None where that is not known."""
        return None if self.step is None or self.steps is None else self.steps - 1 - self.step

    @property
    def key(self) -> Hashable:
        """What is the same in every step: by this, caches recognize an evaluation."""
        return self.branches, self.window


SINGLE = Evaluation()
"""A single evaluation of the positive branch, outside of a run."""
