"""Features of subject and background that need no network: histograms of colors and of the directions of edges.

The subject is what differs in color from the borders of the image (the boundary prior of Wei et al. 2012). Histograms
are compared by the Bhattacharyya coefficient, which is 1 for equal and 0 for disjoint ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .filters import differences, grey, reduced

SIDE = 96
"""Pixels of the longer side of the copy that is looked at."""
BORDER = 2
"""Pixels of the border."""
SAMPLES = 64
"""Pixels of the border with which every pixel is compared."""
NEAREST = 0.1
"""The share of them to which a pixel of the background is near."""
DISTANCE = 0.1
"""Distance of colors in 0..1 at which a pixel belongs half to the subject."""
LEVELS = 6
"""Levels of red, green and blue."""
DIRECTIONS = 9
"""Directions of edges in half a turn."""


@dataclass(frozen=True, eq=False)
class Features:
    """Square roots of histograms with sum 1, each of shape (bins,)."""

    colors: Tensor
    edges: Tensor

    def similarity(self, other: Features) -> float:
        """0..1, the mean of the coefficients of colors and edges; 1 for equal features."""
        return float((self.colors @ other.colors + self.edges @ other.edges) / 2)


def subject_features(image: Tensor) -> Features:
    """Of what differs from the borders of an image h w 3."""
    small = reduced(image, SIDE)
    return _features(small, foreground(small))


def background_features(image: Tensor) -> Features:
    """Of what an image h w 3 has in common with its borders."""
    small = reduced(image, SIDE)
    return _features(small, 1 - foreground(small))


def foreground(image: Tensor) -> Tensor:
    """How much each pixel of 1 3 h w belongs to the subject: h w in 0..1. All of an image that has the colors of its
    borders counts alike."""
    h, w = image.shape[2:]
    edge = torch.ones(h, w, dtype=torch.bool)
    edge[BORDER : h - BORDER, BORDER : w - BORDER] = False
    pixels = image[0].flatten(1).T
    border = pixels[edge.flatten()]
    border = border[torch.linspace(0, len(border) - 1, min(SAMPLES, len(border))).long()]
    near = torch.cdist(pixels, border, compute_mode="donot_use_mm_for_euclid_dist")
    least = near.kthvalue(max(1, round(NEAREST * len(border))), dim=1).values.square().unflatten(0, (h, w))
    return least / (least + DISTANCE**2)


def _features(image: Tensor, weights: Tensor) -> Features:
    if float(weights.sum()) < 1e-3:
        weights = torch.ones_like(weights)
    return Features(_root(_color_histogram(image[0].flatten(1).T, weights.flatten())), _root(_edges(image, weights)))


def _root(histogram: Tensor) -> Tensor:
    total = histogram.sum()
    if float(total) <= 0:
        histogram, total = torch.ones_like(histogram), histogram.new_tensor(float(len(histogram)))
    return (histogram / total).sqrt()


def _color_histogram(pixels: Tensor, weights: Tensor) -> Tensor:
    """pixels n 3, weights n; each pixel is shared among the eight nearest bins."""
    place = pixels.clamp(0, 1) * (LEVELS - 1)
    low = place.floor().clamp(max=LEVELS - 2)
    upper = place - low
    histogram = pixels.new_zeros(LEVELS**3)
    steps = torch.tensor([LEVELS**2, LEVELS, 1])
    for corner in torch.cartesian_prod(*(torch.arange(2),) * 3):
        share = torch.where(corner > 0, upper, 1 - upper).prod(dim=1)
        histogram.index_add_(0, ((low.long() + corner) * steps).sum(1), share * weights)
    return histogram


def _edges(image: Tensor, weights: Tensor) -> Tensor:
    """The directions of the edges of 1 3 h w, h w of weights; each edge is shared between the two nearest bins."""
    x, y = differences(grey(image[0].movedim(0, -1))[None, None])[0].flatten(1)
    place = torch.atan2(y, x).remainder(torch.pi) * (DIRECTIONS / torch.pi)
    low = place.floor()
    length = (x.square() + y.square()).sqrt() * weights.flatten()
    histogram = image.new_zeros(DIRECTIONS)
    histogram.index_add_(0, low.long() % DIRECTIONS, length * (1 - place + low))
    return histogram.index_add_(0, (low.long() + 1) % DIRECTIONS, length * (place - low))
