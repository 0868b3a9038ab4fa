"""Dense optical flow by pyramidal Lucas-Kanade, and warping by it; with PyTorch alone.

From the coarsest level of a pyramid to the finest, the flow of each pixel is that which a window around it has moved by
(Lucas and Kanade 1981; in the inverse compositional form of Baker and Matthews 2004, whose matrix is that of the first
image alone). Windows without texture cannot be followed; there the flow of their surroundings is taken, weighted by how
well those can be (normalized convolution, Knutsson and Westin 1993). The local mean of what is left over is
subtracted, so a change of brightness is no motion.

Flows are h w 2, (x, y) in pixels. Images are h w 3 in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from .filters import differences, grey, local_mean, resized

RADIUS = 2
"""A window is weighted by the mean over such squares, twice, of pixels on each side. These weights have no negative
frequencies, with which the updates of neighboring pixels would amplify each other."""
SURROUNDINGS = 8
"""Pixels on each side over which brightness may change, and from which windows without texture take their flow."""
ITERATIONS = 3
"""Updates on each level, at most."""
SETTLED = 0.01
"""Mean update in pixels after which a level is done."""
COARSEST = 12
"""Pixels that the shorter side of the coarsest level has at least."""
NOISE = 3e-5
"""Squared gradient per pixel, of values in 0..1, below which there is no texture."""
STILL = 1e-3
"""The weight of no motion among the surroundings of a window without texture."""
MARGIN = 2 * RADIUS
"""Pixels at the borders of larger images, whose windows are cut off, that do not count for the speed."""
FASTEST = 20
"""One of this many pixels counts for the speed."""
LARGEST = 2**18
"""Pixels up to which the flow has the size of the images; that of larger ones is enlarged from this number."""
CONSISTENT = 1.0
"""Maximum forward-backward error in pixels; larger errors mean that a pixel is occluded."""


@dataclass(frozen=True, eq=False)
class Flow:
    """The motion between two images. forward: from the first to the second. backward: the other direction."""

    first: Tensor
    second: Tensor
    forward: Tensor
    backward: Tensor

    @classmethod
    def between(cls, first: Tensor, second: Tensor) -> Flow:
        """The motion between two images h w 3."""
        images = torch.stack([grey(first), grey(second)])
        forward, backward = _flow(images, images.flip(0)).movedim(1, -1)
        return cls(first, second, forward, backward)

    @cached_property
    def valid(self) -> Tensor:
        """h w: where a pixel of the first image is also in the second, and its flow consistent."""
        returned = warp(self.backward, self.forward)
        near = (self.forward + returned).square().sum(-1) < CONSISTENT**2
        return near & inside(self.forward)

    @cached_property
    def speed(self) -> float:
        """The mean speed of the fastest 5 % of the pixels that both images show, in pixels."""
        h, w = self.valid.shape
        y, x = (slice(MARGIN, side - MARGIN) if side > 8 * MARGIN else slice(None) for side in (h, w))
        lengths = self.forward[y, x].square().sum(-1).sqrt()[self.valid[y, x]]
        if not len(lengths):
            return 0.0
        return float(lengths.topk(max(1, len(lengths) // FASTEST)).values.mean())

    @cached_property
    def error(self) -> float | None:
        """The mean squared difference of the images, the second one moved back, where both show the same; None where
        they do nowhere."""
        squares = (warp(self.second, self.forward) - self.first).square()[self.valid]
        return float(squares.mean()) if len(squares) else None

    def middle(self) -> Tensor:
        """The image halfway between the two, h w 3, from both of them (Super SloMo, arXiv:1712.00080, without its
        networks)."""
        to_first = (self.backward - self.forward) / 4
        known = torch.stack([inside(to_first), inside(-to_first)]).float()
        known = torch.where(known.sum(0) > 0, known, torch.ones(()))[..., None]
        both = torch.stack([warp(self.first, to_first), warp(self.second, -to_first)])
        return (both * known).sum(0) / known.sum(0)


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """`image`, h w c, read bilinearly where each pixel has moved to; beyond the border it is repeated."""
    return _read(image.movedim(-1, 0)[None], flow.movedim(-1, 0)[None])[0].movedim(0, -1)


def inside(flow: Tensor) -> Tensor:
    """h w: whether a pixel has moved to a place inside of the image."""
    return _inside(flow.movedim(-1, 0)[None])[0, 0] > 0


def _flow(first: Tensor, second: Tensor) -> Tensor:
    """Images b h w -> flow b 2 h w."""
    size = first.shape[1:]
    reduce = min(1.0, (LARGEST / (size[0] * size[1])) ** 0.5)
    finest = (max(1, round(size[0] * reduce)), max(1, round(size[1] * reduce)))
    pyramid = [(resized(first[:, None], finest), resized(second[:, None], finest))]
    while min(pyramid[-1][0].shape[2:]) >= 2 * COARSEST:
        h, w = ((side + 1) // 2 for side in pyramid[-1][0].shape[2:])
        pyramid.append((resized(pyramid[-1][0], (h, w)), resized(pyramid[-1][1], (h, w))))
    flow = first.new_zeros(len(first), 2, *pyramid[-1][0].shape[2:])
    for images in reversed(pyramid):
        flow = _refined(*images, _enlarged(flow, images[0].shape[2:]))
    return _enlarged(flow, size)


def _refined(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """The flow b 2 h w, refined on one level. first, second: b 1 h w."""
    gradient = differences(first)
    x, y = gradient[:, :1], gradient[:, 1:]
    xx, xy, yy = _window(torch.cat([x * x, x * y, y * y], dim=1)).split(1, dim=1)
    least = ((xx + yy) - ((xx - yy).square() + 4 * xy.square()).sqrt()) / 2
    trust = least / (least + NOISE)
    xx, yy = xx + NOISE, yy + NOISE
    scale = 1 / (xx * yy - xy * xy)
    for _ in range(ITERATIONS):
        known = _inside(flow)
        error = torch.cat([(_read(second, flow) - first) * known, known], dim=1)
        around = local_mean(error, SURROUNDINGS)
        error = error[:, :1] - known * around[:, :1] / around[:, 1:].clamp(min=1e-6)
        bx, by = _window(gradient * error).split(1, dim=1)
        change = torch.cat([yy * bx - xy * by, xx * by - xy * bx], dim=1) * scale
        flow = flow - change.clamp(-1, 1)
        if float(change.abs().mean()) < SETTLED:
            break
    trust = trust * _inside(flow)
    around = local_mean(torch.cat([flow * trust, trust], dim=1), SURROUNDINGS)
    around = around[:, :2] / (around[:, 2:] + STILL)
    return _median(trust * flow + (1 - trust) * around)


def _read(image: Tensor, flow: Tensor) -> Tensor:
    """Images b c h w at x + flow, bilinear."""
    h, w = flow.shape[2:]
    x = torch.arange(w, dtype=flow.dtype, device=flow.device)
    y = torch.arange(h, dtype=flow.dtype, device=flow.device)[:, None]
    x, y = (flow[:, 0] + x) * (2 / max(w - 1, 1)) - 1, (flow[:, 1] + y) * (2 / max(h - 1, 1)) - 1
    grid = torch.stack([x, y], dim=-1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _inside(flow: Tensor) -> Tensor:
    """b 1 h w, 1 where x + flow is inside of the image."""
    h, w = flow.shape[2:]
    x = flow[:, 0] + torch.arange(w, dtype=flow.dtype, device=flow.device)
    y = flow[:, 1] + torch.arange(h, dtype=flow.dtype, device=flow.device)[:, None]
    found = (x >= -0.5) & (x <= w - 0.5) & (y >= -0.5) & (y <= h - 0.5)
    return found[:, None].to(flow.dtype)


def _window(image: Tensor) -> Tensor:
    """The sum of b c h w over windows, relative to that of their weights."""
    return local_mean(local_mean(image, RADIUS), RADIUS)


def _enlarged(flow: Tensor, size: torch.Size) -> Tensor:
    """The flow b 2 h w of a coarser level on a finer one."""
    (h, w), old = size, flow.shape[2:]
    if (h, w) == tuple(old):
        return flow
    factors = flow.new_tensor([w / old[1], h / old[0]])[:, None, None]
    return F.interpolate(flow, (h, w), mode="bilinear", align_corners=False) * factors


def _median(flow: Tensor) -> Tensor:
    """The median over squares of 3 x 3 pixels: the middle of the largest of the least, the middle of the medians and
    the least of the largest of its columns."""
    padded = F.pad(flow, (1, 1, 1, 1), mode="replicate")
    low, middle, high = _sorted(padded[:, :, :-2], padded[:, :, 1:-1], padded[:, :, 2:])
    least = torch.maximum(torch.maximum(low[..., :-2], low[..., 1:-1]), low[..., 2:])
    most = torch.minimum(torch.minimum(high[..., :-2], high[..., 1:-1]), high[..., 2:])
    _, between, _ = _sorted(middle[..., :-2], middle[..., 1:-1], middle[..., 2:])
    return _sorted(least, between, most)[1]


def _sorted(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three tensors, sorted elementwise."""
    a, b = torch.minimum(a, b), torch.maximum(a, b)
    b, c = torch.minimum(b, c), torch.maximum(b, c)
    a, b = torch.minimum(a, b), torch.maximum(a, b)
    return a, b, c
