"""Videos longer than a model was trained on, one call for every way to make them.

freenoise   one clip, temporal attention in windows and noise used again (arXiv:2310.15169)
windows     one clip, whole model calls in windows (`denoising.windows`)
fifo        a queue of frames of rising noise (`denoising.fifo`), which are handed out as they become clean
continue    clip after clip, each from the last frames of the one before

`frames` hands out pixels as soon as they are known, so that a file can be written while the rest is being made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from .denoising import Noise, Source, Step
from .denoising.fifo import Queue, stream
from .denoising.freeinit import GivenStart, next_start
from .denoising.freenoise import rescheduled
from .denoising.windows import ContextWindows
from .errors import UserError
from .pipeline import GREY, Request, VideoCrafter
from .specs import Windows

Method = Literal["off", "freenoise", "windows", "fifo", "continue"]
METHODS: tuple[Method, ...] = ("off", "freenoise", "windows", "fifo", "continue")
OnStep = Callable[[Step], None]

DECODED_AT_ONCE = 4
LEAST_GAIN, MOST_GAIN = 0.8, 1.25
"""How far the contrast of a segment may be corrected: what is beyond is change that the prompt wants."""


@dataclass(frozen=True, kw_only=True)
class Long:
    """How a long video is made.

    window, stride: frames of a model call and from one window to the next (freenoise, windows).
    order, fuse: see `denoising.windows.ContextWindows`.
    partitions: parts of the queue, see `denoising.fifo.Queue`.
    overlap: frames of the segment before that a new segment sees and keeps, 1 to window - 1 (continue).
    correct: 0..1, how much of the drift of brightness and colour is taken back (continue).
    free_init: further rounds that begin from the low frequencies of the result, see `denoising.freeinit`; the authors
        take 3 to 5. 0 is off. Not with fifo and continue.
    """

    method: Method = "freenoise"
    window: int = 16
    stride: int = 4
    order: Literal["static", "uniform", "looped"] = "static"
    fuse: Literal["pyramid", "overlap", "flat"] = "pyramid"
    partitions: int = 4
    overlap: int = 8
    correct: float = 1.0
    free_init: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"There is no way {self.method!r} to long videos; choose one of {', '.join(METHODS)}.")
        if not 1 <= self.overlap < self.window:
            raise UserError(
                f"An overlap of {self.overlap} frames was asked for; it should be from 1 to {self.window - 1}, so that "
                f"a segment of {self.window} frames adds new ones."
            )
        if not 0 <= self.correct <= 1:
            raise UserError(f"The correction of drift is {self.correct}; it should be from 0 (off) to 1.")
        if self.free_init < 0 or (self.free_init and self.method in ("fifo", "continue")):
            raise UserError(
                f"{self.free_init} rounds of FreeInit with the method {self.method} were asked for; give 0 or more, "
                "with off, freenoise or windows."
            )

    def applied(self, request: Request) -> Request:
        """The request with the windows of this way."""
        if self.method == "freenoise":
            return replace(request, windows=Windows(size=self.window, stride=self.stride))
        if self.method == "windows":
            context = ContextWindows(size=self.window, stride=self.stride, order=self.order, fuse=self.fuse)
            return replace(request, context=context)
        return request


def frames(
    crafter: VideoCrafter,
    prompt: str,
    picture: Tensor | None = None,
    *,
    request: Request | None = None,
    long: Long = Long(),
    on_step: OnStep | None = None,
) -> Iterator[Tensor]:
    """The frames h w 3 in 0..1 of a video of `request.frames` frames, as they become known.

    A clip of `long.window` frames or fewer is the plain clip, in every way but FreeInit. What `on_step` raises stops
    the run, and so does no longer asking for frames. Raises UserError as `VideoCrafter.generate`.
    """
    request = request or Request()
    wanted = request.settle(crafter.parts.spec).frames
    if wanted <= long.window and long.method in ("fifo", "continue"):
        long = replace(long, method="off")
    if long.method == "fifo":
        cache = request.step_cache or request.guidance_cache
        if cache is not None:
            raise UserError(
                f"The cache {cache} was asked for with fifo, whose passes each hold another noise level for "
                "every frame, so that none continues the last. Leave the cache off, or choose another way."
            )
        parts = _fifo(crafter, prompt, picture, request, long, on_step)
    elif long.method == "continue":
        parts = _segments(crafter, (prompt, *request.then), picture, request, long, on_step)
    else:
        parts = iter([_rounds(crafter, prompt, picture, long.applied(request), long.free_init, on_step)])
    for latents in parts:
        for some in latents.split(DECODED_AT_ONCE, dim=2):
            yield from crafter.decode(some)


def _last(steps: Iterator[Step], on_step: OnStep | None) -> Tensor:
    latents: Tensor | None = None
    for step in steps:
        latents = step.x
        if on_step is not None:
            on_step(step)
    assert latents is not None
    return latents


def _rounds(
    crafter: VideoCrafter, prompt: str, picture: Tensor | None, request: Request, rounds: int, on_step: OnStep | None
) -> Tensor:
    """The latents of one clip, sampled once and then again in each round of FreeInit."""
    result = _last(crafter.steps(prompt, picture, request=request), on_step)
    if not rounds:
        return result
    settings = request.settle(crafter.parts.spec)
    first = settings.sampling.levels(crafter.parts.schedule)[0]
    source = Noise(request.seed)
    drawn = source.draw(result.shape, result.device)
    if settings.sampling.windows is not None:
        drawn = rescheduled(drawn, settings.sampling.windows, source)
    for _ in range(rounds):
        start = next_start(result, drawn, source.draw(result.shape, result.device), first)
        steps = crafter.steps(prompt, picture, request=request, noise=GivenStart(start, source))
        result, drawn = _last(steps, on_step), start
    return result


def _fifo(
    crafter: VideoCrafter,
    prompt: str,
    picture: Tensor | None,
    request: Request,
    long: Long,
    on_step: OnStep | None,
) -> Iterator[Tensor]:
    """Latents of one frame after the other."""
    settings = request.settle(crafter.parts.spec)
    queue = Queue(size=long.window, partitions=long.partitions)
    base = _last(crafter.steps(prompt, picture, request=replace(request, frames=long.window, then=())), on_step)
    positive = replace(crafter.told((prompt, *request.then), picture, settings), early_text=None)
    negative = None
    if settings.sampling.guidance.passes:
        negative = crafter.told((request.negative,), None if picture is None else GREY, settings)
    made = stream(
        crafter.predict,
        crafter.parts.schedule,
        positive,
        negative,
        base=base,
        frames=settings.frames,
        noise=Noise((request.seed + 1) % 2**64),
        guidance=replace(settings.sampling.guidance, image_scale=None),
        queue=queue,
    )
    for index, latents in enumerate(made):
        frame = latents[:, :, None]
        if not bool(frame.isfinite().all()):
            raise UserError(f"Frame {index + 1} became NaN or infinite. Run the network in fp32 or bf16; lower cfg.")
        if on_step is not None:
            on_step(Step(index, settings.frames, frame, frame))
        yield frame


def _segments(
    crafter: VideoCrafter,
    prompts: Sequence[str],
    picture: Tensor | None,
    request: Request,
    long: Long,
    on_step: OnStep | None,
) -> Iterator[Tensor]:
    """Latents of the first clip, then those that each further segment adds."""
    wanted = request.settle(crafter.parts.spec).frames
    concat = bool(crafter.parts.spec.unet.concat_channels)
    overlap = 1 if concat else long.overlap
    added = long.window - overlap
    count = 1 + -(-(wanted - long.window) // added)
    short = replace(request, frames=long.window, then=())
    first = kept = _last(crafter.steps(prompts[0], picture, request=short), on_step)
    yield first
    made = long.window
    for number in range(1, count):
        prompt = prompts[min(number * len(prompts) // count, len(prompts) - 1)]
        again = replace(short, seed=(request.seed + number) % 2**64)
        shown = crafter.decode(kept[:, :, -1:])[0] if picture is not None else None
        source = None if concat else _after(kept, overlap)
        segment = _last(crafter.steps(prompt, shown, request=again, source=source), on_step)
        new = undrifted(segment[:, :, overlap:], first, long.correct)[:, :, : wanted - made]
        kept = torch.cat([kept, new], dim=2)[:, :, -long.window :]
        made += new.shape[2]
        yield new


def _after(kept: Tensor, overlap: int) -> Source:
    """A clip whose first frames are the last ones of `kept`, and whose other frames are made anew."""
    window = kept.shape[2]
    latents = torch.cat([kept[:, :, -overlap:], kept[:, :, -1:].expand(-1, -1, window - overlap, -1, -1)], dim=2)
    mask = torch.ones(window, 1, 1)
    mask[:overlap] = 0
    return Source(latents, 1.0, mask)


def undrifted(new: Tensor, first: Tensor, amount: float) -> Tensor:
    """Latents b c f h w brought back to the mean and the contrast of the first clip's channels.

    The share rises over the frames from almost none to `amount`: drift grows from frame to frame, and the first new
    frame must stay beside the last old one."""
    axes = (2, 3, 4)
    gain = first.std(axes, keepdim=True) / new.std(axes, keepdim=True).clamp_min(1e-6)
    gain = gain.clamp(LEAST_GAIN, MOST_GAIN)
    there = (new - new.mean(axes, keepdim=True)) * gain + first.mean(axes, keepdim=True)
    share = amount * torch.arange(1, new.shape[2] + 1, device=new.device, dtype=new.dtype) / new.shape[2]
    return torch.lerp(new, there, share[:, None, None])
