"""FreqPrior (arXiv:2502.03496): the first noise keeps the low frequencies of an earlier result, without training."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from ..denoising import NoiseSchedule, NoiseSource
from ..denoising.draft import descended
from ..denoising.freeinit import LEAST_SIGNAL
from ..denoising.freqprior import FILTERS, RATIO, STOP, Filter, Prior, noised_on, stages
from ..denoising.sampling import Open
from ..errors import UserError
from ..features import Feature
from ..parameters import about
from .attachment import NOTHING, Attachment, Scene
from .control import Control

FROM_NOISE = "its rounds start from noise"


@dataclass(frozen=True, kw_only=True)
class FreqPrior(Control):
    """Samples in rounds, each from the low frequencies of the last result."""

    name = "freqprior"
    title = "FreqPrior"
    summary = "samples in rounds, each from the low frequencies of the last result, without loss of variance"
    use = "steadier frames; as FreeInit, with more detail and motion"
    models = "all models whose noise schedule keeps a trace of the clip (not zero terminal SNR)"
    search = ("freeinit", "noise prior", "flicker", "temporal consistency")
    rounds_of_noise = True
    timed = False
    conflicts = {
        "freqprior": "one FreqPrior has all rounds",
        "noise_calibration": FROM_NOISE,
        Feature.SOURCE: FROM_NOISE,
        Feature.MASK: FROM_NOISE,
        Feature.KEY_FRAMES: "each section between key frames is a clip of its own",
        Feature.ANALYTIC_INIT: "its rounds have a first noise of their own",
        Feature.REUSED_NOISE: "its rounds renew the high frequencies, which FreeNoise repeats over time",
    }

    rounds: int = field(
        default=3,
        metadata=about(
            "how often the clip is sampled, the run itself included; 3 as published, 1 is off", low=1, high=10
        ),
    )
    stop: int = field(
        default=STOP,
        metadata=about(
            "timestep at which the rounds before the last one stop; 321 as published, 0 finishes them", low=0, high=998
        ),
    )
    ratio: float = field(
        default=RATIO,
        metadata=about(
            "how much of the low frequencies is kept from round to round; the rest is fresh noise. 0.8 as published",
            low=0,
            high=1,
        ),
    )
    filter: Filter = field(
        default="butterworth",
        metadata=about("low-pass filter; butterworth as published", choices=FILTERS),
    )

    def check(self, scene: Scene) -> None:
        schedule = NoiseSchedule.from_spec(scene.spec.diffusion)
        if self.rounds > 1 and schedule.level(len(schedule) - 1).signal < LEAST_SIGNAL:
            raise UserError(
                f"FreqPrior restores the trace of a clip in its noisiest latents, but {scene.spec.name} begins from "
                "noise alone (zero terminal SNR), which holds none. Set the rounds of FreqPrior to 1."
            )

    def attach(self, scene: Scene, weights: nn.Module | None) -> Attachment:
        del weights
        return NOTHING if self.rounds == 1 else Attachment(noise=partial(_in_rounds, self, scene.steps))


def _in_rounds(control: FreqPrior, steps: int, drawn: Tensor, source: NoiseSource, opening: Open) -> Tensor:
    """The noise of the last round. steps: of the run. All rounds are noised with what the first began with."""
    run, prior = opening(), Prior(ratio=control.ratio, kind=control.filter)
    first = round(run.first.timestep)
    if first <= control.stop:
        raise UserError(
            f"The rounds of FreqPrior stop at timestep {control.stop}, but the run begins at {first}. Set stop to "
            "less than that."
        )
    timesteps = stages(first, control.stop, len(run.schedule) / steps)
    levels = [run.schedule.level(timestep) for timestep in timesteps]
    last, noise = run.schedule.level(len(run.schedule) - 1), drawn
    for _ in range(control.rounds - 1):
        result = descended(run.denoise, levels, noise)
        noise = prior.next_noise(noised_on(result, drawn, levels[-1], last), source)
    return noise
