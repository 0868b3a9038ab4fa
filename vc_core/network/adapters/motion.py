"""How much temporal attention adds: scaled by level, stage, frame and mask, or by how strongly frames attend to each
other (Enhance-A-Video, arXiv:2502.07508)."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ...specs import UNetSpec
from ..adapter import Adapter, Attend, Place, Recording, Site, Stage
from ..attentions import scaled, split_heads

TEMPORAL = ("temporal_1", "temporal_2")

MAP_VALUES = 2**22
"""How many values of the attention maps are held at a time."""


def level_of(at: Place, spec: UNetSpec) -> int:
    """The resolution level of a block, from 0 for the size of the latents."""
    deepest, blocks = len(spec.channel_mult) - 1, spec.num_res_blocks + 1
    if at.stage == "middle":
        return deepest
    if at.stage == "output":
        return deepest - at.index // blocks
    return max(0, at.index - 1) // blocks


@dataclass(frozen=True, eq=False, kw_only=True)
class Strengths:
    """Factors of what temporal attention adds; those that apply to a place are multiplied.

    everywhere: of all layers. stages: by stage; the transformer behind the first convolution counts as encoder.
    levels: by resolution level, from the finest; levels without a number have 1.
    frames: f, one for each frame of the clip.
    mask: f h w or 1 h w in 0..1, of any size: the strength where it is 1, the plain network where it is 0.
    """

    everywhere: float = 1.0
    stages: Mapping[Stage, float] = field(default_factory=dict)
    levels: Sequence[float] = ()
    frames: Tensor | None = None
    mask: Tensor | None = None

    def of_layer(self, at: Place, spec: UNetSpec) -> float:
        """The factor of a layer, before frames and mask."""
        stage: Stage = "input" if at.stage == "init" else at.stage
        level = level_of(at, spec)
        own = self.levels[level] if level < len(self.levels) else 1.0
        return self.everywhere * self.stages.get(stage, 1.0) * own

    @property
    def uniform(self) -> bool:
        """Whether all frames and pixels of a layer have the same factor."""
        return self.frames is None and self.mask is None

    @property
    def plain(self) -> bool:
        """Whether nothing is changed anywhere."""
        numbers = (self.everywhere, *self.stages.values(), *self.levels)
        return all(number == 1 for number in numbers) and (self.frames is None or bool((self.frames == 1).all()))


class TemporalStrength(Adapter):
    """Multiplies what every temporal attention layer adds to the stream by its strength; at 0, no frame attends to any
    frame. Feed-forward layers, norms over the clip and convolutions over frames are not changed."""

    def __init__(self, strengths: Strengths, spec: UNetSpec) -> None:
        self.strengths, self.spec = strengths, spec
        self.recording = Recording.INCLUDED if strengths.uniform else Recording.REFUSED

    @property
    def recorded_as(self) -> Hashable:
        return super().recorded_as, self.strengths

    def uses(self, site: Site, at: Place) -> bool:
        if at.attention not in TEMPORAL:
            return False
        return self.strengths.frames is not None or self.strengths.of_layer(at, self.spec) != 1

    def around_attention(self, at: Place, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        out, factor = layer(x), self.strengths.of_layer(at, self.spec)
        return out * (factor if self.strengths.uniform else self._of_tokens(at, out, factor))

    def _of_tokens(self, at: Place, tokens: Tensor, factor: float) -> Tensor:
        """The factor of each token, which broadcasts to (b p) f d or b f p d."""
        frames = self.strengths.frames
        over_time = tokens.new_full((1,), factor) if frames is None else factor * frames.to(tokens)
        factors = _of_window(over_time, at)[:, None]  # f 1, or 1 1
        if self.strengths.mask is not None:
            factors = 1 + (factors - 1) * self._mask(at).to(tokens)  # f p
        if tokens.ndim == 4:
            return factors[None, :, :, None]
        factors = factors.T[:, :, None]  # p f 1
        return factors if len(factors) == 1 else factors.repeat(len(tokens) // len(factors), 1, 1)

    def _mask(self, at: Place) -> Tensor:
        """The mask at the size of the feature map, of the rows of pixels that are present: f p, or 1 p."""
        assert self.strengths.mask is not None
        mask = _of_window(self.strengths.mask, at)
        mask = F.interpolate(mask[:, None].float(), at.grid, mode="area")[:, 0]
        return mask[:, at.part or slice(None)].flatten(1)


def _of_window(values: Tensor, at: Place) -> Tensor:
    """Values of all frames, or of a single one for all, in the frames that the pass is about."""
    window = at.evaluation.window
    return values if window is None or len(values) == 1 else values[list(window)]


class CrossFrameEnhancement(Adapter):
    """Enhance-A-Video: multiplies the result of temporal attention, before its last linear layer, by the mean weight
    that frames give to other frames, times the number of frames plus a temperature; by 1 where that is less.

    Frames that look at themselves alone have a mean of 0, frames that look at all alike 1 / frames. The mean is over
    the pixels and heads of each clip, so that clips of a batch, and conditionings that share a pass, stay apart.
    """

    whole_pixels = True
    recording = Recording.INCLUDED

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    @property
    def recorded_as(self) -> Hashable:
        return super().recorded_as, self.temperature

    def uses(self, site: Site, at: Place) -> bool:
        return at.attention in TEMPORAL

    def attention(
        self, at: Place, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        frames = q.shape[1]
        if frames < 2:
            return attend(q, k, v, mask)
        clips = len(q) // math.prod(at.grid)
        intensity = cross_frame_intensity(at, q, k, mask).unflatten(0, (clips, -1)).mean(dim=(1, 2))
        factor = (intensity * (frames + self.temperature)).clamp_min(1)
        out = attend(q, k, v, mask)
        return out * factor.to(out).repeat_interleave(len(out) // clips)[:, None, None]


def cross_frame_intensity(at: Place, q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean weight of a temporal attention between different frames, of each row and head: (b p) f d -> (b p) heads,
    in float32.

    The weights of a frame sum to 1, so that only those between a frame and itself have to be known. Raises
    ZeroDivisionError for a single frame.
    """
    frames = q.shape[1]
    positions = None if at.positions is None else at.positions(frames, q)
    to_itself = torch.cat([weights.sum(-1) for weights in _to_itself(q, k, mask, positions, at.heads)])
    return (frames - to_itself) / (frames * frames - frames)


def _to_itself(q: Tensor, k: Tensor, mask: Tensor | None, positions: Tensor | None, heads: int) -> Iterator[Tensor]:
    """The weight that each frame gives to itself, rows heads f in float32, of some rows after the other."""
    rows = max(1, MAP_VALUES // (heads * q.shape[1] ** 2))
    for first in range(0, len(q), rows):
        queries, keys = (split_heads(part[first : first + rows], heads) for part in (q, k))
        queries = scaled(queries)
        logits = queries @ keys.transpose(-1, -2)  # rows heads f f
        if positions is not None:
            logits = logits + torch.einsum("nhqd,qkd->nhqk", queries, positions)
        if mask is not None:
            logits = logits + (mask[first : first + rows] if mask.ndim == 4 and len(mask) > 1 else mask)
        logits = logits.float()
        yield (logits.diagonal(dim1=-2, dim2=-1) - logits.logsumexp(-1)).exp()
