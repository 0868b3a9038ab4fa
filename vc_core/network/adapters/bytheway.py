"""ByTheWay (arXiv:2410.06241): temporal attention with more motion, after the maps of the coarsest decoder level."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...conditions import POSITIVE
from ...specs import UNetSpec
from ..adapter import Adapter, Place, Site
from .motion import TEMPORAL, level_of


@dataclass(frozen=True, kw_only=True)
class Enhancement:
    """How attention maps over frames are changed.

    alpha: 0..1, how far a map goes towards that of the coarsest decoder level. beta: 0 or more, the factor of the high
    frequencies over the keys; at least the one that gives the map back the energy that the mix took. tau: 0 or more,
    how many frequencies on either side of the highest one count as high. The mean never does.
    """

    alpha: float = 0.1
    beta: float = 10.0
    tau: int = 7

    def __call__(self, maps: Tensor, upper: Tensor | None, deciding: int) -> Tensor:
        """The changed maps, k n r f f in float32, of k conditionings of n clips in r rows of pixels and heads: queries,
        then keys. upper: the maps of the coarsest level, in the same shape; None for that level itself. deciding: the
        conditioning whose energies count for all of them."""
        before = energy(maps[deciding], maps[deciding])
        if upper is not None:
            maps = maps + self.alpha * (upper - maps)
        high = maps @ high_pass(maps.shape[-1], self.tau, maps.device)
        above = energy(maps[deciding], high[deciding])
        below = energy(maps[deciding], maps[deciding]) - above
        restoring = ((before - below).clamp_min(0) / above.clamp_min(torch.finfo(above.dtype).tiny)).sqrt()
        factor = torch.where(above > 0, restoring, torch.ones_like(restoring)).clamp_min(self.beta)
        maps = maps + (factor - 1)[:, None, None, None] * high
        return maps / maps.sum(-1, keepdim=True)


def energy(a: Tensor, b: Tensor) -> Tensor:
    """The mean over rows and queries of the sum over keys of a * b, n r f f -> n."""
    return (a * b).sum(-1).mean((1, 2))


def high_pass(frames: int, tau: int, device: torch.device | str = "cpu") -> Tensor:
    """f f: rows times this matrix keep the frequencies at most `tau` from the highest one; the mean is never kept.

    By Parseval's theorem, the energy of those frequencies is the product of a row and what is kept of it.
    """
    kept = (torch.arange(frames, dtype=torch.float64) - frames // 2).abs() <= tau
    kept[0] = False
    spectrum = torch.fft.fft(torch.eye(frames, dtype=torch.float64), dim=-1) * kept
    return torch.fft.ifft(spectrum, dim=-1).real.float().to(device)


class StrongerMotion(Adapter):
    """Changes the maps of all temporal attention of the decoder.

    The maps of its coarsest level that attends are averaged over their heads, whose number differs from level to level,
    and enlarged bilinearly for the same layer of the same block of finer levels. A pass that leaves the coarse levels
    out, since a cache has their result, takes their maps of the step from which that is.
    """

    whole_pixels = True

    def __init__(self, spec: UNetSpec, enhancement: Enhancement, steps: int) -> None:
        """steps: the number of the first steps that it acts in."""
        self.spec, self.enhancement, self.steps = spec, enhancement, steps
        self.coarsest = max(spec.attention_levels)
        self.maps: dict[Hashable, Tensor] = {}

    def uses(self, site: Site, at: Place) -> bool:
        return at.stage == "output" and at.attention in TEMPORAL

    def attention_weights(self, at: Place, weights: Tensor) -> Tensor:
        if weights.shape[-1] == 1:
            return weights
        branches = at.evaluation.branches
        maps = weights.float().unflatten(0, (-1, *at.grid, at.heads))  # b h w heads f f
        upper = self._upper(at, maps)
        groups = (len(branches), -1)
        given = None if upper is None else upper.flatten(1, 3).unflatten(0, groups)
        out = self.enhancement(maps.flatten(1, 3).unflatten(0, groups), given, deciding(at))
        return out.reshape(weights.shape).to(weights.dtype)

    def _upper(self, at: Place, maps: Tensor) -> Tensor | None:
        """What the maps are mixed with, in their shape; None where they are those of the coarsest level, which are
        kept, and where those are of another kind."""
        block = at.index % (self.spec.num_res_blocks + 1)
        span = None if at.span is None else (at.span.start, at.span.stop)
        key = at.evaluation.key, block, at.layer, at.depth, at.attention, span
        if level_of(at, self.spec) == self.coarsest:
            self.maps[key] = maps.mean(3).flatten(3).permute(0, 3, 1, 2)  # b (f f) h w
            return None
        coarse = self.maps.get(key)
        if coarse is None or len(coarse) != len(maps) or coarse.shape[1] != maps.shape[-1] ** 2:
            return None
        enlarged = F.interpolate(coarse, at.grid, mode="bilinear", align_corners=False)
        return enlarged.permute(0, 2, 3, 1).unflatten(3, (1, *maps.shape[-2:])).expand_as(maps)


def deciding(at: Place) -> int:
    """The branch of a pass whose energies count: that of the prompt, or the first one where it is not in the pass."""
    names = [branch.conditioning for branch in at.evaluation.branches]
    return names.index(POSITIVE.conditioning) if POSITIVE.conditioning in names else 0
