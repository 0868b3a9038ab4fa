"""The order of the frames: backwards again, faded into a seamless loop, repeated. Nothing here copies the clip."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

Frame = Any
"""h w 3 or h w 4: a float tensor or array in 0..1, or one of uint8."""


@runtime_checkable
class Clip(Protocol):
    """Frames that can be asked for again and by number: a tensor f h w c, an array, a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def count_of(frames: Iterable[Frame]) -> int | None:
    """The number of frames where it is known beforehand."""
    return len(frames) if isinstance(frames, Clip) else None


def in_order(frames: Iterable[Frame] | Clip) -> Iterator[Frame]:
    """The frames one by one; of a tensor they are views."""
    if isinstance(frames, Clip):
        return (frames[i] for i in range(len(frames)))
    return iter(frames)


def arranged(frames: Iterable[Frame], *, ping_pong: bool, fade: int, plays: int) -> tuple[Iterator[Frame], int | None]:
    """The frames in their new order and their number where it is known.

    `ping_pong`: forwards, then backwards without the two ends, so that a loop shows no frame twice in a row. `fade`:
    the last so many frames fade into the first, which are left out at the start, so that the end runs into the
    beginning. `plays`: the whole of it so many times. Raises UserError where the frames do not allow it.
    """
    if ping_pong and fade:
        raise UserError("Ping-pong and a cross-faded loop both make a seamless loop; choose one of them.")
    if plays < 1 or fade < 0:
        raise UserError(
            f"The number of plays must be at least 1 and that of faded frames 0 or more, not {plays}, {fade}."
        )
    count = count_of(frames)
    if (ping_pong or plays > 1) and not isinstance(frames, Clip):
        raise UserError("Ping-pong and repeats need all frames at once: give a tensor or a list, not a generator.")
    if count is not None and 2 * fade > count:
        raise UserError(f"{fade} frames at each end cannot fade in a clip of {count}; choose at most {count // 2}.")

    def once() -> Iterator[Frame]:
        if fade:
            return seamless(in_order(frames), fade)
        return there_and_back(frames) if ping_pong and isinstance(frames, Clip) else in_order(frames)

    if count is not None:
        count = (count - fade if fade else max(count, 2 * count - 2) if ping_pong else count) * plays
    return _repeated(once, plays), count


def there_and_back(frames: Clip) -> Iterator[Frame]:
    """0 1 2 3 -> 0 1 2 3 2 1"""
    last = len(frames) - 1
    yield from in_order(frames)
    for i in range(last - 1, 0, -1):
        yield frames[i]


def seamless(frames: Iterator[Frame], fade: int) -> Iterator[Frame]:
    """f -> f - fade: the first `fade` frames are held back, and the last ones fade into them."""
    head: list[Frame] = []
    tail: deque[Frame] = deque()
    for frame in frames:
        if len(head) < fade:
            head.append(frame)
            continue
        tail.append(frame)
        if len(tail) > fade:
            yield tail.popleft()
    if len(tail) < fade:
        raise UserError(f"{fade} frames at each end cannot fade in a clip of {len(head) + len(tail)}.")
    for i, (leaving, coming) in enumerate(zip(tail, head, strict=True)):
        weight = (i + 1) / (fade + 1)
        yield _unit(leaving) * (1.0 - weight) + _unit(coming) * weight


def _repeated(once: Callable[[], Iterator[Frame]], plays: int) -> Iterator[Frame]:
    for _ in range(plays):
        yield from once()


def _unit(frame: Frame) -> Tensor:
    values = torch.from_numpy(frame) if isinstance(frame, np.ndarray) else frame
    return values.float().div(255.0) if values.dtype == torch.uint8 else values.float()
