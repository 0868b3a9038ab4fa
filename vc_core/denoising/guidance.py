"""Guidance: turns a model and its two conditionings into one prediction per call."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..conditions import Conditioning, join
from ..errors import UserError

Predictor = Callable[[Tensor, Tensor], Tensor]
"""(x: b c f h w, timestep: b) -> what the model predicts, of the shape and type of x."""


class Model(Protocol):
    """A network behind its conditioning."""

    def __call__(self, x: Tensor, timestep: Tensor, conditioning: Conditioning, /, *, temporal: bool = True) -> Tensor:
        """(x: b c f h w, timestep: b float) -> eps or v: b c f h w; `temporal=False` lets frames not see each other.

        Asked for passes `together`, the conditioning holds text and image of several for each clip, and so does the
        result, (k b) c f h w: all clips for the first conditioning, then for the second.
        """


class Continued(Protocol):
    """What can stand for a pass: the difference of its prediction to the positive one."""

    def difference(self, key: int, level: Tensor) -> Tensor | None:
        """b c f h w for the pass of that number, from 0, at this timestep; None where it should run."""

    def add(self, key: int, level: Tensor, difference: Tensor) -> None:
        """What a pass gave."""


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strongly the prompt is followed.

    scale: classifier-free guidance (arXiv:2207.12598); 1 is without and halves the work. The published models use 12.
    rescale: 0..1, how far the spread of the guided prediction is brought back to that of the conditional one
        (arXiv:2305.08891); against burnt colours, 0.7 is usual with a high scale.
    temporal: pushes away from what the model predicts for frames that cannot see each other: 0 is off and costs
        nothing, otherwise one more pass per step.
    image_scale: how strongly the picture is followed, for models that see one; `scale` then counts for the text alone
        and there is one more pass per step. None lets `scale` count for both.
    """

    scale: float = 12.0
    rescale: float = 0.0
    temporal: float = 0.0
    image_scale: float | None = None

    @property
    def passes(self) -> bool:
        """Whether there is any guidance between conditionings, so that a negative is needed."""
        return self.scale != 1 or self.image_scale not in (None, 1)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise UserError(f"The guidance scale (cfg) is {self.scale}; it should be 0 or more. 1 is without guidance.")
        if self.image_scale is not None and not (math.isfinite(self.image_scale) and self.image_scale >= 0):
            raise UserError(f"The guidance scale of the picture is {self.image_scale}; it should be 0 or more.")
        if not 0 <= self.rescale <= 1:
            raise UserError(f"The guidance rescale is {self.rescale}; it should be from 0 (off) to 1.")
        if not math.isfinite(self.temporal):
            raise UserError(f"The temporal guidance is {self.temporal}; it should be a finite number. 0 is off.")


def guide(
    model: Model,
    positive: Conditioning,
    negative: Conditioning | None,
    guidance: Guidance,
    textless: Conditioning | None = None,
    *,
    together: bool = False,
    continued: Continued | None = None,
) -> Predictor:
    """The guided prediction u + scale * (c - u) + temporal * (c - c without temporal attention), then rescaled.

    With an image scale, i being the prediction from the picture without the text (`textless`), it begins with
    u + image_scale * (i - u) + scale * (c - i), as in arXiv:2211.09800, equation 3.

    The passes run one after the other, so that memory is that of one; `together` makes those of conditionings that
    differ in text and image alone one pass, which computes what they share once. `continued` may stand for passes other
    than the positive one. They are combined in the type of x, because half precision would lose their small difference.
    Raises UserError when a conditioning that the scales need is missing.
    """
    if guidance.image_scale is not None and textless is None:
        raise UserError(
            f"The guidance scale of the picture is {guidance.image_scale} but there is no conditioning with the "
            "picture alone. Give one (the picture and an empty prompt), or leave the scale of the picture out."
        )
    if guidance.passes and negative is None:
        raise UserError(
            f"The guidance scale (cfg) is {guidance.scale} but there is no negative conditioning. "
            "Encode a negative prompt (an empty one is usual), or set the scale to 1."
        )

    others = [told for told in (negative, textless) if told is not None] if guidance.passes else []
    run = passes_of(model, [positive, *others[: 1 if guidance.image_scale is None else 2]], together, continued)

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        conditional, *rest = run(x, timestep)
        guided = conditional
        if rest:
            unconditional = rest[0]
            guided = unconditional + guidance.scale * (conditional - unconditional)
            if guidance.image_scale is not None:
                pictured = rest[1]
                guided = unconditional + guidance.image_scale * (pictured - unconditional)
                guided = guided + guidance.scale * (conditional - pictured)
        if guidance.temporal:
            frozen = model(x, timestep, positive, temporal=False).to(x.dtype)
            guided = guided + guidance.temporal * (conditional - frozen)
        if guidance.rescale and guided is not conditional:
            guided = rescale(guided, conditional, guidance.rescale)
        return guided

    return predict


def passes_of(
    model: Model, told: Sequence[Conditioning], together: bool, continued: Continued | None
) -> Callable[[Tensor, Tensor], list[Tensor]]:
    """The predictions for some conditionings, in their order and in the type of x."""
    joined = join(told) if together and continued is None and len(told) > 1 else None

    def run(x: Tensor, timestep: Tensor) -> list[Tensor]:
        if joined is not None:
            return list(model(x, timestep, joined).to(x.dtype).chunk(len(told)))
        first, *rest = told
        out = [model(x, timestep, first).to(x.dtype)]
        for number, other in enumerate(rest):
            found = None if continued is None else continued.difference(number, timestep)
            if found is None:
                one = model(x, timestep, other).to(x.dtype)
                if continued is not None:
                    continued.add(number, timestep, one - out[0])
            else:
                one = out[0] + found
            out.append(one)
        return out

    return run


def rescale(guided: Tensor, conditional: Tensor, amount: float) -> Tensor:
    """Equations 15 and 16 of arXiv:2305.08891; the spread is that of each sample over channels, frames and space."""
    axes = tuple(range(1, guided.ndim))
    spread = guided.std(axes, correction=0, keepdim=True).clamp_min(torch.finfo(guided.dtype).tiny)
    matched = guided * (conditional.std(axes, correction=0, keepdim=True) / spread)
    return amount * matched + (1 - amount) * guided
