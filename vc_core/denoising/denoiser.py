"""From what a model predicts, eps or v, to the clean latent and the noise that it sees in x."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..conditions import Evaluation
from ..specs import Prediction
from .guidance import Predictor
from .schedule import Level


class Estimate(NamedTuple):
    """The two parts of x = signal * x0 + noise * eps. With VideoCrafter's rescale, x0 is at its natural scale."""

    x0: Tensor  # b c f h w
    eps: Tensor  # b c f h w


Denoiser = Callable[[Tensor, Level], Estimate]
"""(x: b c f h w, its noise level) -> the clean latent and the noise in it."""


def denoiser(predict: Predictor, prediction: Prediction, levels: Sequence[Level] = ()) -> Denoiser:
    """The denoiser of a model that predicts the noise ("eps") or the velocity ("v", arXiv:2202.00512). `levels` are
    those of the whole run, in which the model's `Evaluation` counts its steps; the last one ends it."""
    steps = {level: index for index, level in enumerate(levels[:-1])}

    @torch.no_grad()
    def denoise(x: Tensor, level: Level) -> Estimate:
        timestep = torch.full((len(x),), level.timestep, dtype=torch.float32, device=x.device)
        evaluation = Evaluation(step=steps.get(level), steps=len(steps) or None)
        return estimated(x, predict(x, timestep, evaluation), [level], prediction)

    return denoise


def estimated(x: Tensor, out: Tensor, levels: Sequence[Level], prediction: Prediction) -> Estimate:
    """The estimate for x, b c f h w, from the network's output. The frames have a level each, or one for all."""
    alpha, scale = per_frame(x, [level.alpha for level in levels]), per_frame(x, [level.scale for level in levels])
    if prediction == "v":
        eps = alpha.sqrt() * out + (1 - alpha).sqrt() * x
        return Estimate((alpha.sqrt() * x - (1 - alpha).sqrt() * out) / scale, eps)
    return Estimate((x - (1 - alpha).sqrt() * out) / alpha.sqrt() / scale, out)


def per_frame(like: Tensor, values: Sequence[float]) -> Tensor:
    """f 1 1, to multiply b c f h w"""
    return like.new_tensor(values)[:, None, None]
