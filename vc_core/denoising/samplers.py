"""The samplers. Each goes down a list of noise levels, one denoiser call per step, and yields after every step.

x stays a latent of the process, `signal * x0 + noise * eps`, so one denoiser and one list of levels serve them all. The
k-diffusion samplers are usually written for `x0 + sigma * eps`; dividing x by the signal gives that form, and with
sigma = noise / signal they include VideoCrafter's rescale exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from torch import Tensor

from .denoiser import Denoiser
from .noise import NoiseSource
from .schedule import Level


@dataclass(frozen=True, eq=False)
class Step:
    """The result of a step: number `index` of `total`, counted from 0."""

    index: int
    total: int
    x: Tensor  # b c f h w, the latent at the level the step arrived at
    denoised: Tensor  # b c f h w, the clean latent as the network saw it in this step


class Sampler(Protocol):
    """Steps from the first level to the last."""

    def __call__(
        self, denoise: Denoiser, x: Tensor, levels: Sequence[Level], noise: NoiseSource, eta: float
    ) -> Iterator[Step]:
        """x: b c f h w at levels[0]; eta: 0..1, the share of fresh noise, which samplers without any ignore."""


def ddim(denoise: Denoiser, x: Tensor, levels: Sequence[Level], noise: NoiseSource, eta: float) -> Iterator[Step]:
    """DDIM, arXiv:2010.02502, equations 12 and 16, with the rescale in the signal: the reference's sampler.

    As there, noise is drawn in every step, also in the last one and where eta is 0.

    The coefficients are computed in the type of x, as in the reference: at eta 1 from timestep 999 the share of eps is
    what rounding leaves of 0. More exact numbers here would not make a run more exact: with guidance and update in
    float64, the error of guided runs in float32 stays what it is, since it is the network's own rounding, multiplied
    by the guidance scale and grown from step to step.
    """
    for index, (here, there) in enumerate(pairwise(levels)):
        x0, eps = denoise(x, here)
        fresh = noise.draw(x.shape, x.device, x.dtype)
        sigma = x.new_tensor(eta * posterior_noise(here, there))
        alpha = x.new_tensor(there.alpha)
        direction = (1 - alpha - sigma**2).clamp_min(0).sqrt() * eps
        x = alpha.sqrt() * there.scale * x0 + direction + sigma * fresh
        yield Step(index, len(levels) - 1, x, x0)


def euler(denoise: Denoiser, x: Tensor, levels: Sequence[Level], noise: NoiseSource, eta: float) -> Iterator[Step]:
    """Euler steps of the probability flow dx/dsigma = (x - x0) / sigma, arXiv:2206.00364, algorithm 1 without churn.

    Equal to DDIM with eta 0. No noise is drawn.
    """
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here).x0
        x = there.signal * x0 + there.noise / here.noise * (x - here.signal * x0)
        yield Step(index, len(levels) - 1, x, x0)


def euler_ancestral(
    denoise: Denoiser, x: Tensor, levels: Sequence[Level], noise: NoiseSource, eta: float
) -> Iterator[Step]:
    """An Euler step to a level below the next one, then fresh noise up to it: k-diffusion's ancestral sampling.

    With eta 1 the fresh noise is that of the DDPM posterior (arXiv:2006.11239, equation 7) of the process in sigma.
    """
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here).x0
        up = eta * math.sqrt(1 - min(1.0, there.sigma / here.sigma) ** 2)
        down = math.sqrt(1 - up**2)
        x = there.signal * x0 + down * there.noise / here.noise * (x - here.signal * x0)
        if up * there.noise > 0:
            x = x + up * there.noise * noise.draw(x.shape, x.device, x.dtype)
        yield Step(index, len(levels) - 1, x, x0)


def dpmpp_2m(denoise: Denoiser, x: Tensor, levels: Sequence[Level], noise: NoiseSource, eta: float) -> Iterator[Step]:
    """DPM-Solver++(2M), arXiv:2211.01095, algorithm 2. No noise is drawn."""
    return dpmpp_2m_sde(denoise, x, levels, noise, eta=0.0)


def dpmpp_2m_sde(
    denoise: Denoiser, x: Tensor, levels: Sequence[Level], noise: NoiseSource, eta: float
) -> Iterator[Step]:
    """SDE-DPM-Solver++(2M), arXiv:2211.01095, section 5, in the midpoint form; eta scales the noise of the SDE.

    h is the step in log SNR; the first step, and the last if it ends without noise, are of first order.
    """
    before, h_before = None, 0.0
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = denoise(x, here).x0
        h = there.log_snr - here.log_snr
        if there.noise == 0:
            x = there.signal * x0
        else:
            slope = 0.5 * h / h_before * (x0 - before) if before is not None else 0.0
            decay = math.exp(-eta * h) if eta > 0 else 1.0
            x = there.noise / here.noise * decay * x - there.signal * math.expm1(-(1 + eta) * h) * (x0 + slope)
        fresh = there.noise * math.sqrt(-math.expm1(-2 * eta * h)) if eta > 0 and there.noise > 0 else 0.0
        if fresh > 0:
            x = x + fresh * noise.draw(x.shape, x.device, x.dtype)
        before, h_before = x0, h
        yield Step(index, len(levels) - 1, x, x0)


def lcm(denoise: Denoiser, x: Tensor, levels: Sequence[Level], noise: NoiseSource, eta: float) -> Iterator[Step]:
    """Multistep sampling of a consistency model (arXiv:2310.04378, algorithm 3), as T2V-Turbo's: each step jumps to a
    clean latent, which is noised again for the next. As there, noise is drawn in every step of a run of more than one,
    also in the last, where a clean end takes none of it."""
    for index, (here, there) in enumerate(pairwise(levels)):
        x0 = boundary(denoise(x, here).x0, x, here)
        x = there.signal * x0
        if len(levels) > 2:
            x = x + there.noise * noise.draw(x.shape, x.device, x.dtype)
        yield Step(index, len(levels) - 1, x, x0)


def boundary(x0: Tensor, x: Tensor, here: Level) -> Tensor:
    """c_out * x0 + c_skip * x, which makes a consistency model the identity at timestep 0 (arXiv:2303.01469, equation
    5), with the published timestep scaling of 10 and data deviation of 0.5."""
    time = 10.0 * here.timestep
    skip = 0.25 / (time**2 + 0.25)
    return time / math.sqrt(time**2 + 0.25) * x0 + skip * x


SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "lcm": lcm,
}


def posterior_noise(here: Level, there: Level) -> float:
    """The standard deviation of the fresh noise of a DDPM step (arXiv:2010.02502, equation 16 with eta 1)."""
    return math.sqrt(max(0.0, (1 - there.alpha) / (1 - here.alpha) * (1 - here.alpha / there.alpha)))
