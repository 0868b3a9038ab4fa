"""Dilated convolutions for sizes above the trained one (ScaleCrafter, arXiv:2310.07702).

A network that was trained on smaller images sees too little of a larger one at a time, and repeats its object. Dilated
by the ratio of the sizes, its 3x3 convolutions see as much of the image as in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ...conditions import Evaluation
from ...specs import UNetSpec
from ..adapter import CONVOLUTIONS, Adapter, Place, Recording, Site

CLOSENESS = 0.05
"""The weight with which a dispersed kernel also has to do on the image itself what its 3x3 kernel does."""


PartName = Literal["down", "middle", "up"]


@dataclass(frozen=True)
class Convolution:
    """A 3x3 convolution of the UNet: in the encoder ("down"), the middle or the decoder ("up"), at a resolution level
    from 0 (the size of the latents). The layers that lead to another level belong to the one that they come from.

    kind: as `Place.convolution`. block: the number of its block from the outermost one of the encoder or the decoder,
        from 0; that of the middle is larger than all others.
    """

    stage: PartName
    level: int
    kind: str
    block: int


def convolutions(spec: UNetSpec) -> dict[str, Convolution]:
    """The 3x3 convolutions of a UNet but the very last, by their published names, in the order of a pass."""
    found = {"input_blocks.0.0": Convolution("down", 0, "first", 0)}
    deepest, of_level = len(spec.channel_mult) - 1, spec.num_res_blocks + 1
    count = (deepest + 1) * of_level
    for index in range(1, count):
        level, last = (index - 1) // of_level, index % of_level == 0
        if last:
            found[f"input_blocks.{index}.0.op"] = Convolution("down", level, "op", index)
        else:
            found.update(_of_block(f"input_blocks.{index}.0", "down", level, index))
    for layer in (0, 3):
        found.update(_of_block(f"middle_block.{layer}", "middle", deepest, count))
    for index in range(count):
        level, block = deepest - index // of_level, count - 1 - index
        found.update(_of_block(f"output_blocks.{index}.0", "up", level, block))
        if level and (index + 1) % of_level == 0:
            layer = 3 if level in spec.attention_levels else 1
            found[f"output_blocks.{index}.{layer}.conv"] = Convolution("up", level, "conv", block)
    return found


def _of_block(name: str, stage: PartName, level: int, block: int) -> Iterator[tuple[str, Convolution]]:
    for kind in ("in_layers", "out_layers"):
        yield f"{name}{CONVOLUTIONS[kind]}", Convolution(stage, level, kind, block)


def redilated(
    convolve: Callable[..., Tensor], x: Tensor, factor: float, *, stride: int = 1, spread: Tensor | None = None
) -> Tensor:
    """A 3x3 convolution of x, n c h w, dilated by a factor of 1 or more. For a fraction, x is enlarged until a whole
    dilation has the wanted reach, and the result gets its size without dilation again. spread: see `dispersion`."""
    dilation = math.ceil(factor)
    if dilation == factor:
        return convolve(x, dilation=dilation, spread=spread)
    height, width = x.shape[-2:]
    enlarge = dilation / factor
    size = (round(height * enlarge), round(width * enlarge))
    larger = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    out = convolve(larger, dilation=dilation, spread=spread)
    return F.interpolate(out, size=(-(-height // stride), -(-width // stride)), mode="bilinear", align_corners=False)


@lru_cache(maxsize=1)
def dispersion() -> Tensor:
    """25 9, float64: the map from a 3x3 kernel to the 5x5 kernel that does on an enlarged image what the 3x3 one does
    on the image itself. Kernels are row by row.

    It is the least-squares solution, over the images of 3x3 pixels of which one is 1, of conv5(up(x)) = up(conv3(x)),
    with up to 5x5 pixels, bilinear, corners on corners; and with a small weight of conv5(x) = conv3(x).
    """
    images = torch.eye(9, dtype=torch.float64).view(9, 1, 3, 3)

    def up(x: Tensor) -> Tensor:
        return F.interpolate(x, size=(5, 5), mode="bilinear", align_corners=True)

    by_five = F.unfold(up(images), 5, padding=2).transpose(1, 2)  # images pixels taps
    by_three = F.unfold(images, 3, padding=1)  # images taps pixels
    wanted = up(by_three.reshape(81, 1, 3, 3)).view(9, 9, 25).transpose(1, 2)
    plain = F.unfold(images, 5, padding=2).transpose(1, 2)
    left = torch.cat([by_five.flatten(0, 1), CLOSENESS * plain.flatten(0, 1)])
    right = torch.cat([wanted.flatten(0, 1), CLOSENESS * by_three.transpose(1, 2).flatten(0, 1)])
    return torch.linalg.lstsq(left, right, driver="gelsd").solution


class Dilation(Adapter):
    """Dilates 3x3 convolutions by a factor for each, in some of the steps.

    factors: by published names; those that are missing or 1 stay as they are. dispersed: the names of those that have
    5x5 kernels at half their factor, see `dispersion`. first, steps: the first step that it acts in and the one that it
    no longer acts in; without `steps`, it acts in every pass. owner: see `Adapter`. instead: whether it acts just where
    its owner is left out, as a weaker stand-in.
    """

    recording = Recording.INCLUDED

    def __init__(
        self,
        factors: Mapping[str, float],
        *,
        dispersed: frozenset[str] = frozenset(),
        first: int = 0,
        steps: int | None = None,
        owner: str = "",
        instead: bool = False,
    ) -> None:
        self.factors = {name: factor for name, factor in factors.items() if factor != 1}
        self.dispersed = dispersed
        self.first, self.steps = first, steps
        self.owner, self.instead = owner, instead
        self.matrices: dict[torch.device, Tensor] = {}

    @property
    def recorded_as(self) -> Hashable:
        return super().recorded_as, tuple(sorted(self.factors.items())), self.dispersed

    def acts(self, evaluation: Evaluation) -> bool:
        if (self.owner in evaluation.without) != self.instead:
            return False
        step = evaluation.step
        return self.steps is None or (step is not None and self.first <= step < self.steps)

    def uses(self, site: Site, at: Place) -> bool:
        return at.convolution_name in self.factors

    def convolution(self, at: Place, convolve: Callable[..., Tensor], x: Tensor) -> Tensor:
        name, stride = at.convolution_name, 2 if at.convolution == "op" else 1
        factor = self.factors[name]
        if name in self.dispersed:
            return redilated(convolve, x, max(1.0, factor / 2), stride=stride, spread=self._spread(x.device))
        return redilated(convolve, x, factor, stride=stride)

    def _spread(self, device: torch.device) -> Tensor:
        """`dispersion` in float32, on a device."""
        if device not in self.matrices:
            self.matrices[device] = dispersion().to(device, torch.float32)
        return self.matrices[device]
