"""A video through a row of key frames: the ways from each to the next, joined so that no frame stands twice.

Each way is a clip between two pictures (DynamiCrafter, best its model for interpolation, or ToonCrafter), and its last
frame is the first of the next. A closed row goes on from the last key frame to the first: it loops without a seam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from .denoising import Step
from .errors import UserError
from .frames.fitting import fit
from .pipeline import Request, VideoCrafter, check_ends

Item = TypeVar("Item")


def ways(row: Sequence[Item], *, closed: bool) -> list[tuple[Item, Item]]:
    """Where each clip begins and ends."""
    ends = [*row[1:], row[0]] if closed else row[1:]
    return list(zip(row, ends, strict=False))


def length(keys: int, frames: int, *, closed: bool) -> int:
    """Frames of the video through `keys` key frames, with `frames` from one to the next, both included. A closed row
    leaves out the last, which is the first again."""
    return keys * (frames - 1) if closed else (keys - 1) * (frames - 1) + 1


def check_prompts(count: int, *, ways: int) -> None:
    """Raises UserError for more prompts than there are ways from one key frame to the next."""
    if count > ways:
        raise UserError(
            f"{count} prompts were given for {ways} ways from one key frame to the next: give one for each, or one for "
            "all."
        )


def frames(
    crafter: VideoCrafter,
    prompts: Sequence[str],
    pictures: Sequence[Tensor],
    *,
    request: Request | None = None,
    closed: bool = False,
    on_step: Callable[[Step], None] | None = None,
) -> Iterator[Tensor]:
    """The frames h w 3 in 0..1 of the video, clip after clip, as they become known.

    prompts: one for each way; the last also tells the ways that have none. pictures: two or more, h w 3 in 0..1, of any
    sizes. request: of each way; its `frames` count both ends, and the seed rises by one from way to way.
    Everything given is checked before this returns. Raises UserError as `VideoCrafter.generate`.
    """
    request = replace(request or Request(), loop=False, then=())
    check_ends(crafter.parts.spec, wanted=True)
    settings = request.settle(crafter.parts.spec)
    if len(pictures) < 2 or settings.frames < 2:
        raise UserError(
            f"{len(pictures)} key frames with {settings.frames} frames from one to the next were asked for; give 2 or "
            "more of both."
        )
    check_prompts(len(prompts), ways=len(pictures) if closed else len(pictures) - 1)
    fitted = [fit(picture, settings.height, settings.width, request.fit) for picture in pictures]
    return _clips(crafter, prompts, ways(fitted, closed=closed), request, closed, on_step)


def _clips(
    crafter: VideoCrafter,
    prompts: Sequence[str],
    pairs: Sequence[tuple[Tensor, Tensor]],
    request: Request,
    closed: bool,
    on_step: Callable[[Step], None] | None,
) -> Iterator[Tensor]:
    for number, (first, last) in enumerate(pairs):
        prompt = prompts[min(number, len(prompts) - 1)]
        again = replace(request, seed=(request.seed + number) % 2**64)
        latents = torch.empty(0)
        for step in crafter.steps(prompt, first, request=again, end_image=last):
            latents = step.x
            if on_step is not None:
                on_step(step)
        whole = number == len(pairs) - 1 and not closed
        yield from crafter.decode(latents, (first, last))[: None if whole else -1]
