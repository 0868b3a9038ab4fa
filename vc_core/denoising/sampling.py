"""From noise to latents: schedule, guidance, denoiser and sampler joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ..conditions import Conditioning, roles
from ..errors import UserError
from ..specs import Windows
from .caching import Quality, check_quality, guidance_cache
from .denoiser import denoiser
from .draft import Opening
from .freenoise import rescheduled
from .guidance import Conditionings, Guidance, Model, Predictor, guide
from .noise import NoiseSource
from .samplers import SAMPLERS, Step
from .schedule import End, Level, NoiseSchedule, Spacing
from .start import AnalyticInit, Masked, Source, released, remaining, start, steps_of

Open = Callable[[], Opening]
"""Gives the run that is about to begin. Raises UserError for models without a noise schedule."""

Begin = Callable[[Tensor, Open], Tensor]
"""(noise b c f h w, what gives the run) -> the noise to begin with"""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The settings of a run; the defaults are the reference's.

    steps: 1 up to the number of timesteps the model was trained with (1000). With uniform spacing a few more may be
        run (60 give 63) and some counts do not exist.
    sampler: a name in SAMPLERS. "ddim" is the reference's.
    spacing: "uniform" as the reference, "trailing", which starts at the very last timestep, or "lcm" for consistency
        models; None is "lcm" for the sampler of that name and "uniform" for the others.
    eta: 0..1, the share of fresh noise in each step, for the samplers that have any.
    end: "reference" leaves the trace of noise that the reference leaves, "clean" none; None is "reference" for ddim and
        "clean" for the others, as users of each expect.
    together: the branches of guidance in one pass where the model supports that (see `guidance.Model`): faster by what
        they share, with the memory of all of them.
    guidance_cache: a quality of `caching`, which skips most of the negative passes; None computes them all.
    windows: for clips longer than the model was trained on: the noise of the first frames is reused for the later
        ones in another order (FreeNoise). The model itself has to attend in the same windows.

    Raises UserError for values out of range.
    """

    steps: int = 50
    sampler: str = "ddim"
    spacing: Spacing | None = None
    eta: float = 1.0
    end: End | None = None
    guidance: Guidance = field(default_factory=Guidance)
    windows: Windows | None = None
    together: bool = False
    guidance_cache: Quality | None = None

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise UserError(f"There is no sampler {self.sampler!r}; choose one of {', '.join(SAMPLERS)}.")
        if not 0 <= self.eta <= 1:
            raise UserError(f"eta is {self.eta}; it should be from 0 (no fresh noise) to 1 (as much as the reference).")
        if self.end not in (None, "reference", "clean"):
            raise UserError(f"The end of sampling is {self.end!r}; it can be 'reference', 'clean' or None.")
        if self.guidance_cache is not None:
            check_quality(self.guidance_cache)

    def levels(self, schedule: NoiseSchedule) -> list[Level]:
        """The noise levels of a run from pure noise: where each step starts, then where the last one ends."""
        end = self.end or ("reference" if self.sampler == "ddim" else "clean")
        spacing = self.spacing or ("lcm" if self.sampler == "lcm" else "uniform")
        return schedule.levels(schedule.timesteps(self.steps, spacing), end)


def sample(
    model: Model,
    schedule: NoiseSchedule,
    conditionings: Conditionings,
    *,
    noise: NoiseSource,
    shape: Sequence[int] | None = None,
    source: Source | AnalyticInit | None = None,
    settings: Sampling = Sampling(),
    begin: Begin | None = None,
) -> Iterator[Step]:
    """Denoise from noise of a `shape` (b c f h w), or from a `source`; exactly one of the two is given.

    conditionings: by name, "positive" and what the guidance needs, see `Guidance.conditionings`.
    begin: changes the first noise, b c f h w. It also receives a function that gives the run, see `draft.Opening`.

    Yields after each step; `x` of the last step is the result. Latents are float32, on the device of the conditioning.
    All inputs are checked before this returns; nothing runs before the first step is asked for. Raises UserError for
    bad input and, at the step at fault, when the latents become NaN or infinite.
    """
    shape = _checked_shape(shape, source)
    for name, conditioning in conditionings.items():
        if conditioning is not None:
            _check_conditioning(conditioning, shape, name)
    levels = settings.levels(schedule)
    cache = None if settings.guidance_cache is None else guidance_cache(len(levels) - 1, settings.guidance_cache)
    guided = guide(model, conditionings, settings.guidance, together=settings.together, cache=cache)
    denoise = denoiser(guided, schedule.prediction, levels)
    positive = conditionings["positive"]
    assert positive is not None  # `guide` has checked it

    def run() -> Iterator[Step]:
        drawn = noise.draw(shape, positive.text.device, torch.float32)
        if settings.windows is not None:
            drawn = rescheduled(drawn, settings.windows, noise)
        if begin is not None:
            drawn = begin(drawn, partial(_opening, guided, schedule, remaining(levels, source)[0], source))
        x, left = start(levels, drawn, source)
        sampler = partial(SAMPLERS[settings.sampler], levels=left, noise=noise, eta=settings.eta)
        for step in steps_of(sampler, denoise, x, left, _masked(source, drawn, len(schedule))):
            if not bool(step.x.isfinite().all()):
                raise UserError(_not_finite(step, left[step.index], settings))
            yield step

    return run()


def _opening(guided: Predictor, schedule: NoiseSchedule, first: Level, source: Source | AnalyticInit | None) -> Opening:
    """The run that is about to begin at a level."""
    video = source.latents if isinstance(source, Source) and source.strength < 1 else None
    return Opening(denoise=denoiser(guided, schedule.prediction), schedule=schedule, first=first, video=video)


def _masked(source: Source | AnalyticInit | None, drawn: Tensor, timesteps: int) -> Masked | None:
    """The part of a source that its mask keeps, in a schedule of so many timesteps."""
    if not isinstance(source, Source) or source.mask is None:
        return None
    mask, until = source.mask.to(drawn), source.kept_until
    return Masked(source.latents.to(drawn), drawn, lambda level: released(mask, level, until, timesteps))


def _checked_shape(shape: Sequence[int] | None, source: Source | AnalyticInit | None) -> tuple[int, ...]:
    if (shape is None) == (source is None):
        raise UserError("Give either the shape of the latents to make or a source to start from, not both or neither.")
    sizes = tuple(source.latents.shape) if source is not None else tuple(shape or ())
    if len(sizes) != 5 or any(size < 1 for size in sizes):
        raise UserError(
            f"The latents have the shape {sizes}; they should have 5 axes: batch, channels, frames, height, width, "
            "each 1 or more."
        )
    return sizes


def _check_conditioning(conditioning: Conditioning, shape: tuple[int, ...], name: str) -> None:
    """Raises UserError where a field has NaN values, or a shape that does not fit latents of `shape`, b c f h w."""
    batch, _, frames, *grid = shape
    text = conditioning.text
    if text.ndim not in (3, 4) or len(text) != batch:
        raise UserError(
            f"The {name} conditioning's text has the shape {tuple(text.shape)}; for a batch of {batch} it should "
            f"be ({batch}, tokens, width), or ({batch}, {frames} frames, tokens, width)."
        )
    for field_name, tensor in conditioning.tensors().items():
        role = roles(type(conditioning))[field_name]
        if role.grid and (len(tensor), *tensor.shape[2:]) != (batch, frames, *grid):
            raise UserError(
                f"The {name} conditioning's {role.label} has the shape {tuple(tensor.shape)}, which does not fit "
                f"latents of {tuple(shape)}: encode the image at the size and number of frames of the clip."
            )
        axis = role.over_frames(tensor)
        if axis is not None and tensor.shape[axis] != frames:
            raise UserError(
                f"The {name} conditioning has {role.label} for {tensor.shape[axis]} frames, but the latents have "
                f"{frames}; give one for each frame, or one for all."
            )
        if not bool(tensor.isfinite().all()):
            raise UserError(
                f"The {name} conditioning's {role.label} holds NaN or infinite values. Run its encoder in fp32, and "
                "check the encoder's file."
            )


def _not_finite(step: Step, level: Level, settings: Sampling) -> str:
    return (
        f"The latents became NaN or infinite at step {step.index + 1} of {step.total} (timestep {level.timestep:g}). "
        "Run the network in fp32 or bf16 if it runs in fp16; lower the guidance scale (cfg), which is "
        f"{settings.guidance.scale:g}; if it happens at the first step, check the model's file for NaN weights."
    )
