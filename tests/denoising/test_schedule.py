"""The schedule against the reference's tables, and its own promises."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_models import diffusion_spec
from torch import Tensor

from golden_cases import cases, load
from vc_core.denoising import NoiseSchedule, is_rounded
from vc_core.denoising.samplers import posterior_noise
from vc_core.errors import UserError
from vc_core.specs import PRESETS, DiffusionSpec

ROUNDING = 1e-6  # the reference rounds to float32 in between, at 6e-8 each


def configs(info: dict[str, Any], t: dict[str, Tensor]) -> dict[str, tuple[NoiseSchedule, str]]:
    """The schedule of each configuration and the prefix of its DDIM tables."""
    found = {}
    for name, config in info["per_config"].items():
        if name.endswith("+fp16file"):
            alphas, scale = t["train/fp16file/alphas_cumprod"], t["train/fp16file/scale_arr"]
            found[name] = NoiseSchedule.from_buffers(alphas, scale), "ddim_fp16file"
        else:
            found[name] = NoiseSchedule.from_spec(diffusion_spec(config)), "ddim"
    return found


@pytest.mark.parametrize("path", cases("schedules"), ids=lambda path: path.stem)
def test_golden_training_tables(path: Path) -> None:
    info, _, t = load(path)
    for name, (schedule, _) in configs(info, t).items():
        fp16 = name.endswith("+fp16file")
        golden = t["train/fp16file/alphas_cumprod" if fp16 else "train/alphas_cumprod"]
        assert torch.equal(schedule.alphas_cumprod, golden.double()), name
        if info["per_config"][name]["use_scale"]:
            assert torch.equal(schedule.scale, t[f"train/scale_arr/{name}"][: len(schedule)].double()), name
        else:
            assert torch.equal(schedule.scale, torch.ones_like(schedule.scale)), name


@pytest.mark.parametrize("path", cases("schedules"), ids=lambda path: path.stem)
def test_golden_buffers_of_a_file_equal_the_configuration(path: Path) -> None:
    info, _, t = load(path)
    for name, config in info["per_config"].items():
        if name.endswith("+fp16file"):
            exact = NoiseSchedule.from_spec(diffusion_spec(config))
            assert torch.equal(exact.alphas_cumprod.half().float(), t["train/fp16file/alphas_cumprod"])
            assert is_rounded(t["train/fp16file/alphas_cumprod"])
            continue
        scale = t.get(f"train/scale_arr/{name}")
        assert (0 if scale is None else len(scale)) == config["len"]
        read, built = (
            NoiseSchedule.from_buffers(t["train/alphas_cumprod"], scale),
            NoiseSchedule.from_spec(diffusion_spec(config)),
        )
        assert torch.equal(read.alphas_cumprod, built.alphas_cumprod)
        assert torch.equal(read.scale, built.scale)
        assert not is_rounded(t["train/alphas_cumprod"])


@pytest.mark.parametrize("path", cases("schedules"), ids=lambda path: path.stem)
def test_golden_ddim_tables(path: Path) -> None:
    info, _, t = load(path)
    counts = sorted({int(match[1]) for key in t if (match := re.match(r"ddim/S(\d+)/", key))})
    for name, (schedule, prefix) in configs(info, t).items():
        for steps in counts:
            timesteps = schedule.timesteps(steps, "uniform")
            assert timesteps == t[f"ddim/S{steps}/timesteps"].flip(0).tolist()
            levels = schedule.levels(timesteps)
            here, there = levels[:-1], levels[1:]
            ours = {
                f"{prefix}/S{steps}/alphas": [level.alpha for level in here],
                f"{prefix}/S{steps}/alphas_prev": [level.alpha for level in there],
                f"{prefix}/S{steps}/sqrt_one_minus_alphas": [level.noise for level in here],
                f"{prefix}/S{steps}/sigmas_eta1": [posterior_noise(*pair) for pair in zip(here, there, strict=True)],
            }
            if info["per_config"][name]["use_scale"]:
                ours[f"ddim/S{steps}/scale/{name}"] = [level.scale for level in here]
                ours[f"ddim/S{steps}/scale_prev/{name}"] = [level.scale for level in there]
            for key, row in ours.items():
                torch.testing.assert_close(
                    torch.tensor(row[::-1]), t[key], rtol=ROUNDING, atol=ROUNDING, msg=lambda text, key=key: key + text
                )


@pytest.mark.parametrize("path", cases("schedules"), ids=lambda path: path.stem)
def test_golden_step_counts(path: Path) -> None:
    info, _, _ = load(path)
    schedule = NoiseSchedule.from_spec(DiffusionSpec())
    for steps, (first, stride, count, last) in info["ddim_S_to_first_stride_count_last"].items():
        timesteps = schedule.uniform_timesteps(int(steps))
        assert (timesteps[-1], len(timesteps), timesteps[0]) == (first, count, last)
        assert len(timesteps) == 1 or timesteps[0] - timesteps[1] == stride
    for steps in info["ddim_S_that_crash_the_reference"]:
        with pytest.raises(UserError, match=f"{steps} steps cannot be spaced uniformly"):
            schedule.uniform_timesteps(int(steps))


@pytest.mark.parametrize(
    ("steps", "advice"),
    [(3, "Use 2 or 4 steps"), (27, "Use 26 or 28 steps"), (101, "Use 100 or 112 steps"), (501, "Use 500 steps")],
)
def test_count_past_the_table_names_the_nearest_that_work(steps: int, advice: str) -> None:
    schedule = NoiseSchedule.from_spec(DiffusionSpec())
    with pytest.raises(UserError, match=advice):
        schedule.timesteps(steps, "uniform")


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, True])
@pytest.mark.parametrize("spacing", ["uniform", "trailing"])
def test_impossible_counts(steps: Any, spacing: Any) -> None:
    with pytest.raises(UserError, match="from 1 to 1000"):
        NoiseSchedule.from_spec(DiffusionSpec()).timesteps(steps, spacing)


def test_unknown_spacing() -> None:
    with pytest.raises(UserError, match=r"'karras'.*'uniform', 'trailing' or 'lcm'"):
        NoiseSchedule.from_spec(DiffusionSpec()).timesteps(10, "karras")  # type: ignore[arg-type]


def test_trailing_spacing_starts_at_the_end_and_takes_every_count() -> None:
    schedule = NoiseSchedule.from_spec(DiffusionSpec())
    assert schedule.trailing_timesteps(5) == [999, 799, 599, 399, 199]
    assert schedule.trailing_timesteps(7) == [999, 856, 713, 570, 428, 285, 142]
    assert schedule.trailing_timesteps(16)[:4] == [999, 937, 874, 811]  # halves are rounded to even numbers
    for steps in range(1, 1001):
        timesteps = schedule.trailing_timesteps(steps)
        assert len(set(timesteps)) == steps
        assert timesteps == sorted(timesteps, reverse=True)
        assert timesteps[0] == 999
        assert timesteps[-1] >= 0


def test_end_of_sampling() -> None:
    schedule = NoiseSchedule.from_spec(DiffusionSpec())
    reference, clean = schedule.levels([500, 1])[-1], schedule.levels([500, 1], end="clean")[-1]
    assert reference == schedule.level(0)
    assert reference.sigma == pytest.approx(0.0292, abs=1e-4)
    assert (clean.sigma, clean.signal, clean.log_snr) == (0, 1, math.inf)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_sigma_is_that_of_the_rescaled_process(name: str) -> None:
    schedule = NoiseSchedule.from_spec(PRESETS[name].diffusion)
    timesteps = torch.tensor([0, 1, 211, 399, 400, 998, 999])
    timesteps = timesteps[schedule.alphas_cumprod[timesteps] > 0]  # where no signal is left, sigma has no end
    alphas, scale = schedule.alphas_cumprod[timesteps], schedule.scale[timesteps]
    sigmas = (1 - alphas).sqrt() / (alphas.sqrt() * scale)
    assert torch.allclose(schedule.sigma_of(timesteps.double()), sigmas, rtol=1e-12)
    assert torch.allclose(schedule.timestep_of(sigmas), timesteps.double(), atol=1e-7)
    assert torch.allclose(schedule.signal_of(sigmas), alphas.sqrt() * scale, rtol=1e-9)
    for timestep, sigma in zip(timesteps.tolist(), sigmas.tolist(), strict=True):
        level = schedule.level(timestep)
        assert level.sigma == pytest.approx(sigma, rel=1e-12)
        assert level.log_snr == pytest.approx(-math.log(sigma), rel=1e-9)
    assert bool((schedule.sigmas.diff() > 0).all())


def test_sigma_between_timesteps_is_interpolated_in_its_logarithm() -> None:
    schedule = NoiseSchedule.from_spec(DiffusionSpec())
    between = torch.tensor([[0.25, 398.5], [401.75, 998.125]], dtype=torch.float64)
    low, high = schedule.sigmas[between.floor().long()].log(), schedule.sigmas[between.ceil().long()].log()
    sigmas = schedule.sigma_of(between)
    assert torch.allclose(sigmas.log(), low + (high - low) * (between - between.floor()), rtol=1e-12)
    assert torch.allclose(schedule.timestep_of(sigmas), between, rtol=1e-9)
    outside = torch.tensor([0.0, 1e-9, 1e9, math.inf])
    assert schedule.timestep_of(outside).tolist() == [0, 0, 999, 999]
    assert schedule.sigma_of(torch.tensor([-3, 4000])).dtype == torch.float32
    assert torch.allclose(schedule.signal_of(outside), torch.tensor([1.0, 1.0, 1e-9, 0.0]), rtol=1e-6)


def test_signal_and_noise_have_unit_variance_before_the_rescale() -> None:
    schedule = NoiseSchedule.from_spec(DiffusionSpec(rescale=0.3))
    for timestep in (0, 7, 399, 400, 999):
        level = schedule.level(timestep)
        assert (level.signal / level.scale) ** 2 + level.noise**2 == pytest.approx(1, rel=1e-12)
    assert [schedule.level(timestep).scale for timestep in (0, 399, 999)] == pytest.approx([1, 0.3, 0.3], rel=1e-6)


def test_zero_terminal_snr() -> None:
    alphas = NoiseSchedule.from_spec(DiffusionSpec()).alphas_cumprod.clone()
    alphas[-1] = 0
    schedule = NoiseSchedule.from_buffers(alphas, None, "v")
    last = schedule.level(999)
    assert (last.signal, last.noise, last.sigma, last.log_snr) == (0, 1, math.inf, -math.inf)
    assert bool(schedule.sigmas.isfinite().all())


def test_rounded_buffers_are_recognised_after_a_cast_back() -> None:
    exact = NoiseSchedule.from_spec(DiffusionSpec()).alphas_cumprod.float()
    assert not is_rounded(exact)
    for dtype in (torch.float16, torch.bfloat16):
        assert is_rounded(exact.to(dtype))
        assert is_rounded(exact.to(dtype).float())
    from_half = NoiseSchedule.from_buffers(exact.half(), torch.full((1400,), 0.7).half())
    assert float(from_half.scale[0]) == float(torch.tensor(0.7).half())


@pytest.mark.parametrize(
    ("alphas", "scale", "fault"),
    [
        (torch.rand(3, 5), None, "alphas_cumprod has the shape"),
        (torch.tensor([0.5]), None, "alphas_cumprod has the shape"),
        (torch.tensor([0.9, math.nan, 0.1]), None, "alphas_cumprod should fall"),
        (torch.tensor([0.1, 0.5, 0.9]), None, "alphas_cumprod should fall"),
        (torch.tensor([1.0, 0.5, 0.2]), None, "alphas_cumprod should fall"),
        (torch.tensor([0.9, 0.5, -0.2]), None, "alphas_cumprod should fall"),
        (torch.tensor([0.9, 0.5, 0.2]), torch.tensor([1.0, 0.7]), "scale_arr has the shape"),
        (torch.tensor([0.9, 0.5, 0.2]), torch.tensor([1.0, 0.7, 0.0]), "scale_arr should fall"),
        (torch.tensor([0.9, 0.5, 0.2]), torch.tensor([1.0, math.inf, 0.7]), "scale_arr should fall"),
    ],
)
def test_damaged_buffers(alphas: Tensor, scale: Tensor | None, fault: str) -> None:
    with pytest.raises(UserError, match=f"{fault}.*choose the model's preset"):
        NoiseSchedule.from_buffers(alphas, scale)
