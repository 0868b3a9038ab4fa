"""Cases of samplers, run with closed-form models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from golden_cases import RecordedNoise
from vc_core.conditions import SINGLE, Conditioning, Evaluation
from vc_core.denoising import SAMPLERS, Guidance, NoiseSchedule
from vc_core.denoising.denoiser import denoiser
from vc_core.denoising.guidance import guide
from vc_core.specs import (
    DiffusionSpec,
)

from .parts import Draws, write


def wave(x: Tensor, timestep: Tensor, conditioning: Conditioning, evaluation: Evaluation = SINGLE) -> Tensor:
    phase = (
        0.003 * timestep
        + conditioning.text.mean(dim=(1, 2))
        + (0 if conditioning.fps is None else 0.01 * conditioning.fps)
    )
    return 0.6 * x + 0.4 * torch.sin(1.7 * x + phase.view(-1, 1, 1, 1, 1))


def walked(
    predict: Any, schedule: NoiseSchedule, timesteps: list[int], x: Tensor, noise: Tensor, eta: float
) -> dict[str, Tensor]:
    """What DDIM gives at these timesteps, with an end of its schedule: x, and x0 as the references return it."""
    levels = schedule.levels(timesteps)
    steps = list(SAMPLERS["ddim"](denoiser(predict, schedule.prediction, levels), x, levels, RecordedNoise(noise), eta))
    ends = [level.scale if schedule.keep_last_scale else 1.0 for level in levels[1:]]
    pred_x0 = torch.stack([step.denoised * end for step, end in zip(steps, ends, strict=True)])
    return {"x": torch.stack([step.x for step in steps]), "pred_x0": pred_x0}


def ddim_analytic(folder: Path) -> Path:
    draw, timesteps = Draws(), [997, 831, 665, 499, 333, 167, 1]  # 6 steps are 7
    x, noise, cond, uncond = draw(3, 4, 5, 2, 3), draw(7, 3, 4, 5, 2, 3), draw(3, 6, 4), draw(3, 6, 4)
    schedule = NoiseSchedule.from_spec(DiffusionSpec(rescale=0.45))
    predict = guide(
        wave, {"positive": Conditioning(text=cond), "negative": Conditioning(text=uncond)}, Guidance(scale=15.0)
    )
    run = walked(predict, schedule, timesteps, x, noise, 0.8)
    tensors = {"x_T": x, "cond": cond, "uncond": uncond, "noise/S7": noise}
    tensors.update({f"run/{key}": value for key, value in run.items()})
    info = {"per_config": {"ours": {"use_scale": True, "scale_b": 0.45}}}
    info["calls"] = [{"name": "run", "steps": 6, "eta": 0.8, "cfg": 15.0, "setting": "ours"}]
    return write(folder, "ddim_analytic", info, tensors)


def dc_ddim_analytic(folder: Path) -> Path:
    draw, timesteps = Draws(), [999, 832, 666, 499, 332, 166]
    x, noise, fs = draw(3, 4, 5, 2, 3), draw(6, 3, 4, 5, 2, 3), torch.tensor([3, 9, 30])
    texts = {name: draw(3, 6, 4) for name in ("cond", "uncond", "img_nonetext")}
    conditionings = {name: Conditioning(text=text, fps=fs) for name, text in texts.items()}
    schedule = NoiseSchedule.from_spec(
        DiffusionSpec(prediction="v", zero_terminal_snr=True, rescale=0.45, keep_last_rescale=True)
    )
    guidance = Guidance(scale=4.0, rescale=0.3, image_scale=2.0)
    given = {
        "positive": conditionings["cond"],
        "negative": conditionings["uncond"],
        "image_only": conditionings["img_nonetext"],
    }
    predict = guide(wave, given, guidance)
    run = walked(predict, schedule, timesteps, x, noise, 0.8)
    tensors = {"x_T": x, "fs": fs, "noise/S6": noise, **texts, **{f"run/{key}": value for key, value in run.items()}}
    config = {"parameterization": "v", "rescale_betas_zero_snr": True, "use_dynamic_rescale": True, "base_scale": 0.45}
    call = {"name": "run", "setting": "ours", "S": 6, "steps": 6, "timestep_spacing": "uniform_trailing", "eta": 0.8}
    call.update({"cfg": 4.0, "guidance_rescale": 0.3, "cfg_img": 2.0, "t": timesteps})
    return write(folder, "dc_ddim_analytic", {"per_config": {"ours": config}, "calls": [call]}, tensors)


def consistent(predict: Any, timesteps: list[int], x: Tensor, noise: Tensor) -> dict[str, Tensor]:
    schedule = NoiseSchedule.from_spec(DiffusionSpec(rescale=None))
    levels = schedule.levels(timesteps, "clean")
    steps = list(SAMPLERS["lcm"](denoiser(predict, "eps"), x, levels, RecordedNoise(noise), 0.0))
    return {"x": torch.stack([s.x for s in steps]), "denoised": torch.stack([s.denoised for s in steps])}


def turbo_lcm_analytic(folder: Path) -> Path:
    draw, timesteps = Draws(), [999, 679, 359]
    x, noise, cond = draw(3, 4, 5, 2, 3), draw(3, 3, 4, 5, 2, 3), draw(3, 6, 4)
    run = consistent(guide(wave, {"positive": Conditioning(text=cond)}, Guidance(scale=1)), timesteps, x, noise)
    tensors = {"x_T": x, "cond": cond, "run/noise": noise, **{f"run/{key}": value for key, value in run.items()}}
    call = {"name": "run", "steps": 3, "lcm_origin_steps": 50, "t": timesteps}
    return write(folder, "turbo_lcm_analytic", {"calls": [call]}, tensors)
