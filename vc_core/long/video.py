"""Videos by any method from vc_core's pipeline. Frames are returned as soon as they are known, so that a file can be
written while the rest is sampled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from torch import Tensor

from ..checks import check_ends
from ..control.table import check_each_section
from ..denoising import AnalyticInit, Level, Noise, NoiseSchedule, Sampling, Source, Step
from ..denoising.fifo import Estimator, estimator
from ..denoising.freeinit import GivenStart
from ..denoising.windows import ContextWindows
from ..errors import UserError
from ..features import Feature, Use, uses_of_model, uses_of_request, uses_of_start
from ..frames.fitting import fit
from ..network.memory import enough_memory
from ..network.replay import Replay
from ..pipeline import Request, VideoCrafter, released
from ..request import Settings
from ..specs import ModelSpec, Windows
from .engine import Clip, Part, Program
from .freenoise import FreeNoise
from .keyframes import KeyFrames, pairs
from .method import Method, Video
from .table import check, settled

OnStep = Callable[[Step], None]

DEFAULT = FreeNoise()
DECODED_AT_ONCE = 4


def applied(method: Method, request: Request, spec: ModelSpec) -> Request:
    """The request with the windows of the method and, where it leaves the sampling open, with the method's eta."""
    windows = method.settled(spec.unet.temporal_length).windows()
    if isinstance(windows, Windows):
        request = replace(request, windows=windows)
    elif isinstance(windows, ContextWindows):
        request = replace(request, context=windows)
    if request.sampling is not None or method.eta is None:
        return request
    own = spec.defaults
    sampling = Sampling(steps=own.steps, sampler=own.sampler, spacing=own.spacing, eta=method.eta)
    return replace(request, sampling=sampling)


def check_method(
    method: Method, request: Request, spec: ModelSpec, uses: Mapping[Feature, Use], option: str = "the method"
) -> None:
    """Raises UserError where the method does not support the model, the request, or what else is in use."""
    schedule = NoiseSchedule.from_spec(spec.diffusion).until(request.start)
    settings = applied(method, request, spec).settle(spec)
    video = Video(
        frames=settings.frames,
        first=lambda: settings.sampling.levels(schedule)[0],
        prompts=1 + len(request.then),
        spec=spec,
        option=option,
        rounds_option="--free-init" if option.startswith("--") else "free_init",
        uses={**uses_of_request(request), **uses_of_model(spec), **uses},
    )
    check(method.settled(spec.unet.temporal_length), video)


def frames(
    crafter: VideoCrafter,
    prompt: str,
    image: Tensor | None = None,
    *,
    request: Request | None = None,
    method: Method = DEFAULT,
    source: Source | AnalyticInit | None = None,
    end_image: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Iterator[Tensor]:
    """The frames h w 3 in 0..1 of a video of `request.frames` frames, as they become known.

    A video of one window or less is the plain clip with every method, except for rounds of FreeInit. What `on_step`
    raises stops the run, and so does asking for no more frames. source, end_image: as `VideoCrafter.generate` takes
    them. Raises UserError as `VideoCrafter.generate`, and for what the method does not support.
    """
    with enough_memory():
        spec = crafter.parts.spec
        request = request or Request()
        check_method(method, request, spec, uses_of_start(source, end_image))
        request = applied(method, request, spec)
        wanted = request.settle(spec).frames
        running = settled(method, trained=spec.unet.temporal_length, frames=wanted)
        engine = PipelineEngine(
            crafter=crafter,
            texts=(prompt, *request.then),
            images=[(image, end_image)],
            request=request,
            source=source,
            on_step=on_step,
        )
        ends = [shown for shown in (image, end_image) if shown is not None]
        made = (frame for part in running.run(engine) for frame in _decoded(engine, part, ends))
        yield from islice(made, wanted - request.loop)


def _decoded(engine: PipelineEngine, part: Part, ends: Sequence[Tensor]) -> Iterator[Tensor]:
    """The frames of a part; a decoder that looks at a clip's ends (ToonCrafter) sees the whole of it."""
    crafter, count = engine.crafter, part.latents.shape[2]
    together = crafter.parts.spec.sees_ends
    shown = ends if count == engine.frames else ()
    for some in part.latents.split(count if together else DECODED_AT_ONCE, dim=2):
        yield from crafter.decode(some, shown, engine.request.fit)


@enough_memory()
def key_frames(
    crafter: VideoCrafter,
    prompts: Sequence[str],
    images: Sequence[Tensor],
    *,
    request: Request | None = None,
    closed: bool = False,
    on_step: OnStep | None = None,
) -> Iterator[Tensor]:
    """The frames h w 3 in 0..1 of a video through key frames, section after section, as they become known.

    prompts: one for each section; the last is also that of the sections that have none. images: the key frames, two or
    more, h w 3 in 0..1, of any sizes. request: of each section; its `frames` count both ends, and the seed rises by one
    from section to section. Everything is checked before this returns. Raises UserError as `VideoCrafter.generate`.
    """
    request = replace(request or Request(), loop=False, then=())
    check_ends(crafter.parts.spec, wanted=True)
    check_each_section(request.controls)
    settings = request.settle(crafter.parts.spec)
    row = KeyFrames(sections=len(images) - (not closed), frames=settings.frames, closed=closed)
    row.check_prompts(len(prompts))
    fitted = [fit(image, settings.height, settings.width, request.fit) for image in images]
    engine = PipelineEngine(
        crafter=crafter, texts=prompts, images=pairs(fitted, closed=closed), request=request, on_step=on_step
    )
    return _sections(engine, row)


def _sections(engine: PipelineEngine, row: KeyFrames) -> Iterator[Tensor]:
    with enough_memory():
        for part in row.run(engine):
            ends = [image for image in engine.images[part.number] if image is not None]
            yield from engine.crafter.decode(part.latents, ends)[: part.keep]


@dataclass(frozen=True, eq=False, kw_only=True)
class PipelineEngine:
    """Clips of one video by vc_core's pipeline (see `engine.Engine`), at the scale of the autoencoder's spec.

    texts: the prompts, one after the other. images: what the first and the last frame of each clip show; the last pair
    counts for all later clips. request: with the windows of the method. source: what the video starts from instead of
    noise.
    """

    crafter: VideoCrafter
    texts: Sequence[str]
    images: Sequence[tuple[Tensor | None, Tensor | None]]
    request: Request
    source: Source | AnalyticInit | None = None
    on_step: OnStep | None = None

    @property
    def settings(self) -> Settings:
        """The request, complete with the model's own settings."""
        return self.request.settle(self.crafter.parts.spec)

    @property
    def frames(self) -> int:
        return self.settings.frames

    @property
    def shape(self) -> Sequence[int]:
        return self.settings.shape(self.crafter.parts.spec)

    @property
    def seed(self) -> int:
        return self.request.seed

    @property
    def prompts(self) -> int:
        return len(self.texts)

    @property
    def blends_prompts(self) -> bool:
        return False

    @property
    def continues_images(self) -> bool:
        return self.crafter.parts.spec.continues_images

    @property
    def levels(self) -> list[Level]:
        """The noise levels of a run from noise alone."""
        return self.settings.sampling.levels(self.crafter.schedule(self.request))

    @property
    def steps(self) -> int:
        return len(self.levels) - 1

    @property
    def rescheduling(self) -> Windows | None:
        return self.settings.sampling.windows

    def first_level(self) -> Level:
        return self.levels[0]

    def noise(self, seed: int) -> Noise:
        noise = Noise(seed)
        if self.continues_images and not self.request.sharp:
            batch, channels, _, height, width = self.shape
            ends = self.images[0][1] is not None and not self.request.loop
            for _ in range(1 + ends):
                noise.draw((batch, channels, height, width))
        return noise

    def make(self, clip: Clip) -> Tensor:
        request = replace(self.request, frames=clip.frames, seed=clip.seed)
        if clip.scene is not None:
            request = replace(request, then=())
        first, last = self.images[min(clip.number, len(self.images) - 1)]
        if clip.image is not None:
            first = self.crafter.decode(clip.image)[0]
        noise = None
        if clip.noise is not None:
            behind = self.noise(clip.seed)
            behind.draw(clip.noise.shape)  # the noise that the given one replaces
            noise = GivenStart(clip.noise, behind)
        steps = self.crafter.steps(
            self.texts[clip.scene or 0],
            first,
            request=request,
            source=clip.source or self.source,
            end_image=last,
            noise=noise,
        )
        latents: Tensor | None = None
        for step in steps:
            latents = step.x
            self.report(step)
        assert latents is not None
        return latents

    def report(self, step: Step) -> None:
        """Calls `on_step`, if there is one."""
        if self.on_step is not None:
            self.on_step(step)

    def scaled(self, latents: Tensor) -> Tensor:
        return latents

    def within(self, program: Program, *, opening: int, turns: int) -> Iterator[Tensor]:
        replay = self.crafter.replay()
        session = PipelineSession(engine=self, length=opening, replay=replay)
        for index, latents in enumerate(released(program(session), replay)):
            frame = latents[:, :, None]
            if not bool(frame.isfinite().all()):
                raise UserError(
                    f"Frame {index + 1} became NaN or infinite. Run the network in fp32 or bf16; lower cfg."
                )
            self.report(Step(index, self.frames, frame, frame))
            yield latents


@dataclass(frozen=True, eq=False, kw_only=True)
class PipelineSession:
    """The network of a pipeline, for programs that call it frame by frame. length: frames of the opening clip."""

    engine: PipelineEngine
    length: int
    replay: Replay | None

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule of the model."""
        return self.engine.crafter.schedule(self.engine.request)

    @property
    def seed(self) -> int:
        """The seed of the video."""
        return self.engine.seed

    def opening(self) -> Tensor:
        """Samples the first clip, b c f h w, of the first prompt."""
        return self.engine.make(Clip(frames=self.length, seed=self.seed, scene=0))

    def estimator(self) -> Estimator:
        """The guided network, with prompts that follow one another over the whole video."""
        engine, crafter, settings = self.engine, self.engine.crafter, self.engine.settings
        (image, _), request = engine.images[0], engine.request
        conditionings = crafter.conditionings(engine.texts, image, request, settings)
        conditionings["positive"] = replace(conditionings["positive"], early_text=None)
        crafter, attachment = crafter.controlled(engine.texts, request, settings, conditionings)
        replay = self.replay if crafter is engine.crafter else None
        size = math.prod(engine.shape[3:]) * self.length
        return estimator(
            partial(crafter.predict, adapters=crafter.adapters, network=replay),
            self.schedule,
            conditionings,
            frames=settings.frames,
            guidance=attachment.guidance(settings.sampling.guidance),
            together=request.together or (request.together is None and crafter.fits_together(size, 2)),
        )
