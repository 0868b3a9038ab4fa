"""Passes of a run as CUDA graphs: recorded once, then replayed as a single launch each.

A pass is some thousand small launches, and on a fast GPU Python takes longer to ask for them than the GPU to run them.
A graph asks for all of them at once. It reads its inputs where they lay when it was recorded, so that each pass copies
its own there first, and writes its results where the next pass overwrites them, so that they are copied out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from .hooks import NO_HOOKS, Hooks
from .memory import free_bytes
from .unet import Deep, VideoUNet

log = logging.getLogger(__name__)

Work = Callable[[], tuple[Tensor, ...]]

MOST_KINDS = 8
"""How many kinds of passes a run records; those of further kinds run as ever."""

SPARE = 2
"""How many times the memory of a pass must be free to record one: what a graph uses can be used by nothing else."""


class Recorder(Protocol):
    """Makes work repeatable."""

    bytes: int
    """What the recordings hold on the device."""

    def record(self, work: Work) -> Work:
        """Work that does the same again, on the same tensors, and gives results that its next call overwrites. Raises
        RuntimeError for work that cannot be recorded."""

    def release(self) -> None:
        """Lets go of all recordings and of their memory."""


class CudaRecorder:
    """Records work on a CUDA device as graphs. All share one memory, so one at a time may run."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.graphs: list[torch.cuda.CUDAGraph] = []
        self.stream: torch.cuda.Stream | None = None
        self.bytes = 0

    def record(self, work: Work) -> Work:
        """See `Recorder`. The work must have run before, so that libraries and kernels are ready."""
        graph = torch.cuda.CUDAGraph()
        pool = self.graphs[0].pool() if self.graphs else None
        with torch.cuda.device(self.device), torch.cuda.stream(torch.cuda.current_stream(self.device)):
            self.stream = self.stream or torch.cuda.Stream(self.device)
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved(self.device)
            with torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="thread_local"):
                results = work()
            self.bytes += torch.cuda.memory_reserved(self.device) - before
        self.graphs.append(graph)

        def again() -> tuple[Tensor, ...]:
            graph.replay()
            return results

        return again

    def release(self) -> None:
        """See `Recorder`."""
        if not self.graphs:
            return
        for graph in self.graphs:
            graph.reset()
        self.graphs.clear()
        self.bytes = 0
        torch.cuda.empty_cache()


class _Pass:
    """One recorded pass: the tensors that it reads, and how to run it again."""

    def __init__(self, recorder: Recorder, run: Callable[[dict[str, Tensor]], tuple[Tensor, ...]]) -> None:
        self.recorder, self.run = recorder, run
        self.inputs: dict[str, Tensor] = {}
        self.given: dict[str, Tensor] = {}
        self.again: Work | None = None

    def __call__(self, tensors: dict[str, Tensor], constant: frozenset[str]) -> tuple[Tensor, ...]:
        """The results for these tensors. One of those called `constant` is copied only if it is another object than
        before, as it does not change."""
        if self.again is None:
            self.inputs = {name: tensor.clone() for name, tensor in tensors.items()}
            self.again = self.recorder.record(lambda: self.run(self.inputs))
        else:
            for name, tensor in tensors.items():
                if name not in constant or tensor is not self.given[name]:
                    self.inputs[name].copy_(tensor)
        self.given = {name: tensors[name] for name in constant & tensors.keys()}
        return tuple(result.clone() for result in self.again())


class Replay:
    """Calls a network as `VideoUNet.in_memory` does. The first pass of each kind (shapes, types and options) runs as
    ever, the second is recorded, and all further ones are replayed.

    Where a pass cannot be recorded or there is little memory, every pass runs as ever from then on; so do those with
    gradients. Hooks are for passes that are not recorded, and must not change the result. Texts, image tokens and the
    picture's latent must not be changed in place while a run lasts. `release` ends the run.
    """

    CONSTANT = frozenset({"text", "image", "fps", "concat", "guidance", "early_text"})

    def __init__(self, network: VideoUNet, recorder: Recorder) -> None:
        self.network, self.recorder = network, recorder
        self.off = False
        self.passes: dict[Any, _Pass | None] = {}

    def __call__(
        self,
        x: Tensor,
        timesteps: Tensor,
        text: Tensor,
        image: Tensor | None = None,
        fps: Tensor | None = None,
        *,
        hooks: Hooks = NO_HOOKS,
        deep: Deep | None = None,
        **options: Any,
    ) -> Tensor:
        """The prediction, see `VideoUNet.forward`."""
        given = {"x": x, "timesteps": timesteps, "text": text, "image": image, "fps": fps, **options}
        given["features"] = None if deep is None else deep.features
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        plain = {name: value for name, value in given.items() if not isinstance(value, Tensor)}
        shapes = tuple((name, one.shape, one.dtype, one.device) for name, one in tensors.items())
        key = (shapes, tuple(plain.items()), None if deep is None else deep.shallow)
        results = self._replayed(key, tensors, plain, deep)
        if results is None:
            return self.network.in_memory(x, timesteps, text, image, fps, hooks=hooks, deep=deep, **options)
        if deep is not None and deep.features is None:
            deep.features = results[1]
        return results[0]

    def release(self) -> None:
        """Lets go of everything recorded. Later passes begin anew."""
        self.passes.clear()
        self.recorder.release()
        self.network.budget.held = 0

    def _replayed(
        self, key: Any, tensors: dict[str, Tensor], plain: dict[str, Any], deep: Deep | None
    ) -> tuple[Tensor, ...] | None:
        """The results of a recorded pass, None where it should run as ever."""
        if self.off or torch.is_grad_enabled():
            return None
        if key not in self.passes:
            if len(self.passes) < MOST_KINDS:
                self.passes[key] = None
            return None
        known = self.passes[key]
        if known is None and not self._has_room(tensors["x"], tensors["text"]):
            self._stop()
            return None
        with torch.inference_mode(False), torch.no_grad():
            if known is not None:
                return known(tensors, self.CONSTANT)
            return self._first(key, tensors, plain, None if deep is None else deep.shallow)

    def _first(
        self, key: Any, tensors: dict[str, Tensor], plain: dict[str, Any], shallow: int | None
    ) -> tuple[Tensor, ...] | None:
        """Records a pass of a kind, and runs it."""

        def run(inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
            call = {**plain, **inputs}
            features = call.pop("features")
            deep = None if shallow is None else Deep(shallow, features)
            out: Tensor = self.network(**call, deep=deep)
            return (out,) if deep is None or features is not None or deep.features is None else (out, deep.features)

        try:
            made = _Pass(self.recorder, run)
            results = made(tensors, self.CONSTANT)
        except RuntimeError as error:
            log.warning("A pass could not be recorded as a CUDA graph (%s); passes run one launch at a time.", error)
            self._stop()
            return None
        self.passes[key] = made
        self.network.budget.held = self.recorder.bytes
        return results

    def _has_room(self, x: Tensor, text: Tensor) -> bool:
        """Whether maps are whole, and much memory is free."""
        budget = self.network.budget
        needed = self.network.whole_bytes(len(text) * x[0, 0].numel(), x.element_size())
        free = free_bytes(x.device)
        return budget.is_whole and (free is None or free - budget.held >= SPARE * needed)

    def _stop(self) -> None:
        self.off = True
        self.release()
