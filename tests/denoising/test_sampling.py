"""Whole runs: against the reference's trajectories, from given videos, with masks, and with bad input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from denoising.toys import WaveModel, prompt
from golden_models import diffusion_spec
from torch import Tensor

from golden_cases import RecordedNoise, cases, load, relative_error, step_noise
from vc_core.conditions import SINGLE, Conditioning, Evaluation
from vc_core.denoising import SAMPLERS, Guidance, Level, Noise, NoiseSchedule, Sampling, Source, sample
from vc_core.denoising.denoiser import denoiser
from vc_core.denoising.guidance import guide
from vc_core.errors import UserError
from vc_core.specs import DiffusionSpec

ONE_STEP = 1e-5  # from the golden latent before it
TRAJECTORY = 1e-4  # the least error that is allowed at the end of a run, and where errors grow
GROWTH = 20  # times the error of the reference's own float32, see `test_golden_trajectories`
SCHEDULE = NoiseSchedule.from_spec(DiffusionSpec())
SHAPE = (2, 3, 5, 7, 11)
POSITIVE, NEGATIVE = prompt(2, 0.3), prompt(2, -0.8)
BOTH = {"positive": POSITIVE, "negative": NEGATIVE}
FIVE = Sampling(steps=5)


def run(settings: Sampling = FIVE, model: Any = None, seed: int = 1, **options: Any) -> Tensor:
    """The latents at the end of a run."""
    if "source" not in options:
        options.setdefault("shape", SHAPE)
    steps = sample(model or WaveModel(), SCHEDULE, BOTH, noise=Noise(seed), settings=settings, **options)
    *_, last = steps
    return last.x


@pytest.mark.parametrize("path", cases("ddim_analytic"), ids=lambda path: path.stem)
def test_golden_trajectories(path: Path) -> None:
    """Each step from the golden latent before it, closely; and the whole run, as closely as float32 can tell.

    The closed-form model is chaotic at high guidance: the rounding of its two predictions, 6e-8, is multiplied by the
    guidance scale and then by every further step. At cfg 15, eta 1, 10 steps and a rescale of 0.3 the median error of
    60 seeds against float64 is 5e-6, that of the worst 7e-4, and it is the same with guidance and update in float64
    (`test_a_more_exact_update_is_no_more_exact_a_run`). So another processor may be as far away as a multiple of what
    the reference is from float64.
    """
    info, _, t = load(path)
    assert info["calls"]
    for call in info["calls"]:
        config = info["per_config"][call["setting"]]
        schedule = NoiseSchedule.from_spec(diffusion_spec(config))
        if call["setting"].endswith("+fp16file"):
            schedule = NoiseSchedule.from_buffers(schedule.alphas_cumprod.half(), schedule.scale.half())
        settings = Sampling(steps=call["steps"], eta=call["eta"], guidance=Guidance(scale=call["cfg"]))
        given = {"positive": Conditioning(text=t["cond"]), "negative": Conditioning(text=t["uncond"])}
        levels, golden_x, golden_x0 = settings.levels(schedule), t[f"{call['name']}/x"], t[f"{call['name']}/pred_x0"]
        count = len(levels) - 1
        noise = step_noise(t.get(f"noise/S{count}", t.get(f"noise/S{call['steps']}")), t["x_T"], count, call["eta"])
        exact = exact_run(levels, (t["cond"], t["uncond"]), call["cfg"], call["eta"], t["x_T"], noise)
        own = max(
            error for pair in zip(exact, zip(golden_x, golden_x0, strict=True), strict=True) for error in errors(*pair)
        )
        tolerance = max(TRAJECTORY, GROWTH * own)
        recorded = RecordedNoise([t["x_T"], *noise])
        steps = sample(WaveModel(), schedule, given, noise=recorded, shape=t["x_T"].shape, settings=settings)
        denoise = denoiser(guide(WaveModel(), given, settings.guidance), schedule.prediction)
        for step, golden in zip(steps, zip(golden_x, golden_x0, strict=True), strict=True):
            where = f"{call['name']}, step {step.index}"
            before = t["x_T"] if step.index == 0 else golden_x[step.index - 1]
            pair = levels[step.index : step.index + 2]
            alone = next(SAMPLERS["ddim"](denoise, before, pair, RecordedNoise([noise[step.index]]), call["eta"]))
            assert max(errors((alone.x, alone.denoised), golden)) < ONE_STEP, where
            assert max(errors((step.x, step.denoised), golden)) < tolerance, where


def errors(ours: tuple[Tensor, Tensor], golden: tuple[Tensor, Tensor]) -> tuple[float, float]:
    return relative_error(ours[0], golden[0]), relative_error(ours[1], golden[1])


def exact_run(
    levels: Sequence[Level],
    texts: tuple[Tensor, Tensor],
    scale: float,
    eta: float,
    x: Tensor,
    noise: Sequence[Tensor],
    rounded: bool = False,
) -> list[tuple[Tensor, Tensor]]:
    """DDIM of the closed-form model as the formulas stand, in float64: (x, x0) after each step. `rounded` rounds what
    the model predicts to float32, as every network does, and nothing else."""
    made, x = [], x.double()
    for (here, there), fresh in zip(pairwise(levels), noise, strict=False):
        eps, unconditional = (
            0.6 * x + 0.4 * torch.sin(1.7 * x + (0.003 * here.timestep + phase).view(-1, 1, 1, 1, 1))
            for phase in (text.double().mean(dim=(1, 2)) for text in texts)
        )
        if rounded:
            eps, unconditional = eps.float().double(), unconditional.float().double()
        eps = unconditional + scale * (eps - unconditional)
        x0 = (x - math.sqrt(1 - here.alpha) * eps) / (math.sqrt(here.alpha) * here.scale)
        sigma = eta * math.sqrt((1 - there.alpha) / (1 - here.alpha) * (1 - here.alpha / there.alpha))
        x = math.sqrt(there.alpha) * there.scale * x0
        x = x + math.sqrt(max(0.0, 1 - there.alpha - sigma**2)) * eps + sigma * fresh.double()
        made.append((x, x0))
    return made


def test_a_more_exact_update_is_no_more_exact_a_run() -> None:
    """With nothing rounded to float32 but the model's predictions, guided runs are within a few times of float64 what
    ours are: the update is not where errors come from, and more exact numbers in it would buy nothing."""
    schedule = NoiseSchedule.from_spec(DiffusionSpec(rescale=0.3))
    settings = Sampling(steps=10, guidance=Guidance(scale=15.0))
    levels, found = settings.levels(schedule), []
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        x, *noise = torch.randn(11, 2, 4, 2, 4, 4, generator=draw)
        texts = torch.randn(2, 2, 5, 8, generator=draw)
        exact = exact_run(levels, (texts[0], texts[1]), 15.0, 1.0, x, noise)
        rounded = exact_run(levels, (texts[0], texts[1]), 15.0, 1.0, x, noise, rounded=True)
        given = {"positive": Conditioning(text=texts[0]), "negative": Conditioning(text=texts[1])}
        steps = sample(WaveModel(), schedule, given, noise=RecordedNoise([x, *noise]), shape=x.shape, settings=settings)
        ours = [(step.x, step.denoised) for step in steps]
        found.append([max(max(errors(*pair)) for pair in zip(run, exact, strict=True)) for run in (ours, rounded)])
    median_ours, median_rounded = torch.tensor(found).median(dim=0).values.tolist()
    assert median_ours < 2e-5
    assert median_ours < 10 * median_rounded


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_seed_is_one_video(sampler: str) -> None:
    settings = Sampling(steps=5, sampler=sampler)
    first = run(settings, seed=2**40)
    assert first.dtype == torch.float32
    assert torch.equal(first, run(settings, seed=2**40))
    assert not torch.allclose(first, run(settings, seed=2**40 + 2**32))


def test_nothing_runs_before_the_first_step_is_asked_for() -> None:
    model = WaveModel()
    steps = sample(model, SCHEDULE, BOTH, noise=Noise(1), shape=SHAPE, settings=FIVE)
    assert model.calls == []
    next(steps)
    assert len(model.calls) == 2


def test_the_network_sees_the_timesteps_of_the_spacing() -> None:
    for spacing, timesteps in (("uniform", [801, 601, 401, 201, 1]), ("trailing", [999, 799, 599, 399, 199])):
        model = WaveModel()
        run(replace(FIVE, spacing=spacing, guidance=Guidance(scale=1.0)), model)
        assert [timestep.tolist() for _, timestep, _, _ in model.calls] == [[t, t] for t in timesteps]


def test_each_sampler_ends_where_its_users_expect() -> None:
    ends = {name: Sampling(steps=5, sampler=name).levels(SCHEDULE)[-1].sigma for name in SAMPLERS}
    assert ends.pop("ddim") == SCHEDULE.level(0).sigma
    assert set(ends.values()) == {0.0}
    assert Sampling(steps=5, end="clean").levels(SCHEDULE)[-1].sigma == 0
    assert Sampling(steps=5, sampler="euler", end="reference").levels(SCHEDULE)[-1] == SCHEDULE.level(0)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_full_strength_is_a_run_from_noise(sampler: str) -> None:
    settings = Sampling(steps=5, sampler=sampler)
    given = Noise(9).draw(SHAPE)
    assert torch.equal(run(settings, source=Source(given, strength=1.0)), run(settings))


def test_strength_is_the_share_of_the_steps_and_starts_at_their_noise_level() -> None:
    given, settings = Noise(9).draw(SHAPE), Sampling(steps=10, guidance=Guidance(scale=1.0))
    for strength, timesteps in ((0.3, [201, 101, 1]), (0.01, [1]), (0.99, list(range(901, 0, -100)))):
        model = WaveModel()
        run(settings, model, source=Source(given, strength=strength))
        assert [timestep[0].item() for _, timestep, _, _ in model.calls] == timesteps
        level = SCHEDULE.level(timesteps[0])
        torch.testing.assert_close(model.calls[0][0], level.signal * given + level.noise * Noise(1).draw(SHAPE))


def test_the_weaker_the_closer_to_the_given_video() -> None:
    given = Noise(9).draw(SHAPE)
    settings = Sampling(steps=50, eta=0.0, guidance=Guidance(scale=1.0))
    distances = [
        float((run(settings, source=Source(given, strength=strength)) - given).norm()) for strength in (0.02, 0.3, 0.9)
    ]
    assert distances == sorted(distances)
    assert distances[0] < 0.1 * float(given.norm())


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_a_mask_of_ones_changes_nothing(sampler: str, strength: float) -> None:
    given, settings = Noise(9).draw(SHAPE), Sampling(steps=5, sampler=sampler)
    plain = run(settings, source=Source(given, strength=strength))
    masked = run(settings, source=Source(given, strength=strength, mask=torch.ones(5, 7, 11)))
    assert torch.equal(masked, plain)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_what_the_mask_keeps_is_kept(sampler: str, strength: float) -> None:
    given, settings = Noise(9).draw(SHAPE), Sampling(steps=5, sampler=sampler)
    assert torch.equal(run(settings, source=Source(given, strength=strength, mask=torch.zeros(7, 1))), given)
    mask = torch.zeros(2, 1, 5, 7, 11)
    mask[:, :, 2:, :4] = 1
    made = run(settings, source=Source(given, strength=strength, mask=mask))
    kept = mask.expand(SHAPE) == 0
    assert torch.equal(made[kept], given[kept])
    assert not torch.isclose(made[~kept], given[~kept]).any()


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_the_network_sees_the_kept_part_at_the_noise_level_of_each_step(sampler: str) -> None:
    given, model = Noise(9).draw(SHAPE), WaveModel()
    mask = torch.zeros(5, 1, 1)
    mask[3:] = 1
    settings = Sampling(steps=5, sampler=sampler, guidance=Guidance(scale=1.0))
    steps = list(
        sample(
            model, SCHEDULE, {"positive": POSITIVE}, noise=Noise(1), source=Source(given, mask=mask), settings=settings
        )
    )
    drawn = Noise(1).draw(SHAPE)
    for (x, timestep, _, _), step in zip(model.calls, steps, strict=True):
        level = SCHEDULE.level(int(timestep[0]))
        torch.testing.assert_close(x[:, :, :3], (level.signal * given + level.noise * drawn)[:, :, :3])
        # exact, but for consistency models, which mix in a share of x of 1e-8 or less
        torch.testing.assert_close(
            step.denoised[:, :, :3], given[:, :, :3], rtol=0, atol=1e-6 if sampler == "lcm" else 0
        )


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m"])
def test_the_kept_part_stays_on_its_own_path(sampler: str) -> None:
    given = Noise(9).draw(SHAPE)
    settings = Sampling(steps=5, sampler=sampler, eta=0.0, end="reference")
    source = Source(given, mask=torch.zeros(1))
    steps = sample(WaveModel(), SCHEDULE, BOTH, noise=Noise(1), source=source, settings=settings)
    drawn = Noise(1).draw(SHAPE)
    for step, level in zip(steps, settings.levels(SCHEDULE)[1:-1], strict=False):
        assert relative_error(step.x, level.signal * given + level.noise * drawn) < 1e-5, step.index  # float32


def test_a_soft_mask_lies_between() -> None:
    given = Noise(9).draw(SHAPE)
    settings = Sampling(steps=5, eta=0.0, guidance=Guidance(scale=1.0))
    soft = run(settings, source=Source(given, mask=torch.full((1,), 0.25)))
    assert 0 < float((soft - given).norm()) < float((run(settings) - given).norm())


def test_latents_in_half_precision_are_sampled_in_full() -> None:
    given = Noise(9).draw(SHAPE).half()
    assert run(source=Source(given, strength=0.5)).dtype == torch.float32


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_nan_says_where_and_what_to_try(sampler: str, value: float) -> None:
    def breaking(x: Tensor, timestep: Tensor, conditioning: Conditioning, evaluation: Evaluation = SINGLE) -> Tensor:
        return torch.full_like(x, value) if timestep[0] == 401 else 0.1 * x

    settings = Sampling(steps=5, sampler=sampler, spacing="uniform")
    steps = sample(breaking, SCHEDULE, BOTH, noise=Noise(1), shape=SHAPE, settings=settings)
    assert [next(steps).index, next(steps).index] == [0, 1]
    with pytest.raises(UserError, match=r"step 3 of 5 \(timestep 401\).*fp32 or bf16.*cfg\), which is 12.*file"):
        next(steps)


GIVEN = Noise(9).draw(SHAPE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either the shape.*or a source"),
        ({"shape": SHAPE, "source": Source(GIVEN)}, "either the shape.*or a source"),
        ({"shape": (2, 3, 7, 11)}, "5 axes: batch, channels, frames, height, width"),
        ({"shape": (2, 3, 0, 7, 11)}, "each 1 or more"),
        ({"source": Source(GIVEN[0])}, "5 axes"),
        ({"shape": (1, 3, 5, 7, 11)}, r"batch of 1 it should be \(1, tokens, width\)"),
        ({"shape": SHAPE, "settings": Sampling(steps=3)}, "Use 2 or 4 steps"),
        ({"shape": SHAPE, "settings": Sampling(steps=0)}, "whole number from 1 to 1000"),
        ({"shape": SHAPE, "negative": None}, "no negative conditioning"),
        ({"shape": SHAPE, "negative": prompt(1)}, "negative conditioning's text has the shape"),
        ({"shape": SHAPE, "positive": prompt(2, math.nan)}, "positive conditioning's text holds NaN"),
        ({"shape": SHAPE, "positive": Conditioning(text=torch.ones(2, 4, 7, 5))}, "text for 4 frames.*have 5"),
        (
            {"shape": SHAPE, "positive": Conditioning(text=torch.ones(2, 7, 5), image=torch.tensor([[math.inf]]))},
            "positive conditioning's image holds NaN",
        ),
    ],
)
def test_bad_input_is_refused_before_any_work(options: dict[str, Any], message: str) -> None:
    model, options = WaveModel(), dict(options)
    given = {name: options.pop(name, conditioning) for name, conditioning in BOTH.items()}
    with pytest.raises(UserError, match=message):
        sample(model, SCHEDULE, given, noise=Noise(1), **options)
    assert model.calls == []


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Sampling(sampler="heun"), "no sampler 'heun'; choose one of ddim, euler"),
        (lambda: Sampling(eta=1.5), "eta is 1.5"),
        (lambda: Sampling(end="soon"), "'soon'"),
        (lambda: Source(GIVEN, strength=0.0), "strength is 0.0; it should be above 0"),
        (lambda: Source(GIVEN, strength=1.2), "at most 1"),
        (lambda: Source(GIVEN * math.nan), "given latents should be finite"),
        (lambda: Source(GIVEN.long()), "given latents should be finite floating point"),
        (lambda: Source(GIVEN, mask=torch.ones(3, 11)), r"mask has the shape \(3, 11\)"),
        (lambda: Source(GIVEN, mask=torch.ones(1, 2, 3, 5, 7, 11)), "mask has the shape"),
        (lambda: Source(GIVEN, mask=torch.full((11,), 1.5)), "outside 0"),
        (lambda: Source(GIVEN, mask=torch.full((11,), math.nan)), "outside 0"),
    ],
)
def test_impossible_settings(build: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


def test_a_part_is_kept_until_a_share_of_the_schedule_and_then_generated() -> None:
    """The two clocks of Time-to-Move: the run begins at one share of the steps, the mask ends at another."""
    draw = torch.Generator().manual_seed(5)
    latents = torch.randn(SHAPE, generator=draw)
    mask = (torch.rand(SHAPE, generator=draw) > 0.5).float()
    settings = Sampling(steps=10, eta=0.0)

    def steps_until(until: float, strength: float = 0.8) -> list[Tensor]:
        source = Source(latents, strength, mask, until)
        steps = sample(WaveModel(), SCHEDULE, BOTH, noise=Noise(1), source=source, settings=settings)
        return [step.denoised for step in steps]

    kept = mask == 0
    for until, released_at in ((0.3, 5), (0.5, 3), (0.8, 0)):
        denoised = steps_until(until)
        assert len(denoised) == 8
        exact = [torch.equal(x0[kept], latents[kept]) for x0 in denoised]
        assert exact == [index < released_at for index in range(8)], until
    always, plain = steps_until(0.0), Source(latents, 0.8, mask)
    steps = sample(WaveModel(), SCHEDULE, BOTH, noise=Noise(1), source=plain, settings=settings)
    assert all(torch.equal(one, other.denoised) for one, other in zip(always, steps, strict=True))
    free = sample(WaveModel(), SCHEDULE, BOTH, noise=Noise(1), source=Source(latents, 0.8), settings=settings)
    assert all(torch.equal(one, other.denoised) for one, other in zip(steps_until(0.8), free, strict=True))
    for until in (-0.1, 0.9):
        with pytest.raises(UserError, match=r"kept down to .* from 0 \(to the end\) to the strength of the run, 0.8"):
            Source(latents, 0.8, mask, until)
