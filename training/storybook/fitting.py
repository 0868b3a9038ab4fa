"""One training run within a budget of seconds: optimiser, learning rate, averaged weights, log and checkpoints.

On a GPU the network computes in bfloat16 with a copy of its weights, the weights themselves stay in float32, and each
step's gradients are replayed as one CUDA graph where the network can be recorded. On a CPU everything is float32.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

EPS = 1e-16
"""AdamW's; the gradients of the innermost layers are near 1e-9 late in training, and the usual 1e-8 would stop them."""
WARMUP = 0.03
"""The share of the budget in which the learning rate rises."""
LAST_WATCH = 0.9
"""The share of the budget behind which no progress is looked at any more."""
MORE = 5.0
"""Seconds that a resumed run goes on at least."""
WARM_PASSES = 3
"""Passes before a graph is recorded, in which libraries choose their kernels."""

Batch = tuple[Tensor, ...]
Draw = Callable[[float], Batch]
"""The batch of a step, given the progress of the run from 0 to 1; always of the same shapes."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast a run learns."""

    seconds: float
    lr: float = 2e-3
    final: float = 0.02
    """The rate at the end of the cosine, as a fraction of `lr`."""
    weight_decay: float = 0.01
    ema: float = 0.999
    """Averaged weights forget by this factor a step; at the start they forget faster."""
    clip: float = 1.0
    log_every: int = 25
    save_seconds: float = 30.0
    watch_seconds: float = 60.0


class Flat:
    """The learning parameters of a module as views of one vector, each at a multiple of `ALIGNED` values, and their
    gradients of another: what is done with all of them takes one launch."""

    ALIGNED = 64

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self.named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.spans: dict[str, tuple[int, torch.Size]] = {}
        size = 0
        for name, p in self.named.items():
            self.spans[name] = (size, p.shape)
            size += -(-p.numel() // self.ALIGNED) * self.ALIGNED
        device = next(iter(self.named.values())).device
        self.master = torch.zeros(size, device=device)
        for name, view in self.views(self.master).items():
            view.copy_(self.named[name].detach())
        self.values, self.gradients = self.master.to(dtype, copy=True), torch.zeros(size, device=device, dtype=dtype)
        for name, view in self.views(self.values).items():
            self.named[name].data = view

    def views(self, vector: Tensor) -> dict[str, Tensor]:
        """The parts of a vector of this size, by name."""
        return {name: vector[at : at + shape.numel()].view(shape) for name, (at, shape) in self.spans.items()}


class Gradients:
    """Computes the gradients of a lesson, which gives the loss of a batch, into the vector of its `Flat`. `graphs`:
    whether to record a CUDA graph of it all, with the first batch, and to replay that."""

    def __init__(self, lesson: nn.Module, flat: Flat, *, graphs: bool) -> None:
        self.lesson, self.flat, self.graphs = lesson, flat, graphs
        self.places = list(flat.views(flat.gradients).values())
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: Batch = ()
        self._loss = torch.zeros(())

    def __call__(self, batch: Batch) -> Tensor:
        """Set the gradients of all parameters; returns the loss."""
        if self.graphs and self._graph is None:
            try:
                self._record(batch)
            except Exception:  # compilers and drivers raise errors of many types
                torch.cuda.synchronize()
                self.graphs = retreats(self.lesson)
                how = "it is tried with simpler blocks" if self.graphs else "it runs one launch at a time"
                logger.exception("The step cannot be recorded; %s", how)
                return self(batch)
        if self._graph is None:
            return self._plain(batch)
        for kept, value in zip(self._batch, batch, strict=True):
            kept.copy_(value)
        self._graph.replay()
        return self._loss

    def again(self) -> None:
        """Forget what was recorded, because the lesson computes itself in another manner from now on."""
        self._graph, self._batch = None, ()

    def _plain(self, batch: Batch) -> Tensor:
        loss: Tensor = self.lesson(*batch)
        found = torch.autograd.grad(loss, list(self.flat.named.values()), allow_unused=True)
        used = [(place, value) for place, value in zip(self.places, found, strict=True) if value is not None]
        torch._foreach_copy_([place for place, _ in used], [value.contiguous() for _, value in used])
        return loss.detach()

    def _record(self, batch: Batch) -> None:
        self._batch = tuple(value.clone() for value in batch)
        side = torch.cuda.Stream()
        graph = torch.cuda.CUDAGraph()
        with _measured_kernels():
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_PASSES):
                    self._plain(self._batch)
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph):
                self._loss = self._plain(self._batch)
        self._graph = graph


def retreats(lesson: nn.Module) -> bool:
    """Asks a lesson to compute itself in a simpler manner, by its method `retreat`; whether there was one."""
    retreat: Callable[[], bool] | None = getattr(lesson, "retreat", None)
    return retreat is not None and retreat()


@contextlib.contextmanager
def _measured_kernels() -> Iterator[None]:
    """Inside, cuDNN measures which of its kernels is the fastest for a shape that it sees for the first time."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _nothing() -> None:
    """What a run does in between, unless it is given something."""


class _Recent:
    """The sum of the losses and the number of the steps since a time of the run."""

    def __init__(self, device: torch.device, began: float) -> None:
        self.total, self.steps, self.began = torch.zeros((), device=device), 0, began

    def add(self, loss: Tensor) -> None:
        self.total += loss
        self.steps += 1

    def restart(self, now: float) -> None:
        self.total.zero_()
        self.steps, self.began = 0, now


class Trainer:
    """Trains `lesson`, a module whose call with a batch gives the loss. `averaged` is a dict of its weights' names."""

    def __init__(
        self,
        lesson: nn.Module,
        plan: Plan,
        folder: Path,
        name: str,
        *,
        graphs: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        """`dtype` is the type in which the lesson computes; None is bfloat16 on a GPU and float32 on a CPU."""
        self.plan, self.folder, self.name = plan, folder, name
        self.began, self.earlier = time.perf_counter(), 0.0
        self.device = next(lesson.parameters()).device
        on_gpu = self.device.type == "cuda"
        dtype = dtype or (torch.bfloat16 if on_gpu else torch.float32)
        self.others = {key: value.clone() for key, value in lesson.state_dict().items()}
        self.lesson = lesson.to(dtype)
        self.flat = Flat(self.lesson, dtype)
        for key, view in self.flat.views(self.flat.master).items():
            view.copy_(self.others[key])
        self.master = nn.Parameter(self.flat.master)
        self.master.grad = torch.zeros_like(self.master)
        self.mean = self.flat.master.clone()
        self.optimizer = torch.optim.AdamW(
            [self.master], lr=plan.lr, betas=(0.9, 0.99), eps=EPS, weight_decay=plan.weight_decay, fused=True
        )
        self.gradients = Gradients(self.lesson, self.flat, graphs=graphs and on_gpu)
        self.step = 0
        self.last: Batch = ()
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights in float32, by their names in the lesson."""
        views = {key: view.clone() for key, view in self.flat.views(self.mean).items()}
        return {**self.others, **views}

    @property
    def seconds(self) -> float:
        """Seconds of the budget that are spent."""
        return self.earlier + time.perf_counter() - self.began

    @property
    def progress(self) -> float:
        """0 at the start, 1 at the end."""
        return min(1.0, self.seconds / self.plan.seconds)

    def rate(self, progress: float) -> float:
        """The learning rate: a short rise, then half a cosine."""
        low = self.plan.final
        cosine = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))
        return self.plan.lr * min(1.0, (progress + 1e-3) / WARMUP, (self.step + 1) / 50) * cosine

    def run(
        self,
        draw: Draw,
        *,
        samples: int,
        between: Callable[[], None] = _nothing,
        watch: Callable[[], None] = _nothing,
        keep: Callable[[], None] = _nothing,
    ) -> None:
        """Train to the end of the budget, with `samples` in each batch. `between` is called every few steps, `watch`
        every `watch_seconds`, `keep` whenever a checkpoint is written."""
        recent = _Recent(self.device, self.seconds)
        saved = watched = self.seconds
        while (progress := self.progress) < 1:
            recent.add(self._step(draw(progress), progress))
            if self.step % 5 == 0:
                between()
            if self.step % self.plan.log_every == 0:
                self._log_recent(recent, samples)
            if self.seconds - watched > self.plan.watch_seconds and self.progress < LAST_WATCH:
                watch()
                watched = self.seconds
                recent.restart(watched)
            if self.seconds - saved > self.plan.save_seconds:
                self.save()
                keep()
                saved = self.seconds
        self.save()
        self.log(finished=True, memory=self._memory())

    def _log_recent(self, recent: _Recent, samples: int) -> None:
        """The mean loss since the last call, which waits for the device, so that few steps are under way."""
        loss = float(recent.total) / recent.steps
        each = (self.seconds - recent.began) / recent.steps
        if self.step % (4 * self.plan.log_every) == 0 or self.step <= 50:
            self.log(loss=loss, lr=self.rate(self.progress), ms=1000 * each, samples_per_second=samples / each)
        recent.restart(self.seconds)

    def _step(self, batch: Batch, progress: float) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(progress)
        self.last = batch
        loss = self.gradients(batch)
        assert self.master.grad is not None
        self.master.grad.copy_(self.flat.gradients)
        norm = nn.utils.clip_grad_norm_(self.master, self.plan.clip)
        self.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]  # such a step is left out
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            self.flat.values.copy_(self.master)
            self.mean.lerp_(self.master, 1 - min(self.plan.ema, (1 + self.step) / (10 + self.step)))
        return loss

    def _memory(self) -> float:
        """The most GiB of the GPU that were in use, 0 on a CPU."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0

    def log(self, **values: Any) -> None:
        """One JSON line in the run's log."""
        line = {"run": self.name, "step": self.step, "seconds": round(self.seconds, 1), **values}
        rounded = {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in line.items()}
        with (self.folder / f"{self.name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")
        logger.info("%s", rounded)

    def save(self) -> None:
        """Everything that a resumed run needs, written whole or not at all."""
        state = {
            "master": self.master.detach(),
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        part = self.folder / f"{self.name}.part"
        torch.save(state, part)
        part.replace(self.folder / f"{self.name}.pt")

    @torch.no_grad()
    def resume(self) -> bool:
        """Continue from the checkpoint of this name if there is one."""
        path = self.folder / f"{self.name}.pt"
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True, map_location=self.device)
        self.start_from(state["averaged"])
        self.master.copy_(state["master"])
        self.flat.values.copy_(state["master"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.earlier = state["step"], state["seconds"]
        self.plan = replace(self.plan, seconds=max(self.plan.seconds, self.earlier + MORE))
        logger.info("%s continues at step %d", self.name, self.step)
        return True

    @torch.no_grad()
    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights, of all layers or of some, and begin the averages with them. Raises KeyError for one that has no
        place in the lesson."""
        strange = sorted(set(weights) - set(self.others))
        if strange:
            raise KeyError(f"The lesson has no place for {strange[:5]}")
        views = self.flat.views(self.master.data)
        for key, value in weights.items():
            (views[key] if key in views else self.others[key]).copy_(value)
        self.flat.values.copy_(self.master)
        self.mean.copy_(self.master)


def finished(folder: Path, name: str) -> Mapping[str, Tensor]:
    """The averaged weights of a run. Raises FileNotFoundError when it has left no checkpoint."""
    path = folder / f"{name}.pt"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run the stage {name!r} first")
    weights: Mapping[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu")["averaged"]
    return weights


def under(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with a prefix, by their names behind it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
