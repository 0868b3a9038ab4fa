"""The noising process as a table, and the noise levels at which a sampler calls the network.

A noised latent is `x = signal * x0 + noise * eps` with signal = sqrt(abar) * s and noise = sqrt(1 - abar), where abar
falls with the timestep and s is VideoCrafter's rescale (1 without it). Dividing by the signal gives the usual
`x0 + sigma * eps` with sigma = noise / signal: the sigma of the rescaled process, in which k-diffusion samplers are
exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import UserError
from ..specs import DiffusionSpec, Prediction, Spacing

End = Literal["reference", "clean"]

SMALLEST_ALPHA = 2.0**-24
"""Replaces abar = 0 (zero terminal SNR) in the table of sigmas, which must be finite to be interpolated."""


@dataclass(frozen=True)
class Level:
    """One noise level: its `timestep`, `alpha` (abar there, 0..1) and the rescale `scale` (above 0, at most 1)."""

    timestep: float
    alpha: float
    scale: float = 1.0

    @property
    def signal(self) -> float:
        """The factor of x0 in a latent of this level."""
        return math.sqrt(self.alpha) * self.scale

    @property
    def noise(self) -> float:
        """The factor of the noise in a latent of this level."""
        return math.sqrt(1 - self.alpha)

    @property
    def sigma(self) -> float:
        """noise / signal; infinite where no signal is left (zero terminal SNR)."""
        return self.noise / self.signal if self.signal > 0 else math.inf

    @property
    def log_snr(self) -> float:
        """log(signal / noise), the lambda of arXiv:2206.00927; infinite at either end."""
        if self.sigma == 0:
            return math.inf
        return -math.log(self.sigma) if math.isfinite(self.sigma) else -math.inf


CLEAN = Level(timestep=0, alpha=1.0)
"""No noise left."""


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The noising process of a network's training: `alphas_cumprod` and `scale` of each timestep, what it predicts.

    Both tables are float64 tensors that hold the float32 values the reference computes with. Timesteps count from 0.
    """

    alphas_cumprod: Tensor  # timesteps
    scale: Tensor  # timesteps
    prediction: Prediction = "eps"
    keep_last_scale: bool = False
    """The reference's end has the scale of the last timestep that was run, as DynamiCrafter's."""
    trained: int | None = None
    """The number of timesteps in training, where these are only the first of them; see `until`."""

    @classmethod
    def from_spec(cls, spec: DiffusionSpec) -> NoiseSchedule:
        """The tables of the published configurations: sqrt(beta) rises linearly, the rescale falls to a constant; with
        zero terminal SNR sqrt(abar) is stretched to end at 0 (arXiv:2305.08891, algorithm 1)."""
        roots = torch.linspace(spec.beta_start**0.5, spec.beta_end**0.5, spec.timesteps, dtype=torch.float64)
        alphas_cumprod = torch.cumprod(1 - roots**2, dim=0)
        if spec.zero_terminal_snr:
            stretched = alphas_cumprod.sqrt()
            first, last = stretched[0].clone(), stretched[-1].clone()
            alphas_cumprod = ((stretched - last) * first / (first - last)) ** 2
        scale = None
        if spec.rescale is not None:
            ramp = torch.linspace(1, spec.rescale, spec.rescale_steps, dtype=torch.float64)
            scale = torch.cat([ramp, ramp.new_full((spec.timesteps,), spec.rescale)])
        return cls.from_buffers(alphas_cumprod, scale, spec.prediction, keep_last_scale=spec.keep_last_rescale)

    @classmethod
    def from_buffers(
        cls,
        alphas_cumprod: Tensor,
        scale_arr: Tensor | None = None,
        prediction: Prediction = "eps",
        *,
        keep_last_scale: bool = False,
    ) -> NoiseSchedule:
        """The tables that a checkpoint carries; `scale_arr` may be longer (1400 in some files), the rest is never read.

        Buffers in half precision are accepted as they are: see `is_rounded` before trusting them. Raises UserError for
        tables that cannot be a noise schedule.
        """
        alphas = alphas_cumprod.detach().cpu().float().double()
        scale = torch.ones_like(alphas) if scale_arr is None else scale_arr.detach().cpu().float().double()
        _check_tables(alphas, scale)
        return cls(alphas, scale[: len(alphas)].clone(), prediction, keep_last_scale)

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def until(self, count: int | None) -> NoiseSchedule:
        """The first `count` timesteps, 1 .. all, as if there were no others: sampling then begins at timestep
        count - 1, the start time M of arXiv:2406.15735. None is all of them. Raises UserError for other counts."""
        if count is None:
            return self
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(self):
            raise UserError(
                f"The start is at timestep {count!r}; it can be a whole number from 1 to {len(self)}, which is pure "
                "noise. The authors of DynamiCrafter-CIL start at 900 of 1000."
            )
        trained = len(self) if self.trained is None else self.trained
        return replace(self, alphas_cumprod=self.alphas_cumprod[:count], scale=self.scale[:count], trained=trained)

    @property
    def sigmas(self) -> Tensor:
        """Sigma of the rescaled process at each timestep, rising, float64 and finite."""
        alphas = self.alphas_cumprod.clamp_min(SMALLEST_ALPHA)
        return ((1 - alphas) / alphas).sqrt() / self.scale

    def level(self, timestep: int) -> Level:
        """The noise level at a timestep of the table."""
        return Level(timestep, float(self.alphas_cumprod[timestep]), float(self.scale[timestep]))

    def levels(self, timesteps: Sequence[int], end: End = "reference") -> list[Level]:
        """The levels of these timesteps and the one at which sampling ends: one more than there are steps.

        The reference ends at timestep 0, where a trace of noise remains; "clean" ends without any.
        """
        levels = [self.level(timestep) for timestep in timesteps]
        return [*levels, self.end(levels, end)]

    def end(self, levels: Sequence[Level], end: End = "reference") -> Level:
        """The level at which sampling ends, after these. Only the reference's end keeps the last scale: latents that
        end clean have their own contrast, also where few steps end early."""
        if end == "clean":
            return CLEAN
        last = self.level(0)
        return replace(last, scale=levels[-1].scale) if self.keep_last_scale and levels else last

    def timesteps(self, steps: int, spacing: Spacing = "uniform") -> list[int]:
        """The timesteps of a run, falling. Raises UserError for a spacing or a count that does not exist."""
        if spacing == "uniform":
            return self.uniform_timesteps(steps)
        if spacing == "trailing":
            return self.trailing_timesteps(steps)
        if spacing == "lcm":
            return self.lcm_timesteps(steps)
        raise UserError(f"The spacing of timesteps is {spacing!r}; it can be 'uniform', 'trailing' or 'lcm'.")

    def uniform_timesteps(self, steps: int) -> list[int]:
        """The reference's spacing: every (1000 // steps)-th timestep from 1 on, which may be more than `steps` of them.

        Where it would read past the table the reference crashes; this raises UserError and names counts that work.
        """
        self._check_steps(steps)
        if not self._uniform_fits(steps):
            below = [str(n) for n in range(steps - 1, 0, -1) if self._uniform_fits(n)][:1]
            above = [str(n) for n in range(steps + 1, len(self) + 1) if self._uniform_fits(n)][:1]
            raise UserError(
                f"{steps} steps cannot be spaced uniformly: with a stride of {len(self)} // {steps} = "
                f"{len(self) // steps} they would run past the last timestep, {len(self) - 1}. "
                f"Use {' or '.join(below + above)} steps, or trailing spacing, which works with any count. "
                "On the command line: --spacing trailing."
            )
        return list(range(1, len(self) + 1, len(self) // steps))[::-1]

    def trailing_timesteps(self, steps: int) -> list[int]:
        """Exactly `steps` timesteps, evenly spaced down from the very last (arXiv:2305.08891)."""
        self._check_steps(steps)
        return [round(len(self) - step * len(self) / steps) - 1 for step in range(steps)]

    def lcm_timesteps(self, steps: int, origin: int = 200) -> list[int]:
        """Every (origin // steps)-th, from the top, of the `origin` timesteps that a consistency model was distilled
        at (arXiv:2310.04378; T2V-Turbo: 200). Raises UserError for more steps than there are."""
        self._check_steps(steps)
        if self.trained not in (None, len(self)):
            raise UserError(
                f"The steps of a consistency model cannot begin at timestep {len(self)}: it works at the timesteps "
                "that it was distilled at alone. Leave the start out, or use the spacing 'trailing'."
            )
        if steps > origin:
            raise UserError(f"{steps} steps were asked for; the model was distilled at {origin} timesteps: give fewer.")
        stride = len(self) // origin
        grid = [stride * (k + 1) - 1 for k in range(origin)]
        return grid[:: -(origin // steps)][:steps]

    def _check_steps(self, steps: int) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= len(self):
            why = "" if self.trained in (None, len(self)) else f", as the start at timestep {len(self)} leaves no more"
            raise UserError(f"{steps!r} steps were asked for; give a whole number from 1 to {len(self)}{why}.")

    def _uniform_fits(self, steps: int) -> bool:
        stride = len(self) // steps
        return 1 + (len(self) - 1) // stride * stride < len(self)

    def sigma_of(self, timestep: Tensor) -> Tensor:
        """Sigma at timesteps of any shape, whole or not: interpolated in log sigma, clamped to the table."""
        position = timestep.detach().cpu().double().clamp(0, len(self) - 1)
        return _like(timestep, _interpolate(self.sigmas.log(), position).exp())

    def timestep_of(self, sigma: Tensor) -> Tensor:
        """The inverse of `sigma_of`: fractional timesteps at these sigmas, from 0 to the last of the table."""
        table = self.sigmas.log()
        if len(table) == 1:
            return _like(sigma, torch.zeros_like(sigma, dtype=torch.float64, device="cpu"))
        wanted = sigma.detach().cpu().double().log().clamp(table[0], table[-1])
        upper = torch.searchsorted(table, wanted).clamp(1, len(self) - 1)
        width = (table[upper] - table[upper - 1]).clamp_min(torch.finfo(torch.float64).tiny)
        return _like(sigma, upper - 1 + (wanted - table[upper - 1]) / width)

    def signal_of(self, sigma: Tensor) -> Tensor:
        """What `x0 + sigma * eps` is multiplied by to become the network's input: sqrt(abar) * s at these sigmas."""
        exact = sigma.detach().cpu().double()
        scale = _interpolate(self.scale, self.timestep_of(exact))
        return _like(sigma, scale / (1 + (exact * scale) ** 2).sqrt())


def is_rounded(buffer: Tensor) -> bool:
    """Whether a buffer went through half precision, by its type or by its values.

    Rounded to 16 bits, abar near 1 is off by so much that the noise at the last steps is wrong by up to 8 %: the exact
    numbers of the model's preset are then better than those of its file.
    """
    exact = buffer.detach().cpu().double()
    return any(torch.equal(exact.to(half).double(), exact) for half in (torch.float16, torch.bfloat16))


def _interpolate(table: Tensor, position: Tensor) -> Tensor:
    lower = position.floor().long().clamp(0, len(table) - 2)
    return torch.lerp(table[lower], table[lower + 1], position - lower)


def _like(given: Tensor, result: Tensor) -> Tensor:
    """The result where the given tensor is, in its type if that is a floating one."""
    dtype = given.dtype if given.dtype.is_floating_point else torch.float32
    return result.to(dtype).to(given.device)


def _check_tables(alphas: Tensor, scale: Tensor) -> None:
    cure = "The file's schedule is damaged: choose the model's preset instead of reading the schedule from the file."
    if alphas.ndim != 1 or len(alphas) < 2:
        raise UserError(f"alphas_cumprod has the shape {tuple(alphas.shape)}; it should be a row of 2 or more. {cure}")
    if scale.ndim != 1 or len(scale) < len(alphas):
        raise UserError(
            f"scale_arr has the shape {tuple(scale.shape)}; it should be a row of at least {len(alphas)}. {cure}"
        )
    scale = scale[: len(alphas)]
    if not bool(((alphas >= 0) & (alphas < 1)).all()) or bool((alphas.diff() > 0).any()):
        raise UserError(f"alphas_cumprod should fall from just below 1 to 0 or more. {cure}")
    if not bool(((scale > 0) & (scale <= 1)).all()) or bool((scale.diff() > 0).any()):
        raise UserError(f"scale_arr should fall from 1 and stay above 0. {cure}")
