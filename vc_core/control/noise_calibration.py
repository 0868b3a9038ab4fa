"""Noise Calibration (arXiv:2407.10285): a video that is made from another keeps its content, without training."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from ..denoising import NoiseSource
from ..denoising.noise_calibration import SCALE, calibrated
from ..denoising.sampling import Open
from ..errors import UserError
from ..features import Feature
from ..parameters import about
from .attachment import NOTHING, Attachment, Scene
from .control import Control

GIVE = "Give one (--video on the command line, source in Python; in ComfyUI its encoded latent, with a denoise below 1)"


@dataclass(frozen=True, kw_only=True)
class NoiseCalibration(Control):
    """Finds noise for which the network returns the content of the video that the run starts from."""

    name = "noise_calibration"
    title = "Noise Calibration"
    summary = "keeps the content of the video that a run starts from, by further passes before the first step"
    use = "enhancing a video: new details, the same content"
    models = "all models"
    search = ("video to video", "enhance", "refine", "sdedit", "keep content")
    timed = False
    needs = {Feature.SOURCE: GIVE}
    conflicts = {
        "noise_calibration": "one Noise Calibration has all rounds",
        "freqprior": "its rounds start from noise",
        Feature.ANALYTIC_INIT: "it needs a video to start from",
        Feature.KEY_FRAMES: "each section between key frames is a clip of its own",
    }

    rounds: int = field(
        default=1,
        metadata=about(
            "passes before the first step, each of which brings the content closer to the video's; 1 to 3 are usual, 0 "
            "is off",
            low=0,
            high=20,
        ),
    )
    scale: float = field(
        default=SCALE,
        metadata=about(
            "share of the spectrum that is kept of the video: larger keeps finer details of it, smaller leaves more to "
            "the model",
            low=0,
            high=1,
        ),
    )

    def attach(self, scene: Scene, weights: nn.Module | None) -> Attachment:
        del scene, weights
        return Attachment(noise=partial(_calibrated, self)) if self.rounds else NOTHING


def _calibrated(control: NoiseCalibration, drawn: Tensor, source: NoiseSource, opening: Open) -> Tensor:
    """The calibrated noise of a run. Raises UserError for one that does not begin with a noised video."""
    del source
    run = opening()
    if run.video is None:
        raise UserError(
            "Noise Calibration needs a run that starts from a noised video, and this one starts from pure noise. Set "
            "the strength (denoise) below 1, or leave Noise Calibration out."
        )
    video = run.video.to(drawn)
    return calibrated(run.denoise, video, drawn, run.first, rounds=control.rounds, scale=control.scale)
