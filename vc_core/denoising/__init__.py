"""From noise to latents: schedule, noise, guidance, denoiser, samplers, and `sample`, which joins them."""

from .guidance import Conditionings, Guidance, Model
from .noise import Noise, NoiseSource
from .samplers import SAMPLERS, Step
from .sampling import Sampling, sample
from .schedule import Level, NoiseSchedule, is_rounded
from .start import AnalyticInit, Source

__all__ = [
    "SAMPLERS",
    "AnalyticInit",
    "Conditionings",
    "Guidance",
    "Level",
    "Model",
    "Noise",
    "NoiseSchedule",
    "NoiseSource",
    "Sampling",
    "Source",
    "Step",
    "is_rounded",
    "sample",
]
