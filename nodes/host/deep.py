"""The deep features that a run keeps for the network, and which pass may continue from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...vc_core.denoising.caching import SHALLOW, Cache, step_index
from .branches import branches_of

STEP_CACHE = "videocrafter_step_cache"
"""Where a run keeps its `StepRun`, among the `transformer_options`."""


class StepRun:
    """The deep features of one run.

    A pass is recognized by its conditioning, its context window and its number among such passes at one noise level:
    nodes that guide by a changed model, as Perturbed-Attention Guidance does, run a conditioning more than once.
    """

    def __init__(self, starts: Sequence[float], cache: Cache) -> None:
        """`starts`: the falling sigmas at which the steps of the run begin."""
        self.starts, self.cache = starts, cache
        self.level, self.step = -1.0, 0
        self.numbers: Counter[Hashable] = Counter()
        self.keys: list[Hashable] = []

    def features(self, options: dict[str, Any], clips: int) -> Tensor | None:
        """The features that the pass which begins now should continue from; None for a whole pass, whose features are
        then given to `keep`."""
        level = float(options["sigmas"].flatten()[0])
        if level != self.level:
            self.level, self.step = level, step_index(self.starts, level)
            self.numbers.clear()
        window = getattr(options.get("context_window"), "index_list", None)
        branch = branches_of(options)[0]
        where = (None if window is None else tuple(window), branch.temporal, branch.without)
        names: list[Hashable] = list(options.get("uuids") or range(clips))
        self.keys = [(name, where, self._number((name, where))) for name in names]
        found = [self.cache.get(key, self.step) for key in self.keys]
        known = [features for features in found if features is not None]
        return torch.cat(known) if len(known) == len(found) else None

    def keep(self, features: Tensor) -> None:
        """The features of the pass that has just run whole, (b f) c h w."""
        for key, part in zip(self.keys, features.chunk(len(self.keys)), strict=True):
            self.cache.add(key, self.step, part)

    def _number(self, key: Hashable) -> int:
        self.numbers[key] += 1
        return self.numbers[key]


def shallow_control(control: Any) -> Any:
    """The residuals of a ControlNet for a pass without the deep blocks."""
    return {**control, "output": control["output"][:SHALLOW]} if control and "output" in control else control
