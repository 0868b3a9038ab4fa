"""The order of the frames: ping-pong, cross-faded loop, repeats. The clip is never copied."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

Frame = Any
"""A frame h w 3 or h w 4: a tensor or array, float in 0..1 or uint8."""


@runtime_checkable
class Clip(Protocol):
    """Frames with random access: a tensor f h w c, an array or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def count_of(frames: Iterable[Frame]) -> int | None:
    """The number of frames, or None if it is not known in advance."""
    return len(frames) if isinstance(frames, Clip) else None


def in_order(frames: Iterable[Frame] | Clip) -> Iterator[Frame]:
    """The frames one by one, without copying."""
    if isinstance(frames, Clip):
        return (frames[i] for i in range(len(frames)))
    return iter(frames)


def arranged(frames: Iterable[Frame], *, ping_pong: bool, fade: int, plays: int) -> tuple[Iterator[Frame], int | None]:
    """The frames in their new order, and their number, or None if it is not known in advance.

    ping_pong: forwards, then backwards without the first and the last frame, so that a loop shows no frame twice in a
        row.
    fade: number of frames at the end that fade into the beginning. The first `fade` frames are omitted at the start, so
        that the end leads into the beginning.
    plays: how many times to repeat all of this, at least 1.

    Raises UserError if the options are invalid or the frames do not support them.
    """
    _check(frames, ping_pong, fade, plays)
    count = count_of(frames)
    if fade:
        return _repeated(lambda: seamless(in_order(frames), fade), plays), None if count is None else (
            count - fade
        ) * plays
    if ping_pong and isinstance(frames, Clip):
        return _repeated(lambda: back_and_forth(frames), plays), max(len(frames), 2 * len(frames) - 2) * plays
    return _repeated(lambda: in_order(frames), plays), None if count is None else count * plays


def _check(frames: Iterable[Frame], ping_pong: bool, fade: int, plays: int) -> None:
    if ping_pong and fade:
        raise UserError("Ping-pong and a cross-faded loop both make a seamless loop; choose only one of them.")
    if plays < 1 or fade < 0:
        raise UserError(
            f"The number of plays is {plays} and that of faded frames {fade}; they must be at least 1 and at least 0."
        )
    if (ping_pong or plays > 1) and not isinstance(frames, Clip):
        raise UserError(
            "Ping-pong and repeats need random access to the frames: use a tensor or a list, not a generator."
        )
    count = count_of(frames)
    if count is not None and 2 * fade > count:
        raise _too_short(count, fade)


def _too_short(count: int, fade: int) -> UserError:
    return UserError(
        f"A cross-fade over {fade} frames needs a clip of at least {2 * fade}; this one has {count}. Choose at most "
        f"{count // 2}."
    )


def back_and_forth(frames: Clip) -> Iterator[Frame]:
    """0 1 2 3 -> 0 1 2 3 2 1"""
    last = len(frames) - 1
    yield from in_order(frames)
    for i in range(last - 1, 0, -1):
        yield frames[i]


def seamless(frames: Iterator[Frame], fade: int) -> Iterator[Frame]:
    """f -> f - fade: holds back the first `fade` frames and cross-fades the last ones into them."""
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
        raise _too_short(len(head) + len(tail), fade)
    for i, (ending, beginning) in enumerate(zip(tail, head, strict=True)):
        weight = (i + 1) / (fade + 1)
        yield _unit(ending) * (1.0 - weight) + _unit(beginning) * weight


def _repeated(once: Callable[[], Iterator[Frame]], plays: int) -> Iterator[Frame]:
    for _ in range(plays):
        yield from once()


def _unit(frame: Frame) -> Tensor:
    values = torch.from_numpy(frame) if isinstance(frame, np.ndarray) else frame
    return values.float().div(255.0) if values.dtype == torch.uint8 else values.float()
