"""ByTheWay, FreqPrior and Noise Calibration against the numbers of their authors' code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from golden_cases import RecordedNoise, cases, load, relative_error
from vc_core.denoising import Level, NoiseSchedule
from vc_core.denoising.denoiser import Estimate
from vc_core.denoising.freqprior import Prior, low_pass, noised_on
from vc_core.denoising.noise_calibration import calibrated
from vc_core.denoising.start import noised
from vc_core.network.adapters.bytheway import Enhancement
from vc_core.specs import DiffusionSpec

CLOSE = 1e-5
SCHEDULE = NoiseSchedule.from_spec(DiffusionSpec(rescale=None))


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("bytheway_attention"), ids=lambda path: path.stem)
def test_golden_attention_maps(path: Path) -> None:
    info, _, t = load(path)
    for call in info["calls"]:
        name = call["name"]
        maps, upper = (t[f"{name}/in/{one}"].unflatten(0, (2, 1, -1)) for one in ("probabilities", "upper"))
        change = Enhancement(alpha=call["alpha"], beta=call["beta"], tau=call["tau"])
        found = change(maps, upper, deciding=1).flatten(0, 2)
        assert relative_error(found, t[f"{name}/out/probabilities"]) < CLOSE, name


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("freqprior_noise"), ids=lambda path: path.stem)
def test_golden_first_noise(path: Path) -> None:
    info, _, t = load(path)
    for call in info["calls"]:
        name, kind = call["name"], call["filter"]["type"]
        x, first = t[f"{name}/in/x"], t[f"{name}/in/first_noise"]
        assert relative_error(torch.fft.fftshift(low_pass(x.shape[-3:], kind)), t[f"{name}/lpf"]) < CLOSE, name
        z = noised_on(x, first, SCHEDULE.level(call["mid_step"]), SCHEDULE.level(len(SCHEDULE) - 1))
        assert relative_error(z, t[f"{name}/z_T"]) < CLOSE, name
        drawn = RecordedNoise(t[f"{name}/in/{one}"] for one in ("eta1", "eta2", "y1", "y2"))
        found = Prior(ratio=call["ratio"], kind=kind).next_noise(z, drawn)
        assert relative_error(found, t[f"{name}/out/x_T"]) < CLOSE, name


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("noise_calibration"), ids=lambda path: path.stem)
def test_golden_calibrated_noise(path: Path) -> None:
    def denoise(x: Tensor, level: Level) -> Estimate:
        eps = 0.6 * x + 0.3 * torch.sin(2 * x) * level.timestep / 1000 - 0.1
        return Estimate((x - level.noise * eps) / level.signal, eps)

    info, _, t = load(path)
    for call in info["calls"]:
        name, level = call["name"], SCHEDULE.level(call["timestep"])
        video, noise = t[f"{name}/in/x_r"], t[f"{name}/in/noise"]
        found = calibrated(denoise, video, noise, level, rounds=call["rounds"], scale=call["scale"])
        assert relative_error(found, t[f"{name}/out/noise"]) < CLOSE, name
        assert relative_error(noised(video, found, level), t[f"{name}/out/x"]) < CLOSE, name
