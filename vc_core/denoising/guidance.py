"""Guidance: several predictions of a model combined into one.

The combination is a base prediction plus a list of terms, each a weight times the difference of two predictions:
classifier-free guidance, guidance by the image alone and temporal guidance are instances of it. Rules follow, which
change the sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ..conditions import IMAGE_ONLY, NEGATIVE, POSITIVE, SINGLE, Branch, Conditioning, Evaluation
from ..errors import UserError
from .caching import Cache

Conditionings = Mapping[str, Conditioning | None]
"""By name: "positive", "negative", and "image_only", the image with an empty prompt. See `conditions.Branch`."""

FROZEN = replace(POSITIVE, temporal=False)
"""The positive branch without attention between frames."""


class Model(Protocol):
    """A network behind its conditioning."""

    def __call__(
        self, x: Tensor, timestep: Tensor, conditioning: Conditioning, evaluation: Evaluation = SINGLE, /
    ) -> Tensor:
        """(x: b c f h w, timestep: b or b f, float) -> eps or v: b c f h w.

        Where several branches share a pass, the conditioning is that of `Conditioning.joined` and the result is
        (k b) c f h w: all clips of the first branch, then of the second.
        """


class Predictor(Protocol):
    """A model with its conditionings."""

    def __call__(self, x: Tensor, timestep: Tensor, evaluation: Evaluation = SINGLE, /) -> Tensor:
        """(x: b c f h w, timestep: b or b f) -> what the model predicts, of the shape and type of x."""


@dataclass(frozen=True)
class Term:
    """weight * course(timestep) * (prediction of `toward` - prediction of `away`)

    course: a factor for each timestep, of the shape that it is given; None is 1 throughout.
    steps: the number of the first steps that it counts in; in later or unknown steps it is left out, and so are the
        passes that it alone needs. None for all steps.
    """

    weight: float
    toward: Branch
    away: Branch
    course: Callable[[Tensor], Tensor] | None = None
    steps: int | None = None

    def counts(self, step: int | None) -> bool:
        """Whether it counts in a step, from 0; None for an unknown one."""
        return self.steps is None or (step is not None and step < self.steps)

    def __call__(self, predictions: Mapping[Branch, Tensor], timestep: Tensor | None = None) -> Tensor:
        """timestep: of each row of the predictions, or b f; for terms with a course."""
        change = self.weight * (predictions[self.toward] - predictions[self.away])
        if self.course is None or timestep is None:
            return change
        factor = self.course(timestep).to(change)
        each_frame = factor.ndim == 2
        return change * (factor[:, None, :, None, None] if each_frame else factor.view(-1, *[1] * (change.ndim - 1)))


Rule = Callable[[Tensor, Tensor], Tensor]
"""(combined prediction, prediction of the positive branch) -> the prediction to use; both b c f h w."""


@dataclass(frozen=True)
class Combination:
    """base + the sum of the terms, then changed by the rules in turn."""

    base: Branch = POSITIVE
    terms: tuple[Term, ...] = ()
    rules: tuple[Rule, ...] = ()

    @property
    def branches(self) -> tuple[Branch, ...]:
        """What has to be predicted, the positive branch first: rules and caches measure the others by it."""
        named = [POSITIVE, self.base, *(branch for term in self.terms for branch in (term.away, term.toward))]
        return tuple(dict.fromkeys(named))

    @property
    def simplified(self) -> Combination:
        """The same with fewer predictions, where leading terms of weight 1 cancel the base:
        base + 1 * (a - base) + 1 * (positive - a) = positive."""
        reached = self.base
        for count, term in enumerate(self.terms, start=1):
            if term.weight != 1 or term.away != reached or term.course is not None or term.steps is not None:
                break
            reached = term.toward
            if reached == POSITIVE:
                return replace(self, base=POSITIVE, terms=self.terms[count:])
        return self

    def during(self, step: int | None) -> Combination:
        """The combination of a step, from 0; None for an unknown one."""
        return replace(self, terms=tuple(term for term in self.terms if term.counts(step)))

    def __call__(self, predictions: Mapping[Branch, Tensor], timestep: Tensor | None = None) -> Tensor:
        """The guided prediction of those of all `branches`, b c f h w. Without terms there is nothing to change, and
        the rules are left out. timestep: of the predictions, for terms with a course."""
        combined = summed(predictions[self.base], self.terms, predictions, timestep)
        for rule in self.rules if self.terms else ():
            combined = rule(combined, predictions[POSITIVE])
        return combined


def summed(
    base: Tensor, terms: Iterable[Term], predictions: Mapping[Branch, Tensor], timestep: Tensor | None = None
) -> Tensor:
    """base + the sum of the terms"""
    for term in terms:
        base = base + term(predictions, timestep)
    return base


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strongly the prompt is followed. With u, c and i the predictions of the negative prompt, of the prompt and of
    the image alone, the guided one is u + scale * (c - u), or with an image scale u + image_scale * (i - u) + scale *
    (c - i) as in arXiv:2211.09800, equation 3; then temporal * (c - c without attention between frames) is added.

    scale: classifier-free guidance (arXiv:2207.12598); 1 is without and halves the work. The published models use 12.
    rescale: 0..1, how far the standard deviation of the guided prediction is brought back to that of the positive one
        (arXiv:2305.08891); against burnt colours, 0.7 is usual with a high scale.
    temporal: pushes away from what the model predicts for frames that do not attend to each other: 0 is off and costs
        nothing, otherwise one more pass per step.
    image_scale: how strongly the image is followed, for models that are given one; `scale` then counts for the text
        alone and there is one more pass per step. None lets `scale` count for both.

    Raises UserError for values out of range.
    """

    scale: float = 12.0
    rescale: float = 0.0
    temporal: float = 0.0
    image_scale: float | None = None
    terms: tuple[Term, ...] = ()
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise UserError(f"The guidance scale (cfg) is {self.scale}; it should be 0 or more. 1 is without guidance.")
        if self.image_scale is not None and not (math.isfinite(self.image_scale) and self.image_scale >= 0):
            raise UserError(f"The guidance scale of the image is {self.image_scale}; it should be 0 or more.")
        if not 0 <= self.rescale <= 1:
            raise UserError(f"The guidance rescale is {self.rescale}; it should be from 0 (off) to 1.")
        if not math.isfinite(self.temporal):
            raise UserError(f"The temporal guidance is {self.temporal}; it should be a finite number. 0 is off.")

    @property
    def combination(self) -> Combination:
        """The terms and rules of these settings."""
        if self.image_scale is None:
            terms = [Term(self.scale, POSITIVE, NEGATIVE)]
        else:
            terms = [Term(self.image_scale, IMAGE_ONLY, NEGATIVE), Term(self.scale, POSITIVE, IMAGE_ONLY)]
        if self.temporal:
            terms.append(Term(self.temporal, POSITIVE, FROZEN))
        rules = (partial(rescale, amount=self.rescale),) if self.rescale else ()
        return Combination(NEGATIVE, (*terms, *self.terms), (*rules, *self.rules))

    @property
    def conditionings(self) -> tuple[str, ...]:
        """The names of the conditionings that are needed."""
        return tuple(dict.fromkeys(branch.conditioning for branch in self.combination.simplified.branches))

    def check(self, given: Conditionings) -> None:
        """Raises UserError where a conditioning that the scales need is missing."""
        missing = [name for name in self.conditionings if given.get(name) is None]
        if IMAGE_ONLY.conditioning in missing:
            raise UserError(
                f"The guidance scale of the image is {self.image_scale} but there is no conditioning with the image "
                "alone. Give one (the image and an empty prompt), or leave the scale of the image out."
            )
        if NEGATIVE.conditioning in missing:
            raise UserError(
                f"The guidance scale (cfg) is {self.scale} but there is no negative conditioning. "
                "Encode a negative prompt (an empty one is usual), or set the scale to 1."
            )


def guide(
    model: Model,
    conditionings: Conditionings,
    guidance: Guidance,
    *,
    together: bool = False,
    cache: Cache | None = None,
) -> Predictor:
    """The guided prediction of a model.

    The passes run one after the other, so that memory is that of one; `together` makes those of conditionings that can
    be joined one pass, which computes what they share once. `cache` continues predictions that differ from the
    positive one in their conditioning alone. They are combined in the type of x, because half precision would lose
    their small difference. Raises UserError when a conditioning that the scales need is missing.
    """
    guidance.check(conditionings)
    whole = guidance.combination.simplified
    changes = any(term.steps is not None for term in whole.terms)
    plans: dict[tuple[Branch, ...], Passes] = {}

    def planned(branches: tuple[Branch, ...]) -> Passes:
        if branches not in plans:
            plans[branches] = _passes(conditionings, branches, together and cache is None)
        return plans[branches]

    def predict(x: Tensor, timestep: Tensor, evaluation: Evaluation = SINGLE, /) -> Tensor:
        combination = whole.during(evaluation.step) if changes else whole
        found: dict[Branch, Tensor] = {}
        for branches, conditioning in planned(combination.branches):
            change = _continued(cache, branches[0], evaluation)
            if change is not None:
                found[branches[0]] = found[POSITIVE] + change
                continue
            out = model(x, timestep, conditioning, replace(evaluation, branches=branches)).to(x.dtype)
            found.update(zip(branches, out.chunk(len(branches)), strict=True))
            _keep(cache, branches[0], evaluation, found)
        return combination(found, timestep)

    return predict


Passes = list[tuple[tuple[Branch, ...], Conditioning]]
"""For each pass its branches, and their conditionings joined."""


def _passes(
    conditionings: Conditionings, branches: Sequence[Branch], together: bool
) -> list[tuple[tuple[Branch, ...], Conditioning]]:
    """The passes that compute some branches."""
    given = {name: conditioning for name, conditioning in conditionings.items() if conditioning is not None}
    kinds: dict[Branch, list[Branch]] = {}
    for branch in branches:
        kinds.setdefault(replace(branch, conditioning=POSITIVE.conditioning), []).append(branch)
    passes: Passes = []
    for alike in kinds.values():
        parts = [given[branch.conditioning] for branch in alike]
        joined = Conditioning.joined(parts) if together and len(parts) > 1 else None
        if joined is not None:
            passes.append((tuple(alike), joined))
        else:
            passes += [((branch,), part) for branch, part in zip(alike, parts, strict=True)]
    return passes


def _continued(cache: Cache | None, branch: Branch, evaluation: Evaluation) -> Tensor | None:
    """The difference to the positive prediction that a cache continues; None where the branch has to be computed."""
    if cache is None or evaluation.step is None or not _is_cached(branch):
        return None
    return cache.get(branch, evaluation.step)


def _keep(cache: Cache | None, branch: Branch, evaluation: Evaluation, found: Mapping[Branch, Tensor]) -> None:
    """Gives what was computed to the cache."""
    if cache is not None and evaluation.step is not None and _is_cached(branch):
        cache.add(branch, evaluation.step, found[branch] - found[POSITIVE])


def _is_cached(branch: Branch) -> bool:
    """Whether a branch differs from the positive one in its conditioning alone."""
    return branch != POSITIVE and replace(branch, conditioning=POSITIVE.conditioning) == POSITIVE


def rescale(guided: Tensor, positive: Tensor, amount: float) -> Tensor:
    """Equations 15 and 16 of arXiv:2305.08891; the standard deviation is that of each clip over channels, frames and
    space. guided, positive: b c f h w; amount: 0..1."""
    axes = tuple(range(1, guided.ndim))
    spread = guided.std(axes, correction=0, keepdim=True).clamp_min(torch.finfo(guided.dtype).tiny)
    matched = guided * (positive.std(axes, correction=0, keepdim=True) / spread)
    return amount * matched + (1 - amount) * guided
