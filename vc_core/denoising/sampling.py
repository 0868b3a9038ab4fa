"""From noise to latents: schedule, guidance, denoiser and sampler joined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from ..conditions import Conditioning
from ..errors import UserError
from ..specs import Windows
from .caching import GuidanceCache, Quality, check_quality
from .denoiser import denoiser
from .freenoise import rescheduled
from .guidance import Guidance, Model, guide
from .noise import NoiseSource
from .samplers import SAMPLERS, Step
from .schedule import End, Level, NoiseSchedule, Spacing
from .start import AnalyticInit, Source, blend, keep, noised, start


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
    together: positive and negative in one pass where the model can do that (see `guidance.Model`): faster by what they
        share, with the memory of two.
    guidance_cache: a quality of `caching`, which leaves most of the negative passes out; None computes them all.
    windows: for clips longer than the model was trained on: the noise of the first frames is used again for the later
        ones in another order (FreeNoise). The model is the one to attend in the same windows.
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
    positive: Conditioning,
    negative: Conditioning | None = None,
    *,
    noise: NoiseSource,
    shape: Sequence[int] | None = None,
    source: Source | AnalyticInit | None = None,
    settings: Sampling = Sampling(),
    textless: Conditioning | None = None,
) -> Iterator[Step]:
    """Denoise from noise of a `shape` (b c f h w), or from a `source`; exactly one of the two is given.

    `textless`, the picture without the text, is needed for an image scale in the guidance.

    Yields after each step; `x` of the last step is the result. Latents are float32, on the device of the conditioning.
    All inputs are checked before this returns; nothing runs before the first step is asked for. Raises UserError for
    bad input and, at the step at fault, when the latents become NaN or infinite.
    """
    shape = _checked_shape(shape, source)
    _check_conditioning(positive, shape, "positive")
    for which, other in (("negative", negative), ("textless", textless)):
        if other is not None:
            _check_conditioning(other, shape, which)
    levels = settings.levels(schedule)
    starts = [level.timestep for level in levels[:-1]]
    cache = None if settings.guidance_cache is None else GuidanceCache(starts, settings.guidance_cache)
    guided = guide(model, positive, negative, settings.guidance, textless, together=settings.together, continued=cache)
    denoise = denoiser(guided, schedule.prediction)

    def run() -> Iterator[Step]:
        drawn = noise.draw(shape, positive.text.device, torch.float32)
        if settings.windows is not None:
            drawn = rescheduled(drawn, settings.windows, noise)
        x, left = start(levels, drawn, source)
        walk, known, mask = denoise, None, None
        if isinstance(source, Source) and source.mask is not None:
            known, mask = source.latents.to(drawn), source.mask.to(drawn)
            x = blend(x, noised(known, drawn, left[0]), mask)
            walk = keep(denoise, known, mask, drawn)
        for step in SAMPLERS[settings.sampler](walk, x, left, noise, settings.eta):
            if not bool(step.x.isfinite().all()):
                raise UserError(_not_finite(step, left[step.index], settings))
            if known is not None and mask is not None and step.index == step.total - 1:
                step = replace(step, x=blend(step.x, known, mask))
            yield step

    return run()


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


def _check_conditioning(conditioning: Conditioning, shape: tuple[int, ...], which: str) -> None:
    text = conditioning.text
    if text.ndim not in (3, 4) or len(text) != shape[0]:
        raise UserError(
            f"The {which} conditioning's text has the shape {tuple(text.shape)}; for a batch of {shape[0]} it should "
            f"be ({shape[0]}, tokens, width), or ({shape[0]}, {shape[2]} frames, tokens, width)."
        )
    if text.ndim == 4 and text.shape[1] != shape[2]:
        raise UserError(
            f"The {which} conditioning has text for {text.shape[1]} frames, but the latents have {shape[2]}; "
            "give one for each frame, or one for all."
        )
    concat = conditioning.concat
    if concat is not None and (len(concat), *concat.shape[2:]) != (shape[0], *shape[2:]):
        raise UserError(
            f"The {which} conditioning's picture latent has the shape {tuple(concat.shape)}, which does not fit "
            f"latents of {tuple(shape)}: encode the picture at the size and number of frames of the clip."
        )
    for name, tensor in (("text", text), ("image", conditioning.image), ("picture latent", concat)):
        if tensor is not None and not bool(tensor.isfinite().all()):
            raise UserError(
                f"The {which} conditioning's {name} holds NaN or infinite values. Run its encoder in fp32, and check "
                "the encoder's file."
            )


def _not_finite(step: Step, level: Level, settings: Sampling) -> str:
    return (
        f"The latents became NaN or infinite at step {step.index + 1} of {step.total} (timestep {level.timestep:g}). "
        "Run the network in fp32 or bf16 if it runs in fp16; lower the guidance scale (cfg), which is "
        f"{settings.guidance.scale:g}; if it happens at the first step, check the model's file for NaN weights."
    )
