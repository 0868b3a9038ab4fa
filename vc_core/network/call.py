"""What a caller states about one pass of the video UNet, and what every block of the pass receives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..conditions import SINGLE, Evaluation
from ..specs import Windows
from .adapter import Adapter, Adapters, Function, Place, Site, Stage, wrapped


@dataclass(frozen=True, eq=False)
class Deep:
    """Deep features of an earlier pass, in place of the blocks that computed them (arXiv:2312.00858).

    shallow: how many of the first encoder blocks and of the last decoder blocks run, 1 or more.
    features: (b f) c h w, the input of the first of those decoder blocks; see `adapters.deep.KeepDeep`.
    """

    shallow: int
    features: Tensor


@dataclass(frozen=True, eq=False)
class Pass:
    """How one pass is computed, beside its conditioning.

    evaluation: which step and which branches of guidance this is. Where it is not temporal, every frame attends to
        itself alone in temporal attention.
    windows: temporal attention in windows, for clips longer than the network was trained on.
    adapters: in the order in which they act, see `network.adapter`.
    deep: features to continue from; only the outermost blocks run then.
    """

    evaluation: Evaluation = SINGLE
    windows: Windows | None = None
    adapters: tuple[Adapter, ...] = ()
    deep: Deep | None = None

    @property
    def acting(self) -> tuple[Adapter, ...]:
        """The adapters that take part in this pass."""
        return tuple(each for each in self.adapters if each.acts(self.evaluation))


PLAIN = Pass()


@dataclass(frozen=True, eq=False)
class Call:
    """What every block of one pass receives beside the feature map.

    rows: the rows (b f) of the feature map before the first text.
    copies: the conditionings of each clip; behind the first text the map has `copies` times as many rows.
    size: height and width that an Upsample should return.
    shifts: what ResBlocks add to their maps, m c each, where it is computed for all of them at once: the embedding, and
        the embedding plus the bias of the first convolution.
    """

    emb: Tensor  # b d, or (b f) d, behind a SiLU
    text: Tensor  # b n d, or (b f) n d; of all conditionings
    image: Tensor | None  # b m d, or (b f) m d; of all conditionings
    rows: int
    copies: int
    run: Pass
    adapters: Adapters
    place: Place
    size: torch.Size | None = None
    shifts: Mapping[nn.Module, tuple[Tensor, ...]] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return self.place.frames

    @property
    def all_rows(self) -> int:
        """Rows of the feature map behind the first text."""
        return self.copies * self.rows

    @property
    def clips(self) -> int:
        """The number of parts of `all_rows` equal rows each of which has a text and image tokens of its own."""
        return math.gcd(len(self.text), self.all_rows if self.image is None else len(self.image))

    def for_clips(self, rows: Tensor, h: Tensor) -> Tensor:
        """Rows as those of `emb` for the clips in h, which are one for each conditioning from the first text on."""
        return rows if h.shape[0] == self.rows else repeated(rows, self.copies * len(rows))

    def within(self, **where: Any) -> Call:
        """This call at a more precise place."""
        return replace(self, place=replace(self.place, **where))

    def entering(self, stage: Stage, index: int, count: int, size: torch.Size | None = None) -> Call:
        """The call of a block that is about to run. Only adapters read the place of a block."""
        if not self.adapters.placed:
            return self if size is self.size else replace(self, size=size)
        call = replace(self, place=replace(self.place, stage=stage, index=index, count=count), size=size)
        for notice in call.at("on_block"):
            notice()
        return call

    def noted(self, **where: Any) -> Call:
        """As `within`, for what only adapters read."""
        return self.within(**where) if self.adapters.placed else self

    def of_frames(self, clip: int, span: slice) -> Call:
        """The call for some frames of one of the `clips`."""

        def of(tokens: Tensor) -> Tensor:
            return tokens[span] if len(tokens) == self.all_rows else tokens[clip : clip + 1]

        return replace(
            self,
            text=of(self.text),
            image=None if self.image is None else of(self.image),
            rows=span.stop - span.start,
            copies=1,
            place=replace(self.place, part=span),
        )

    def at(self, site: Site, **where: Any) -> list[Callable[..., Any]]:
        """What adapters do at a site, in order."""
        return self.adapters.at(site, self.place, **where)

    def changed(self, site: Site, x: Tensor, **where: Any) -> Tensor:
        """x as adapters return it."""
        for change in self.at(site, **where):
            x = change(x)
        return x

    def around(self, site: Site, function: Function, **where: Any) -> Function:
        """`function`, wrapped by adapters."""
        return wrapped(function, self.at(site, **where))


def repeated(x: Tensor, rows: int) -> Tensor:
    """x, over and over until it has so many rows."""
    return x if len(x) == rows else torch.cat([x] * (rows // len(x)))
