"""DynamiCrafter's, T2V-Turbo's and FreeNoise's ways of sampling, against their references' numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from denoising.toys import WaveModel, prompt
from golden_models import SPACINGS, consistency_levels, diffusion_spec, sampling_of
from torch import Tensor

from golden_cases import RecordedNoise, cases, load, relative_error, step_noise
from vc_core.conditions import SINGLE, Conditioning, Evaluation
from vc_core.denoising import SAMPLERS, Guidance, Noise, NoiseSchedule, Sampling, sample
from vc_core.denoising.denoiser import denoiser
from vc_core.denoising.freenoise import reordered, rescheduled
from vc_core.denoising.guidance import guide
from vc_core.denoising.samplers import boundary, posterior_noise
from vc_core.errors import UserError
from vc_core.network.layers import scale_sinusoid
from vc_core.specs import DiffusionSpec, ModelSpec, Windows

ROUNDING = 1e-6  # the reference rounds to float32 in between, at 6e-8 each
TRAJECTORY = 1e-5  # float32 against float64 is 1.2e-6
TRAJECTORY_FROM_NOISE = 3e-4  # with fresh noise from t = 999, rounding stands where the exact value is 0: up to 1.2e-4
SCALE_ROUNDING = 1.5e-3  # of angles up to 14000 rad in float32


def of_config(config: dict[str, Any]) -> NoiseSchedule:
    return NoiseSchedule.from_spec(diffusion_spec(config))


def table(t: dict[str, Tensor], per_config: dict[str, Any], name: str, place: str, what: str) -> Tensor:
    """A table of a configuration: its own, or that of one with the same alphas, which the file keeps for both."""
    zero = per_config[name]["rescale_betas_zero_snr"]
    alike = [other for other, config in per_config.items() if config["rescale_betas_zero_snr"] == zero]
    key = next(key for one in (name, *alike) if (key := f"{place}/{one}/{what}") in t)
    return t[key]


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("dc_schedules"), ids=lambda path: path.stem)
def test_golden_training_tables(path: Path) -> None:
    info, _, t = load(path)
    for name, config in info["per_config"].items():
        schedule = of_config(config)
        golden = table(t, info["per_config"], name, "train", "alphas_cumprod")
        torch.testing.assert_close(schedule.alphas_cumprod.float(), golden, atol=ROUNDING, rtol=0)
        assert (schedule.alphas_cumprod[-1] == 0) == config["rescale_betas_zero_snr"]
        if config["use_dynamic_rescale"]:
            assert torch.equal(schedule.scale.float(), t[f"train/{name}/scale_arr"][: len(schedule)]), name


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("dc_schedules"), ids=lambda path: path.stem)
def test_golden_ddim_tables(path: Path) -> None:
    info, _, t = load(path)
    found = sorted({match.groups() for key in t if (match := re.match(r"ddim/(\w+)/S(\d+)/", key))})
    assert found
    for spacing, count in found:
        golden = t[f"ddim/{spacing}/S{count}/timesteps"].flip(0).tolist()
        for name, config in info["per_config"].items():
            schedule = of_config(config)
            timesteps = schedule.timesteps(int(count), SPACINGS[spacing])
            if len(golden) == int(count) + 1 and spacing == "uniform_trailing":
                continue  # the reference makes one step too many: its sum of strides is rounded
            assert timesteps == golden, (spacing, count)
            levels = schedule.levels(timesteps)
            here, there = levels[:-1], levels[1:]
            pairs = list(zip(here, there, strict=True))
            ours = {
                "alphas": [level.alpha for level in here],
                "alphas_prev": [level.alpha for level in there],
                "sqrt_one_minus_alphas": [level.noise for level in here],
                "sigmas_eta1": [posterior_noise(*pair) for pair in pairs],
            }
            if config["use_dynamic_rescale"]:
                ours["scale"] = [level.scale for level in here]
                ours["scale_prev"] = [level.scale for level in there]
            for what, row in ours.items():
                place = f"ddim/{spacing}/S{count}"
                wanted = table(t, info["per_config"], name, place, what).float()
                if what == "scale_prev":
                    wanted = torch.cat([t[f"{place}/{name}/scale"][:1], wanted[1:]])
                torch.testing.assert_close(
                    torch.tensor(row[::-1]), wanted, rtol=ROUNDING, atol=ROUNDING, msg=lambda m, k=what: k + m
                )


@dataclass
class StrideWave(WaveModel):
    """The closed-form network of DynamiCrafter's golden trajectories; `fps` is its condition."""

    texts: list[Tensor] = field(default_factory=list)

    def __call__(
        self, x: Tensor, timestep: Tensor, conditioning: Conditioning, evaluation: Evaluation = SINGLE
    ) -> Tensor:
        assert conditioning.fps is not None
        text = conditioning.text
        self.texts.append(text)
        phase = 0.003 * timestep + text.mean(dim=(1, 2)) + 0.01 * conditioning.fps.float()
        return 0.6 * x + 0.4 * torch.sin(1.7 * x + phase.view(-1, 1, 1, 1, 1))


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("dc_ddim_analytic", "viewcrafter_ddim_analytic"), ids=lambda path: path.stem)
def test_golden_trajectories(path: Path) -> None:
    info, _, t = load(path)
    assert info["calls"]
    for call in info["calls"]:
        spec = ModelSpec(
            name=info["case"],
            diffusion=diffusion_spec(info["per_config"][call["setting"]], info.get("family", "")),
            views=info.get("family") == "viewcrafter",
        )
        schedule = NoiseSchedule.from_spec(spec.diffusion)
        settings = sampling_of(call, steps=call["S"])
        keep = spec.keeps_last_rescale(settings.guidance.image_scale)
        schedule = replace(schedule, keep_last_scale=keep)
        conditionings = {
            name: Conditioning(text=t[name], fps=t["fs"]) for name in ("cond", "uncond", "img_nonetext") if name in t
        }
        levels = settings.levels(schedule)
        assert [level.timestep for level in levels[:-1]] == call["t"]
        noise = step_noise(t.get(f"noise/S{len(call['t'])}"), t["x_T"], len(call["t"]), call["eta"])
        steps = sample(
            StrideWave(),
            schedule,
            {
                "positive": conditionings["cond"],
                "negative": conditionings.get("uncond"),
                "image_only": conditionings.get("img_nonetext"),
            },
            noise=RecordedNoise([t["x_T"], *noise]),
            shape=t["x_T"].shape,
            settings=settings,
        )
        rough = call["eta"] > 0 and call["t"][0] == 999
        tolerance = TRAJECTORY_FROM_NOISE if rough else TRAJECTORY
        for step in steps:
            where = f"{call['name']}, step {step.index}"
            natural = step.denoised * levels[step.index + 1].scale
            assert relative_error(step.x, t[f"{call['name']}/x"][step.index]) < tolerance, where
            assert relative_error(natural, t[f"{call['name']}/pred_x0"][step.index]) < tolerance, where


@pytest.mark.parametrize("steps", [7, 11, 14, 15, 20, 25, 33, 34, 35, 37, 38, 39, 61, 62, 63, 64, 103, 121, 122])
def test_counts_of_steps_that_turn_the_reference_to_nan(steps: int) -> None:
    schedule = NoiseSchedule.from_spec(DiffusionSpec(prediction="v", zero_terminal_snr=True, keep_last_rescale=True))
    conditionings = {"positive": prompt(1, 0.3), "negative": prompt(1, -0.8)}
    settings = Sampling(steps=steps, spacing="trailing", guidance=Guidance(scale=7.5, rescale=0.7))
    run = sample(WaveModel(), schedule, conditionings, noise=Noise(1), shape=(1, 4, 2, 3, 2), settings=settings)
    *_, last = run
    assert last.index == steps - 1
    assert last.x.isfinite().all()


def test_equal_scales_for_text_and_picture_are_one_scale() -> None:
    schedule = NoiseSchedule.from_spec(DiffusionSpec())
    conditionings = {"positive": prompt(1, 0.3), "negative": prompt(1, -0.8), "image_only": prompt(1, 0.1)}
    results = []
    for image_scale in (None, 7.5):
        settings = Sampling(steps=5, guidance=Guidance(scale=7.5, image_scale=image_scale))
        run = sample(WaveModel(), schedule, conditionings, noise=Noise(1), shape=(1, 4, 2, 3, 2), settings=settings)
        results.append([step.x for step in run][-1])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)  # float32 differences times 7.5


def test_a_picture_scale_needs_a_conditioning_without_text() -> None:
    with pytest.raises(UserError, match="no conditioning with the image alone"):
        sample(
            WaveModel(),
            NoiseSchedule.from_spec(DiffusionSpec()),
            {"positive": prompt(), "negative": prompt()},
            noise=Noise(1),
            shape=(1, 4, 2, 3, 2),
            settings=Sampling(guidance=Guidance(image_scale=2.0)),
        )


def test_a_picture_latent_of_another_length_is_refused() -> None:
    wrong = replace(prompt(), concat=torch.zeros(1, 4, 3, 3, 2))
    with pytest.raises(UserError, match="does not fit latents of"):
        sample(WaveModel(), NoiseSchedule.from_spec(DiffusionSpec()), {"positive": wrong, "negative": prompt()},
               noise=Noise(1), shape=(1, 4, 2, 3, 2))  # fmt: skip


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("turbo_schedules"), ids=lambda path: path.stem)
def test_golden_consistency_tables(path: Path) -> None:
    info, _, t = load(path)
    schedule = NoiseSchedule.from_spec(DiffusionSpec(rescale=None))
    torch.testing.assert_close(schedule.alphas_cumprod.float(), t["alphas_cumprod"], rtol=2e-6, atol=1e-7)
    assert info["timesteps"]
    for name, golden in info["timesteps"].items():
        origin, steps = map(int, re.findall(r"\d+", name))
        assert schedule.lcm_timesteps(steps, origin) == golden, name
    one, zero = torch.ones(1), torch.zeros(1)
    width = t["wemb/out"].shape[-1]
    torch.testing.assert_close(
        scale_sinusoid(t["wemb/in"].flatten(), width), t["wemb/out"].reshape(-1, width), atol=SCALE_ROUNDING, rtol=0
    )
    for timestep in range(0, len(schedule), 37):
        level = schedule.level(timestep)
        torch.testing.assert_close(boundary(one, zero, level), t["c_out_all"][timestep].view(1), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(boundary(zero, one, level), t["c_skip_all"][timestep].view(1), rtol=1e-5, atol=1e-7)


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("turbo_lcm_analytic"), ids=lambda path: path.stem)
def test_golden_consistency_trajectories(path: Path) -> None:
    info, _, t = load(path)
    schedule = NoiseSchedule.from_spec(DiffusionSpec(rescale=None))
    assert info["calls"]
    for call in info["calls"]:
        name = call["name"]
        levels = consistency_levels(schedule, call["steps"], call["lcm_origin_steps"])
        assert [level.timestep for level in levels[:-1]] == call["t"]
        guided = guide(WaveModel(), {"positive": Conditioning(text=t["cond"])}, Guidance(scale=1))
        noise = RecordedNoise(t.get(f"{name}/noise", []))
        steps = list(SAMPLERS["lcm"](denoiser(guided, schedule.prediction), t["x_T"], levels, noise, 0.0))
        for step in steps:
            assert relative_error(step.denoised, t[f"{name}/denoised"][step.index]) < TRAJECTORY, name
            if step is not steps[-1]:
                assert relative_error(step.x, t[f"{name}/x"][step.index]) < TRAJECTORY, name
        assert relative_error(steps[-1].x, t[f"{name}/denoised"][-1]) < TRAJECTORY, name


def test_more_steps_than_the_model_was_distilled_at_are_refused() -> None:
    with pytest.raises(UserError, match="distilled at 200 timesteps"):
        NoiseSchedule.from_spec(DiffusionSpec()).timesteps(201, "lcm")


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("freenoise_noise"), ids=lambda path: path.stem)
def test_golden_rescheduled_noise(path: Path) -> None:
    info, _, t = load(path)
    assert info["calls"]
    for call in info["calls"]:
        windows = Windows(size=call["window"], stride=call["stride"])
        orders = [[i - group * windows.stride for i in row] for group, row in enumerate(call["shuffled_source_lists"])]
        for given, golden in zip(t[f"{call['name']}/in"], t[f"{call['name']}/out"], strict=True):
            assert torch.equal(reordered(given, windows, orders), golden), call["name"]


@pytest.mark.parametrize("frames", [3, 16, 17, 33, 64])
def test_rescheduled_noise_is_the_first_window_again(frames: int) -> None:
    given = Noise(1).draw((1, 2, frames, 2, 2))
    made = rescheduled(given, Windows(), Noise(2))
    first = given[:, :, :16]
    assert torch.equal(made[:, :, :16], first)
    for f in range(frames):
        assert any(torch.equal(made[:, :, f], first[:, :, i]) for i in range(first.shape[2]))
        group = made[:, :, f - f % 4 : f]
        assert not any(torch.equal(made[:, :, f], group[:, :, i]) for i in range(group.shape[2]))
    assert torch.equal(made, rescheduled(given, Windows(), Noise(2)))
    if frames >= 64:
        assert not torch.equal(made, rescheduled(given, Windows(), Noise(3)))
