"""Passes of a run as CUDA graphs: recorded once, then replayed as a single launch each.

A pass is about a thousand small launches, and on a fast GPU Python takes longer to request them than the GPU to run
them. A graph requests all of them at once. It reads its inputs at the addresses of the recording, so that each pass
first copies its own there, and writes its results where the next pass overwrites them, so that they are copied out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..conditions import Conditioning
from .adapter import Adapter, Recording
from .call import PLAIN, Pass
from .memory import free_bytes, is_out_of_memory
from .unet import VideoUNet

log = logging.getLogger(__name__)

Work = Callable[[], tuple[Tensor, ...]]

MOST_KINDS = 8
"""How many kinds of passes a run records; those of further kinds are not recorded."""

Holding = Callable[[], AbstractContextManager[Hashable | None]]
"""Keeps the weights of a network in their places while the context is open. Its value is equal as long as the same
weights are at the same addresses, and None where they are not all on the device."""

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


def recorder_for(device: torch.device) -> Recorder | None:
    """What records passes on a device, None where nothing does: on devices other than NVIDIA's, and with PyTorch's
    backend `cudaMallocAsync`, where memory allocated during a recording has no address that Triton accepts."""
    if device.type != "cuda" or not torch.cuda.is_available() or torch.version.hip is not None:
        return None
    if torch.cuda.get_allocator_backend() != "native":
        log.debug("No pass is recorded as a CUDA graph: PyTorch's memory allocator is not its native one.")
        return None
    return CudaRecorder(device)


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


def always() -> AbstractContextManager[Hashable | None]:
    """For weights that nobody moves."""
    return nullcontext("in place")


class Replay:
    """Calls a network as `VideoUNet.in_memory` does. The first pass of each kind (shapes, types and options) runs
    without recording, the second is recorded, and all later ones are replayed.

    Where a pass cannot be recorded, there is little memory or the weights have moved, no pass is recorded from then on.
    Passes with gradients are never recorded, nor those with an adapter that refuses it. Texts, image tokens and the
    image's latent must not be changed in place while a run lasts. `release` ends the run.

    `holding` is for a host that moves weights; `free` tells how many bytes of a device are free, None where that is not
    known.
    """

    CONSTANT = frozenset({"text", "image", "fps", "concat", "guidance", "early_text"})

    def __init__(
        self,
        network: VideoUNet,
        recorder: Recorder,
        holding: Holding = always,
        free: Callable[[torch.device], int | None] | None = None,
    ) -> None:
        self.network, self.recorder, self.holding, self.free = network, recorder, holding, free
        self.off = False
        self.weights: Hashable | None = None
        self.passes: dict[Any, _Pass | None] = {}

    def __call__(self, x: Tensor, timesteps: Tensor, conditioning: Conditioning, run: Pass = PLAIN) -> Tensor:
        """The prediction, see `VideoUNet.forward`."""
        out = self.attempt(x, timesteps, conditioning, run)
        return self.network.in_memory(x, timesteps, conditioning, run) if out is None else out

    def attempt(self, x: Tensor, timesteps: Tensor, conditioning: Conditioning, run: Pass = PLAIN) -> Tensor | None:
        """The prediction of a recorded pass, None where this pass should run one launch at a time."""
        given = {"x": x, "timesteps": timesteps, **conditioning.tensors()}
        if run.deep is not None:
            given["features"] = run.deep.features
        results = self._replayed(given, run)
        if results is None:
            return None
        for adapter, result in zip(included(run), results[1:], strict=True):
            adapter.result = result if result.numel() else None
        return results[0]

    def release(self) -> None:
        """Lets go of everything recorded, so that later passes are recorded again."""
        self.passes.clear()
        self.weights = None
        self.recorder.release()
        self.network.budget.held = 0

    def _replayed(self, tensors: dict[str, Tensor], run: Pass) -> tuple[Tensor, ...] | None:
        """The results of a recorded pass, None where it should run without."""
        refused = any(adapter.recording is Recording.REFUSED for adapter in run.acting)
        if self.off or refused or torch.is_grad_enabled():
            return None
        key = kind_of(tensors, run)
        if key not in self.passes:
            if len(self.passes) < MOST_KINDS:
                self.passes[key] = None
            return None
        if self.passes[key] is None and not self._has_room(tensors["x"], tensors["text"]):
            self._stop()
            return None
        with self.holding() as weights:
            return self._with_weights(weights, key, tensors, run)

    def _with_weights(
        self, weights: Hashable | None, key: Any, tensors: dict[str, Tensor], run: Pass
    ) -> tuple[Tensor, ...] | None:
        """The results of a recorded pass, None where the weights are not those of the earlier ones."""
        if weights is None or self.weights not in (None, weights):
            self._stop()
            return None
        self.weights, known = weights, self.passes[key]
        with torch.inference_mode(False), torch.no_grad():
            if known is None:
                return self._first(key, tensors, run)
            try:
                return known(tensors, self.CONSTANT)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
        log.warning("Memory ran out beside the CUDA graphs of this run; its passes run one launch at a time.")
        self._stop()
        return None

    def _first(self, key: Any, tensors: dict[str, Tensor], run: Pass) -> tuple[Tensor, ...] | None:
        """Records a pass of a kind, and runs it."""
        recorded = replace(run, adapters=tuple(copy(adapter) for adapter in included(run)))

        def work(inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
            inputs = dict(inputs)
            x, timesteps, features = inputs.pop("x"), inputs.pop("timesteps"), inputs.pop("features", None)
            deep = None if run.deep is None or features is None else replace(run.deep, features=features)
            # by its class, as a host's subclass may have other arguments
            out = VideoUNet.forward(self.network, x, timesteps, Conditioning(**inputs), replace(recorded, deep=deep))
            return (out, *(out.new_empty(0) if one.result is None else one.result for one in recorded.adapters))

        try:
            made = _Pass(self.recorder, work)
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
        free = (self.free or free_bytes)(x.device)
        return budget.is_whole and (free is None or free - budget.held >= SPARE * needed)

    def _stop(self) -> None:
        self.off = True
        self.release()


def kind_of(tensors: dict[str, Tensor], run: Pass) -> Hashable:
    """Equal for passes with the same launches."""
    shapes = tuple((name, one.shape, one.dtype, one.device) for name, one in tensors.items())
    adapters = tuple(adapter.recorded_as for adapter in included(run))
    return shapes, run.evaluation.temporal, run.windows, None if run.deep is None else run.deep.shallow, adapters


def included(run: Pass) -> tuple[Adapter, ...]:
    """The adapters of a pass that are recorded with it."""
    return tuple(adapter for adapter in run.acting if adapter.recording is Recording.INCLUDED)
