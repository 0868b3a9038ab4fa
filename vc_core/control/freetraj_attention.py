"""FreeTraj's attention guidance (arXiv:2406.16863): an object is drawn to its box in every attention of the network.

Logits between a token inside of an object's box and one outside of it are multiplied by a small factor, over the pixels
of a frame and over the frames of a pixel. No map is held for that: for the queries of one side, the keys of the other
side are multiplied instead. In attention to the text, pixels outside of the boxes do not see the words of the objects.
Inside, all tokens have the same probability, and the words of the object have a bump over the box in addition.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..network.adapter import Adapter, Attend, Place, Site
from .freetraj_path import Path, object_map

DAMPING = 0.01
STRENGTH = 0.25


@dataclass(frozen=True)
class Subject:
    """An object: its path, and which tokens of the text, from 0, name it."""

    path: Path
    tokens: tuple[int, ...]


def bump(height: int, width: int) -> Tensor:
    """height width, float16: a Gaussian over a box of cells, with a maximum of 1."""
    axes = []
    for size in (height, width):
        place = torch.linspace(0, size, size, dtype=torch.float64)
        axes.append((place - size // 2) ** 2 / (2 * (size / 3) ** 2))
    found = torch.exp(-(axes[0][:, None] + axes[1][None]))
    return (found / found.max()).half()


class BoxMaps:
    """Where objects are on the feature maps of a clip, in the order of an attention's tokens; made once for each grid.

    strength: as in `BoxAttention`.
    """

    def __init__(self, subjects: Sequence[Subject], strength: float) -> None:
        self.subjects, self.strength = subjects, strength
        self.known: dict[Hashable, Tensor] = {}
        self.present: dict[tuple[int, int], tuple[int, ...]] = {}

    def objects(self, at: Place, like: Tensor) -> Tensor:
        """rows tokens 1, uint8: the number of the object that a token is inside of, from 1, or 0."""
        return self._tokens("objects", at, like)

    def weights(self, at: Place, like: Tensor) -> Tensor:
        """rows tokens 1: the probability that is added to each word of the object that a token is inside of."""
        return self._tokens("weights", at, like).to(like.dtype)

    def numbers(self, grid: tuple[int, int]) -> tuple[int, ...]:
        """Which objects, and 0 for none, are anywhere on a grid."""
        if grid not in self.present:
            self.present[grid] = tuple(self._object_map(grid).unique().tolist())
        return self.present[grid]

    def _tokens(self, what: str, at: Place, like: Tensor) -> Tensor:
        window, part, span = at.evaluation.window, _ends(at.part), _ends(at.span)
        key = (what, _over_time(at), at.grid, at.frames, window, part, span, like.device)
        if key not in self.known:
            make = self._object_map if what == "objects" else self._weight_map
            self.known[key] = _in_order(make(at.grid), at)[..., None].to(like.device)
        found = self.known[key]
        return found.repeat(len(like) // len(found), 1, 1)

    def _object_map(self, grid: tuple[int, int]) -> Tensor:
        return object_map([subject.path for subject in self.subjects], *grid)

    def _weight_map(self, grid: tuple[int, int]) -> Tensor:
        """f h w; rounded to float16 as in the reference, and float32."""
        found = torch.zeros(len(self.subjects[0].path.corners), *grid)
        for subject in self.subjects:
            path = subject.path
            share = self.strength / (path.height * path.width) / len(subject.tokens)
            for frame, cells in zip(found, path.cells(*grid), strict=True):
                weights = bump(cells.height, cells.width) * share
                frame[cells.seen(*grid)] = weights[cells.part(*grid)].float()
        return found


def _ends(part: slice | None) -> tuple[int, int] | None:
    return None if part is None else (part.start, part.stop)


def _over_time(at: Place) -> bool:
    return at.attention in ("temporal_1", "temporal_2")


def _in_order(values: Tensor, at: Place) -> Tensor:
    """Values f h w of a clip, for the tokens of one clip that are present: f (h w), or over time (h w) f. Raises
    UserError where they are for another number of frames."""
    if at.evaluation.window is not None:
        values = values[list(at.evaluation.window)]
    if len(values) != at.frames:
        raise UserError(
            f"FreeTraj was given a path for {len(values)} frames, but the clip has {at.frames}. Make the path for the "
            "number of frames of the clip."
        )
    if not _over_time(at):
        values = values.flatten(1)
        if at.part is None:
            return values
        first = at.part.start % at.frames
        return values[first : first + at.part.stop - at.part.start]
    values = values if at.part is None else values[:, at.part]
    values = values.flatten(1).T
    return values if at.span is None else values[:, at.span]


class BoxAttention(Adapter):
    """Guides the attention in the first `steps` steps, in all branches. The paths are those of whole clips, and all
    clips of a batch have the same.

    damping: what logits between the inside and the outside of a box are multiplied by, 0..1.
    strength: the probability that is added to an object's words, in relation to the area of the box.
    """

    def __init__(
        self, subjects: Sequence[Subject], *, steps: int, damping: float = DAMPING, strength: float = STRENGTH
    ) -> None:
        self.subjects, self.damping = tuple(subjects), damping
        self.steps: int | None = steps
        self.maps = BoxMaps(self.subjects, strength)

    def uses(self, site: Site, at: Place) -> bool:
        return at.attention != "image" and at.relative == (site == "attention_logits")

    def attention(
        self, at: Place, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        if at.attention == "text":
            return self._to_text(at, attend, (q, k, v), mask)
        objects = self.maps.objects(at, q)
        if objects.shape[1] != q.shape[1]:
            raise UserError(
                "FreeTraj is not supported with nodes that divide or merge pixels for attention, such as HyperTile and "
                "Token Merging (ToMe): it needs all pixels of a frame at once. Leave one of the two out."
            )
        out = torch.zeros_like(q)
        for number in self.maps.numbers(at.grid):
            same = objects == number
            out = torch.where(same, attend(q, torch.where(same, k, self.damping * k), v, mask), out)
        return out

    def attention_logits(self, at: Place, logits: Tensor) -> Tensor:
        objects = self.maps.objects(at, logits[:: at.heads])  # (b p) f 1
        same = (objects == objects.transpose(1, 2)).repeat_interleave(at.heads, dim=0)
        return torch.where(same, logits, self.damping * logits)

    def _to_text(self, at: Place, attend: Attend, tokens: tuple[Tensor, Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """The attention of pixels to the text."""
        q, k, v = tokens
        objects, weights = self.maps.objects(at, q), self.maps.weights(at, q)
        hidden = self._hidden(k)
        out = attend(q, k, v, hidden if mask is None else mask + hidden)
        for number, subject in enumerate(self.subjects, start=1):
            words = v[:, list(subject.tokens)].sum(1, keepdim=True)
            out = torch.where(objects == number, v.mean(1, keepdim=True) + weights * words, out)
        return out

    def _hidden(self, k: Tensor) -> Tensor:
        """A mask 1 1 1 n that hides the words of all objects."""
        named = sorted({token for subject in self.subjects for token in subject.tokens})
        if named[-1] >= k.shape[1]:
            raise UserError(
                f"FreeTraj was given words up to token {named[-1]} of the prompt, but the text has {k.shape[1]} "
                "tokens. Name words of the prompt that is encoded."
            )
        mask = k.new_zeros(1, 1, 1, k.shape[1])
        mask[..., named] = float("-inf")
        return mask
