"""A training run: optimiser, learning-rate schedule over a budget, averaged weights, log, and exactly resumable
checkpoints.

The objective is a function of the step and draws its randomness only from it, so that a resumed run equals an
uninterrupted one. With torch.distributed, every process works on its own part of the batch and the gradients are
averaged; rank 0 writes log and checkpoints.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

logger = logging.getLogger(__name__)

EPS = 1e-16
"""For AdamW. Late in training, the gradients of the innermost layers are near 1e-9, which the usual 1e-8 would
suppress."""

PAUSE = 5.0
"""Upper limit of the duration of a step, relative to the usual one; longer steps mean that the process was
suspended."""

Objective = Callable[[int], Tensor]
Probe = Callable[[nn.Module, int], Mapping[str, Any]]


def rank() -> int:
    """The rank of this process; 0 without torch.distributed."""
    return dist.get_rank() if dist.is_initialized() else 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Duration and hyperparameters. The run ends after `minutes` (of training, without interruptions) or after
    `steps`."""

    lr: float = 1e-3
    minutes: float | None = None
    steps: int | None = None
    warmup: int = 200
    """Steps of linear warm-up."""
    final: float = 0.02
    """Learning rate at the end of the cosine, relative to `lr`."""
    weight_decay: float = 0.01
    ema: float = 0.999
    """Decay of the averaged weights per step; lower at the start."""
    clip: float = 1.0
    log_every: int = 20
    save_minutes: float = 3.0
    probe_minutes: float | None = None


class Trainer:
    """Trains `module`, whose parameters the objective uses, and keeps `averaged`, a state dict of averaged weights."""

    def __init__(self, module: nn.Module, plan: Plan, folder: Path, name: str) -> None:
        if (plan.minutes is None) == (plan.steps is None):
            raise ValueError("Exactly one of minutes and steps must be set")
        self.module, self.plan, self.folder, self.name = module, plan, folder, name
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=plan.lr, betas=(0.9, 0.99), eps=EPS, weight_decay=plan.weight_decay, fused=True
        )
        self.adopt()
        self.step = 0
        self.seconds = 0.0
        self._duration = self._usual = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.pt"

    @property
    def progress(self) -> float:
        """From 0 at the start to 1 at the end."""
        if self.plan.steps is not None:
            return self.step / self.plan.steps
        return self.seconds / (60 * (self.plan.minutes or 1.0))

    def rate(self) -> float:
        """The learning rate of the next step: warm-up, then half a cosine."""
        low = self.plan.final
        cosine = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress)))
        return self.plan.lr * min(1.0, (self.step + 1) / max(1, self.plan.warmup)) * cosine

    def run(self, objective: Objective, *, samples_per_step: int, probe: Probe | None = None) -> None:
        """Trains to the end of the plan; does nothing if it has been reached. `probe` evaluates the averaged model
        every `probe_minutes` and at the end."""
        if self.progress >= 1:
            return
        losses: list[float] = []
        logged = self.seconds
        due = {"save": self._next(self.plan.save_minutes), "probe": self._next(self.plan.probe_minutes)}
        while self.progress < 1:
            losses.append(self._step(objective))
            if rank() > 0:
                continue
            if self.step % self.plan.log_every == 0:
                speed = samples_per_step * len(losses) / max(self.seconds - logged, 1e-9)
                self.log(loss=sum(losses) / len(losses), lr=self.rate(), samples_per_second=speed)
                losses, logged = [], self.seconds
            if self.seconds > due["save"]:
                self.save()
                due["save"] = self._next(self.plan.save_minutes)
            if self.seconds > due["probe"]:
                self._report(probe)
                due["probe"] = self._next(self.plan.probe_minutes)
        if rank() == 0:
            self.save()
            self._report(probe)

    def _next(self, minutes: float | None) -> float:
        """The time, in seconds of training, that is `minutes` from now; never if None."""
        return math.inf if minutes is None else self.seconds + 60 * minutes

    def _report(self, probe: Probe | None) -> None:
        if probe is not None:
            self.log(**self._probe(probe))

    def _step(self, objective: Objective) -> float:
        begin = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        loss = objective(self.step)
        self.module.zero_grad(set_to_none=True)
        loss.backward()
        mean_loss = self._agree(float(loss.detach()))
        nn.utils.clip_grad_norm_(self.parameters, self.plan.clip)
        self.optimizer.step()
        self.step += 1
        self._average()
        self._duration = self._without_pauses(time.perf_counter() - begin)
        return mean_loss

    def _without_pauses(self, seconds: float) -> float:
        """The duration of a step without suspensions, judged by the previous steps."""
        counted = min(seconds, PAUSE * self._usual) if self._usual else seconds
        self._usual = counted if not self._usual else 0.9 * self._usual + 0.1 * counted
        return counted

    def _agree(self, loss: float) -> float:
        """Averages gradients, loss and the duration of the previous step over all processes, so that all of them see
        the same clock and end at the same step."""
        numbers = torch.tensor([loss, self._duration], dtype=torch.float32)
        if dist.is_initialized():
            grads = [p.grad for p in self.parameters if p.grad is not None]
            flat = torch.cat([*(grad.flatten() for grad in grads), numbers.to(grads[0])])
            dist.all_reduce(flat)
            flat /= dist.get_world_size()
            *parts, numbers = flat.split([*(grad.numel() for grad in grads), len(numbers)])
            for grad, part in zip(grads, parts, strict=True):
                grad.copy_(part.view_as(grad))
        self.seconds += float(numbers[1])
        return float(numbers[0])

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        state = self.module.state_dict()
        keys = [key for key, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.averaged[key] for key in keys], [state[key] for key in keys], 1 - decay)

    def _probe(self, probe: Probe) -> Mapping[str, Any]:
        """Runs `probe` with the averaged weights."""
        current = {key: value.detach().clone() for key, value in self.module.state_dict().items()}
        self.module.load_state_dict(self.averaged)
        try:
            with torch.no_grad():
                return probe(self.module, self.step)
        finally:
            self.module.load_state_dict(current)

    def log(self, **values: Any) -> None:
        """Appends a JSON line to the run's log."""
        line = {"run": self.name, "step": self.step, "seconds": round(self.seconds, 1), **values}
        rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in line.items()}
        with (self.folder / f"{self.name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")
        logger.info("%s", rounded)

    def save(self) -> None:
        """Saves everything needed to resume, atomically."""
        state = {
            "module": self.module.state_dict(),
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.checkpoint)

    def adopt(self) -> None:
        """Resets the averaged weights to those of the module."""
        self.averaged = {key: value.detach().clone() for key, value in self.module.state_dict().items()}

    def resume(self) -> bool:
        """Loads the checkpoint of this name, if there is one. Returns whether it did."""
        if not self.checkpoint.exists():
            return False
        state = torch.load(self.checkpoint, weights_only=True, map_location=self.parameters[0].device)
        self.module.load_state_dict(state["module"])
        self.averaged = state["averaged"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        logger.info("%s resumes at step %d", self.name, self.step)
        return True
