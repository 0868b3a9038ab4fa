"""The start of DynamiCrafter-CIL: its mean and spread, the timesteps it begins at, its files, and bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from denoising.toys import WaveModel, prompt
from safetensors.torch import save_file
from torch import Tensor

from vc_core.checkpoint.statistics import read_statistics
from vc_core.denoising import AnalyticInit, Guidance, Noise, NoiseSchedule, Sampling, sample
from vc_core.errors import UserError
from vc_core.specs import DiffusionSpec

SCHEDULE = NoiseSchedule.from_spec(DiffusionSpec(prediction="v", zero_terminal_snr=True, keep_last_rescale=True))
SHAPE = (1, 4, 3, 6, 5)
MEAN = torch.linspace(-2, 3, 4 * 3 * 6 * 5).view(SHAPE)
TRAILING = Sampling(steps=5, spacing="trailing", guidance=Guidance(scale=1.0))


def run(schedule: NoiseSchedule, settings: Sampling = TRAILING, **options: Any) -> tuple[Tensor, WaveModel]:
    """The latents at the end of a run, and the model with what it was called with."""
    model = WaveModel()
    *_, last = sample(model, schedule, {"positive": prompt()}, noise=Noise(3), settings=settings, **options)
    return last.x, model


@pytest.mark.parametrize("start", [1000, 900, 840])
@pytest.mark.parametrize("variance", [0.0, 0.49, 1.0, 2.25])
def test_the_first_latents_have_the_published_mean_and_variance(start: int, variance: float) -> None:
    abar = float(SCHEDULE.alphas_cumprod[start - 1])
    _, model = run(SCHEDULE.until(start), source=AnalyticInit(MEAN, variance))
    x, timestep, *_ = model.calls[0]
    assert timestep.tolist() == [start - 1]
    drawn = Noise(3).draw(SHAPE)
    expected = abar**0.5 * MEAN + (1 - abar + abar * variance) ** 0.5 * drawn
    assert float((x - expected).abs().max()) < 1e-6


def test_it_has_the_moments_of_noised_clips() -> None:
    """Clips that are normal around a mean: their noised ones, counted, and the start agree."""
    level = SCHEDULE.level(839)
    generator = torch.Generator().manual_seed(0)
    clips = 0.3 + 0.8 * torch.randn(400, *SHAPE[1:], generator=generator)
    noised = level.alpha**0.5 * clips + level.noise * torch.randn(clips.shape, generator=generator)
    init = AnalyticInit(clips.mean(0, keepdim=True), float(clips.var(0).mean()))
    starts = torch.cat([init.noised(Noise(seed).draw(SHAPE), level) for seed in range(400)])
    assert abs(float(starts.mean() - noised.mean())) < 0.01
    assert float(starts.var(0).mean() / noised.var(0).mean()) == pytest.approx(1, abs=0.01)


def test_sampling_begins_at_the_start_and_is_spaced_as_if_it_were_the_end() -> None:
    assert SCHEDULE.until(900).timesteps(50, "trailing") == list(range(899, 0, -18))
    assert SCHEDULE.until(900).timesteps(10, "uniform") == list(range(811, 0, -90))
    assert SCHEDULE.until(1000).timesteps(50, "trailing") == SCHEDULE.timesteps(50, "trailing")
    _, model = run(SCHEDULE.until(900), shape=SHAPE)
    assert [int(timestep) for _, timestep, *_ in model.calls] == [899, 719, 539, 359, 179]


@pytest.mark.parametrize("spacing", ["trailing", "uniform"])
def test_the_top_with_no_mean_and_a_variance_of_one_is_plain_sampling(spacing: Any) -> None:
    settings = replace(TRAILING, spacing=spacing)
    plain, _ = run(SCHEDULE, settings, shape=SHAPE)
    same, _ = run(SCHEDULE.until(1000), settings, source=AnalyticInit(torch.zeros(SHAPE), 1.0))
    assert torch.equal(same, plain)
    other, _ = run(SCHEDULE.until(900), settings, source=AnalyticInit(MEAN, 1.0))
    assert not torch.allclose(other, plain, atol=1e-2)


@pytest.mark.parametrize("kind", ["pt", "safetensors", "without the batch", "the paper's names"])
def test_files_are_read(kind: str, tmp_path: Path) -> None:
    mean = MEAN[0] if kind == "without the batch" else MEAN
    names = ("expectation_X_0", "tr_Cov_d") if kind == "the paper's names" else ("Expectation_X0", "Tr_Cov_d")
    tensors = dict(zip(names, (mean, torch.tensor(0.7)), strict=True))
    path = tmp_path / "initial_noise"
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    init = read_statistics(path)
    assert torch.equal(init.latents, MEAN)
    assert init.variance == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"Tr_Cov_d": torch.tensor(1.0)}, "holds no Expectation_X0"),
        ({"Expectation_X0": MEAN}, "holds no Tr_Cov_d"),
        ({"Expectation_X0": MEAN, "Tr_Cov_d": torch.ones(2)}, "should be one number"),
        ({"Expectation_X0": MEAN[0, 0], "Tr_Cov_d": torch.ones(1)}, r"\(3, 6, 5\); it should be one clip's"),
        ({"Expectation_X0": MEAN, "Tr_Cov_d": torch.tensor(-1.0)}, "0 or more"),
        ({"Expectation_X0": MEAN * torch.nan, "Tr_Cov_d": torch.tensor(1.0)}, "finite"),
    ],
)
def test_other_files_are_refused(tensors: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "file.pt")
    with pytest.raises(UserError, match=message):
        read_statistics(tmp_path / "file.pt")


def test_a_file_that_runs_code_is_refused(tmp_path: Path) -> None:
    torch.save({"Expectation_X0": MEAN, "Tr_Cov_d": torch.tensor(1.0), "path": tmp_path}, tmp_path / "file.pt")
    with pytest.raises(UserError, match="refused"):
        read_statistics(tmp_path / "file.pt")


def test_another_size_is_refused_with_the_size_that_fits() -> None:
    init = AnalyticInit(MEAN, 1.0)
    with pytest.raises(UserError, match="clip of 40x48 pixels and 3 frames"):
        init.noised(torch.zeros(1, 4, 3, 6, 6), SCHEDULE.level(899))


@pytest.mark.parametrize("start", [0, -1, 1001, 12.5, True])
def test_other_starts_are_refused(start: Any) -> None:
    with pytest.raises(UserError, match="whole number from 1 to 1000"):
        SCHEDULE.until(start)


def test_consistency_models_begin_where_they_were_distilled() -> None:
    with pytest.raises(UserError, match="cannot begin at timestep 800"):
        SCHEDULE.until(800).lcm_timesteps(4)
    assert SCHEDULE.until(1000).lcm_timesteps(4) == SCHEDULE.lcm_timesteps(4)
