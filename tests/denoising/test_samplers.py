"""The samplers against exact solutions, against formulas written in another form, and against each other."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from denoising.toys import Gaussian, geometric_levels
from torch import Tensor

from golden_cases import RecordedNoise
from vc_core.denoising import SAMPLERS, Level, Noise, NoiseSchedule
from vc_core.denoising.denoiser import Estimate
from vc_core.denoising.samplers import Step
from vc_core.specs import DiffusionSpec

EXACT = {"rtol": 1e-10, "atol": 1e-12}  # float64 on both sides; what differs is the order of operations
DETERMINISTIC = ("euler", "dpmpp_2m")
TARGET = Gaussian(mean=0.4, variance=0.09)


def wave(x: Tensor, level: Level) -> Estimate:
    """A denoiser that is not linear, given in the coordinates of x0 + sigma * eps."""
    x0 = torch.sin(1.3 * x / level.signal + 0.2 * level.sigma) / (1 + level.sigma)
    return Estimate(x0, (x - level.signal * x0) / level.noise)


def walk(name: str, levels: list[Level], x: Tensor, eta: float = 0.0, seed: int = 3, denoise=TARGET) -> list[Step]:
    return list(SAMPLERS[name](denoise, x, levels, Noise(seed), eta))


def random_x(*shape: int, seed: int = 1) -> Tensor:
    return Noise(seed).draw(shape, dtype=torch.float64)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("dpmpp_2m", 2), ("dpmpp_2m_sde", 2)])
def test_order_of_convergence_to_the_exact_flow(name: str, order: int) -> None:
    x = 8 * random_x(2, 3, 5)
    errors = []
    for steps in (80, 160, 320):
        levels = geometric_levels(steps, 20, 0.05)
        reached = walk(name, levels, x)[-1].x
        errors.append(float((reached - TARGET.flow(x, levels[0], levels[-1])).norm()))
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)
    assert errors[-1] < 0.05 * float(x.norm())


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m_sde"])
def test_fresh_noise_keeps_the_distribution(name: str, eta: float) -> None:
    levels = geometric_levels(100, 20, 0.05)
    first, last = levels[0], levels[-1]
    noise = Noise(5)
    clean = TARGET.mean + TARGET.variance**0.5 * noise.draw((20_000,), dtype=torch.float64)
    x = first.signal * clean + first.noise * noise.draw((20_000,), dtype=torch.float64)
    *_, end = SAMPLERS[name](TARGET, x, levels, noise, eta)
    y = end.x / last.signal
    # three standard errors of 20,000 samples are 1.5 %, the steps' own error is below 3 %
    assert float(y.mean()) == pytest.approx(TARGET.mean, abs=0.02)
    assert float(y.std()) == pytest.approx((TARGET.variance + last.sigma**2) ** 0.5, rel=0.045)


def in_sigmas(levels: list[Level]) -> list[float]:
    return [level.sigma for level in levels]


def expected_euler(x: Tensor, levels: list[Level], draws: list[Tensor], eta: float) -> Tensor:
    y = x / levels[0].signal
    for level, following in zip(levels, in_sigmas(levels)[1:], strict=False):
        slope = (y - wave(y * level.signal, level).x0) / level.sigma
        y = y + slope * (following - level.sigma)
    return y * levels[-1].signal


def expected_euler_ancestral(x: Tensor, levels: list[Level], draws: list[Tensor], eta: float) -> Tensor:
    y = x / levels[0].signal
    for level, following, draw in zip(levels, in_sigmas(levels)[1:], draws, strict=False):
        slope = (y - wave(y * level.signal, level).x0) / level.sigma
        up = min(following, eta * (following**2 * (level.sigma**2 - following**2) / level.sigma**2) ** 0.5)
        down = (following**2 - up**2) ** 0.5
        y = y + slope * (down - level.sigma) + up * draw
    return y * levels[-1].signal


def expected_dpmpp_2m(x: Tensor, levels: list[Level], draws: list[Tensor], eta: float) -> Tensor:
    """Algorithm 2 of arXiv:2211.01095 with alpha = 1 and lambda = -log sigma."""
    y, sigmas = x / levels[0].signal, in_sigmas(levels)
    x0s = []
    for i, level in enumerate(levels[:-1]):
        x0s.append(wave(y * level.signal, level).x0)
        h = math.log(sigmas[i] / sigmas[i + 1])
        data = x0s[-1]
        if i > 0 and sigmas[i + 1] > 0:
            r = math.log(sigmas[i - 1] / sigmas[i]) / h
            data = (1 + 1 / (2 * r)) * x0s[-1] - 1 / (2 * r) * x0s[-2]
        y = sigmas[i + 1] / sigmas[i] * y - (math.exp(-h) - 1) * data
    return y * levels[-1].signal


def expected_dpmpp_2m_sde(x: Tensor, levels: list[Level], draws: list[Tensor], eta: float) -> Tensor:
    """The SDE with the drift scaled by 1 + eta; with eta 1 section 5 of arXiv:2211.01095."""
    y, sigmas = x / levels[0].signal, in_sigmas(levels)
    x0s = []
    for i, level in enumerate(levels[:-1]):
        x0s.append(wave(y * level.signal, level).x0)
        h = math.log(sigmas[i] / sigmas[i + 1])
        gain = 1 - math.exp(-(1 + eta) * h)
        moved = sigmas[i + 1] / sigmas[i] * math.exp(-eta * h) * y + gain * x0s[-1]
        if i > 0:
            moved = moved + gain / 2 * (x0s[-1] - x0s[-2]) * h / math.log(sigmas[i - 1] / sigmas[i])
        y = moved + sigmas[i + 1] * math.sqrt(1 - math.exp(-2 * eta * h)) * draws[i]
    return y * levels[-1].signal


EXPECTED = {
    "euler": expected_euler,
    "euler_ancestral": expected_euler_ancestral,
    "dpmpp_2m": expected_dpmpp_2m,
    "dpmpp_2m_sde": expected_dpmpp_2m_sde,
}


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_formula_in_sigma(name: str, eta: float) -> None:
    schedule = NoiseSchedule.from_spec(DiffusionSpec(rescale=0.3))
    levels = schedule.levels(schedule.uniform_timesteps(10))
    x, draws = random_x(2, 3, 5), [random_x(2, 3, 5, seed=seed) for seed in range(10, 20)]
    *_, end = SAMPLERS[name](wave, x, levels, RecordedNoise(draws), eta)
    torch.testing.assert_close(end.x, EXPECTED[name](x, levels, draws, eta), **EXACT)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_clean_end_is_the_last_estimate(name: str, eta: float) -> None:
    schedule = NoiseSchedule.from_spec(DiffusionSpec())
    levels = schedule.levels(schedule.uniform_timesteps(5), end="clean")
    last = walk(name, levels, random_x(2, 3), eta, denoise=wave)[-1]
    torch.testing.assert_close(last.x, last.denoised, **EXACT)


@pytest.mark.parametrize("rescale", [None, 0.7, 0.3])
@pytest.mark.parametrize("spacing", ["uniform", "trailing"])
def test_ddim_without_noise_is_euler_in_sigma(rescale: float | None, spacing) -> None:
    schedule = NoiseSchedule.from_spec(DiffusionSpec(rescale=rescale))
    levels = schedule.levels(schedule.timesteps(10, spacing))
    x = random_x(2, 3, 5)
    for ours, other in zip(walk("ddim", levels, x, denoise=wave), walk("euler", levels, x, denoise=wave), strict=True):
        torch.testing.assert_close(ours.x, other.x, **EXACT)
        torch.testing.assert_close(ours.denoised, other.denoised, **EXACT)


def test_ddim_with_all_noise_is_euler_ancestral_where_nothing_is_rescaled() -> None:
    schedule = NoiseSchedule.from_spec(DiffusionSpec(rescale=None))
    levels = schedule.levels(schedule.uniform_timesteps(10))
    x = random_x(2, 3, 5)
    ddim, ancestral = (walk(name, levels, x, eta=1.0, denoise=wave)[-1].x for name in ("ddim", "euler_ancestral"))
    torch.testing.assert_close(ddim, ancestral, **EXACT)
    rescaled = NoiseSchedule.from_spec(DiffusionSpec(rescale=0.3))
    levels = rescaled.levels(rescaled.uniform_timesteps(10))
    ddim, ancestral = (walk(name, levels, x, eta=1.0, denoise=wave)[-1].x for name in ("ddim", "euler_ancestral"))
    assert float((ddim - ancestral).norm()) > 1e-3 * float(ddim.norm())


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m_sde"])
def test_without_eta_the_noisy_samplers_are_the_plain_ones(name: str) -> None:
    plain = {"euler_ancestral": "euler", "dpmpp_2m_sde": "dpmpp_2m"}[name]
    levels, x = geometric_levels(10, 20, 0.05), random_x(2, 3, 5)
    torch.testing.assert_close(walk(name, levels, x)[-1].x, walk(plain, levels, x)[-1].x, **EXACT)


def test_draws_per_step() -> None:
    levels, x = geometric_levels(4, 20, 0.05), random_x(2, 3)
    draws = [random_x(2, 3, seed=seed) for seed in range(10, 14)]
    for name in SAMPLERS:
        for eta in (0.0, 1.0):
            noise = RecordedNoise(draws)
            assert len(list(SAMPLERS[name](TARGET, x, levels, noise, eta))) == 4
            draws_left = 0 if name in ("ddim", "lcm") or (eta and name not in DETERMINISTIC) else 4
            assert len(noise.draws) == draws_left, name


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_steps_are_counted_and_one_is_enough(name: str) -> None:
    for count in (1, 3):
        steps = walk(name, geometric_levels(count, 20, 0.05), random_x(2, 3), eta=1.0)
        assert [(step.index, step.total) for step in steps] == [(index, count) for index in range(count)]


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("end", ["reference", "clean"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 1000])
def test_finite_from_no_signal_at_all(name: str, end, eta: float, steps: int) -> None:
    """Zero terminal SNR with trailing spacing, where the DDIM reference turns to NaN for some counts (7, 20)."""
    alphas = NoiseSchedule.from_spec(DiffusionSpec()).alphas_cumprod
    roots = alphas.sqrt()
    alphas = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    schedule = NoiseSchedule.from_buffers(alphas, None, "v")

    def denoise(x: Tensor, level: Level) -> Estimate:
        v = 0.5 * torch.sin(x)
        return Estimate(level.signal * x - level.noise * v, level.signal * v + level.noise * x)

    levels = schedule.levels(schedule.trailing_timesteps(steps), end)
    assert levels[0].signal == 0
    for step in walk(name, levels, random_x(2, 3).float(), eta, denoise=denoise):
        assert bool(step.x.isfinite().all()), step.index
