"""Videos longer than a model was trained on, one call for every way to make them.

freenoise   one clip, temporal attention in windows and noise used again (arXiv:2310.15169)
freelong    one clip, temporal attention to near frames with the slow part of that to all (arXiv:2407.19918)
windows     one clip, whole model calls in windows (`denoising.windows`)
fifo        a queue of frames of rising noise (`denoising.fifo`), which are handed out as they become clean
continue    clip after clip, each from the last frames of the one before (`denoising.continuing`)

`frames` hands out pixels as soon as they are known, so that a file can be written while the rest is being made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import Tensor

from .denoising import Noise, NoiseSchedule, Step
from .denoising.continuing import Continuation, Segment, continued
from .denoising.fifo import Queue, stream
from .denoising.freeinit import GivenStart, check_first, next_start
from .denoising.freenoise import rescheduled
from .denoising.windows import ContextWindows, Fuse, Order
from .errors import UserError
from .pipeline import Request, VideoCrafter, released
from .specs import ModelSpec, Windows

Method = Literal["off", "freenoise", "freelong", "windows", "fifo", "continue"]
METHODS: tuple[Method, ...] = ("off", "freenoise", "freelong", "windows", "fifo", "continue")
OnStep = Callable[[Step], None]

DECODED_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class Long:
    """How a long video is made.

    window, stride: frames of a model call and from one window to the next (freenoise, windows; of freelong the stride
        counts for the noise alone).
    order, fuse: see `denoising.windows.ContextWindows`.
    partitions: parts of the queue, see `denoising.fifo.Queue`.
    overlap: frames of the clip before that a new clip goes on from, 1 to window - 1 (continue).
    correct: 0..1, how much of the drift of brightness and colour is taken back (continue).
    free_init: further rounds that begin from the low frequencies of the result, see `denoising.freeinit`; the authors
        take 2 to 4 (3 to 5 with the first). 0 is off. Not with fifo and continue.
    """

    method: Method = "freenoise"
    window: int = 16
    stride: int = 4
    order: Order = "uniform"
    fuse: Fuse = "pyramid"
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
        if self.free_init < 0:
            raise UserError(
                f"{self.free_init} further rounds of FreeInit were asked for; give 0 (off) or more, usually 2 to 4."
            )
        if self.free_init and self.method in ("fifo", "continue"):
            raise UserError(
                f"FreeInit does not work with the method {self.method}. Set its rounds to 0, or choose off, freenoise, "
                "freelong or windows."
            )

    def applied(self, request: Request) -> Request:
        """The request with the windows of this way."""
        if self.method in ("freenoise", "freelong"):
            spectral = self.method == "freelong"
            return replace(request, windows=Windows(size=self.window, stride=self.stride, spectral=spectral))
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
    check_way(crafter.parts.spec, request, long)
    wanted = request.settle(crafter.parts.spec).frames
    if wanted <= long.window and long.method in ("fifo", "continue"):
        long = replace(long, method="off")
    if long.method == "fifo":
        parts = _fifo(crafter, prompt, picture, request, long, on_step)
    elif long.method == "continue":
        parts = _segments(crafter, (prompt, *request.then), picture, request, long, on_step)
    else:
        parts = iter([_rounds(crafter, prompt, picture, long.applied(request), long.free_init, on_step)])
    whole = crafter.parts.spec.autoencoder.reference_levels is not None
    ends = [] if picture is None or long.method == "continue" else [picture]
    for latents in parts:
        for some in latents.split(latents.shape[2] if whole else DECODED_AT_ONCE, dim=2):
            yield from crafter.decode(some, ends, request.fit)


def check_way(spec: ModelSpec, request: Request, long: Long) -> None:
    """Raises UserError where FreeInit, the queue or the segments do not work with the model or the request."""
    if long.free_init:
        schedule = NoiseSchedule.from_spec(spec.diffusion).until(request.start)
        check_first(request.settle(spec).sampling.levels(schedule)[0])
    if request.settle(spec).frames <= long.window:
        return
    if long.method == "fifo":
        _check_queue(spec, request)
    if long.method == "continue":
        _check_segments(spec, request, long)


def _check_queue(spec: ModelSpec, request: Request) -> None:
    if spec.unet.concat_channels or spec.unet.motion_width:
        raise UserError(
            "The queue of fifo cannot drive models that continue a picture or have motion guidance, and "
            f"{spec.name} is one. Choose freenoise, windows or continue."
        )
    cache = request.step_cache or request.guidance_cache
    if cache is not None:
        raise UserError(
            f"The cache {cache} was asked for with fifo, whose passes each hold another noise level for "
            "every frame, so that none continues the last. Leave the cache off, or choose another way."
        )
    if request.image_cfg is not None:
        raise UserError(
            f"A guidance scale for the picture ({request.image_cfg:g}) was asked for with fifo, whose queue has one "
            "scale for both. Leave it out, or choose another way."
        )


def _check_segments(spec: ModelSpec, request: Request, long: Long) -> None:
    """A segment has one prompt, so more prompts than segments cannot all be shown."""
    plan, prompts = _plan(spec, request, long), 1 + len(request.then)
    count = plan.count(long.window)
    if prompts > count:
        enough = long.window + 1 + (prompts - 2) * (long.window - plan.overlap)
        raise UserError(
            f"{prompts} prompts were given, but {plan.frames} frames are made as {count} segments of {long.window} "
            f"frames, each with one prompt. Give at most {count} prompts, ask for at least {enough} frames, or choose "
            "freenoise, in which prompts change from frame to frame."
        )


def _plan(spec: ModelSpec, request: Request, long: Long) -> Continuation:
    """The segments of *continue*. A model that continues pictures goes on from one frame."""
    overlap = 1 if spec.unet.concat_channels else long.overlap
    return Continuation(frames=request.settle(spec).frames, overlap=overlap, correct=long.correct)


def _last(steps: Iterator[Step], on_step: OnStep | None) -> Tensor:
    latents: Tensor | None = None
    for step in steps:
        latents = step.x
        if on_step is not None:
            on_step(step)
    assert latents is not None
    return latents


def _noise(crafter: VideoCrafter, request: Request) -> Noise:
    """The noise of a run, without what the latent of its picture has taken from it."""
    spec, noise = crafter.parts.spec, Noise(request.seed)
    if spec.unet.concat_channels and not request.sharp:
        batch, channels, _, height, width = request.settle(spec).shape(spec)
        noise.draw((batch, channels, height, width))
    return noise


def _rounds(
    crafter: VideoCrafter, prompt: str, picture: Tensor | None, request: Request, rounds: int, on_step: OnStep | None
) -> Tensor:
    """The latents of one clip, sampled once and then again in each round of FreeInit."""
    result = _last(crafter.steps(prompt, picture, request=request), on_step)
    if not rounds:
        return result
    settings = request.settle(crafter.parts.spec)
    first = settings.sampling.levels(crafter.schedule(request))[0]
    source = _noise(crafter, request)
    drawn = source.draw(result.shape, result.device)
    if settings.sampling.windows is not None:
        drawn = rescheduled(drawn, settings.sampling.windows, source)
    for _ in range(rounds):
        start = next_start(result, drawn, source.draw(result.shape, result.device), first)
        stream = _noise(crafter, request)  # the noise of the steps is that of the first round
        stream.draw(result.shape)
        steps = crafter.steps(prompt, picture, request=request, noise=GivenStart(start, stream))
        result = _last(steps, on_step)
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
    conditionings = crafter.conditionings((prompt, *request.then), picture, request, settings)
    positive = replace(conditionings["positive"], early_text=None)
    size = math.prod(settings.shape(crafter.parts.spec)[3:]) * long.window
    replay = crafter.replay()
    made = stream(
        partial(crafter.predict, network=replay),
        crafter.schedule(request),
        {**conditionings, "positive": positive},
        base=base,
        frames=settings.frames,
        noise=Noise((request.seed + 1) % 2**64),
        guidance=settings.sampling.guidance,
        queue=queue,
        together=request.together or (request.together is None and crafter.fits_together(size, 2)),
    )
    for index, latents in enumerate(released(made, replay)):
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
    """Latents of clip after clip. A model that continues pictures is shown the last frame of the clip before, and holds
    that one; all others hold `overlap` frames, and see the picture that was given."""
    short = replace(request, frames=long.window, then=())
    settings = short.settle(crafter.parts.spec)
    concat = bool(crafter.parts.spec.unet.concat_channels)
    steps = len(settings.sampling.levels(crafter.schedule(request))) - 1
    plan = replace(_plan(crafter.parts.spec, request, long), steps=steps)
    count = plan.count(long.window)
    shape, device = settings.shape(crafter.parts.spec), crafter.parts.device

    def scene(number: int) -> int:
        return min(number * len(prompts) // count, len(prompts) - 1)

    def make(segment: Segment) -> Tensor:
        if segment.source is None:
            return _last(crafter.steps(prompts[0], picture, request=short), on_step)
        again = replace(short, seed=(request.seed + segment.number) % 2**64)
        stream = _noise(crafter, again)
        stream.draw(shape)  # stands for the noise that is given
        start = segment.source
        shown = picture
        if concat:
            shown = crafter.decode(start.latents[:, :, :1])[0]
        steps = crafter.steps(
            prompts[scene(segment.number)],
            shown,
            request=again,
            source=start,
            noise=GivenStart(segment.noise, stream),
        )
        return _last(steps, on_step)

    source = _noise(crafter, short)
    return continued(make, source.draw(shape, device), source, plan, scene)
