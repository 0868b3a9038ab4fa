"""SHAPES -> NUMBERS: what the `measure` functions of the parts share.

They take `{name in the module: shape}` and return the fields of a spec that can be read from it; those that cannot
(head widths, norm groups) are absent from what they return.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
Fields = dict[str, Any]


MOST = 10**6
"""No size that is measured is larger; the largest published one is the 49408 words of the vocabulary."""
DIGITS = 4
"""Of the number of a layer."""
MISSING = 8
"""How many numbered layers may be missing in a row, in addition to as many as are there, for them to be counted."""


class MissingTensorError(ValueError):
    """A part lacks a tensor that its numbers are read from, or the tensor has a shape that no model has."""


def size(shapes: Shapes, name: str, axis: int) -> int:
    """The size of a tensor along an axis. Raises MissingTensorError."""
    if name not in shapes:
        raise MissingTensorError(f"the tensor {name} is missing")
    shape = shapes[name]
    if len(shape) <= axis:
        raise MissingTensorError(f"the tensor {name} has shape {list(shape)}: too few dimensions")
    if not 0 < shape[axis] <= MOST:
        raise MissingTensorError(f"the tensor {name} has shape {list(shape)}, which no model has")
    return shape[axis]


def count(shapes: Shapes, pattern: str) -> int:
    """One more than the highest number that the pattern's group finds; 0 where it never matches. Raises
    MissingTensorError where a name claims many more layers than there are."""
    found = {match[1] for name in shapes if (match := re.match(pattern, name))}
    longest = max(found, key=len, default="")
    if len(longest) > DIGITS or max(map(int, found), default=0) > 2 * len(found) + MISSING:
        raise MissingTensorError(f"layers are numbered up to {longest[:DIGITS]}, but there are only {len(found)}")
    return max(map(int, found), default=-1) + 1


def levels(shapes: Shapes) -> tuple[list[int], int, tuple[int, ...]]:
    """Of an encoder of residual blocks: the width of each level, the blocks per level, and the levels with attention.
    Raises MissingTensorError."""
    widths: list[int] = []
    counts: list[int] = []
    attention: list[int] = []
    new_level = True
    for i in range(1, count(shapes, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{i}.0.op.weight" in shapes:
            new_level = True
            continue
        width = size(shapes, f"input_blocks.{i}.0.out_layers.3.weight", 0)
        if new_level:
            widths.append(width)
            counts.append(0)
            new_level = False
        counts[-1] += 1
        if f"input_blocks.{i}.1.proj_in.weight" in shapes and len(widths) - 1 not in attention:
            attention.append(len(widths) - 1)
    if not counts or len(set(counts)) != 1:
        raise MissingTensorError(f"its levels have {counts} residual blocks, which should be the same number")
    return widths, counts[0], tuple(attention)
