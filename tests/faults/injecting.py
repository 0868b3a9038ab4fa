"""Faults inside of a run: an allocation that fails, and an interruption between two operations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.live import NewTensors
from vc_core.denoising import Step


class StoppedError(Exception):
    """What a callback raises where its user cancels."""


def gpu_is_full() -> Exception:
    """What torch raises on CUDA."""
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def cpu_is_full() -> Exception:
    """What torch raises on a CPU."""
    return RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")


def mps_is_full() -> Exception:
    """What torch raises on a Mac's GPU."""
    return RuntimeError("MPS backend out of memory (MPS allocated: 18.00 GB)")


FULL = (gpu_is_full, cpu_is_full, mps_is_full)


class Allocations(NewTensors):
    """While active, counts the tensors for which an operation needs new memory.

    at: the number of the one, from 0, in whose place `error` is raised. above: bytes from which on every one fails, as
    on a device with little memory.
    """

    def __init__(
        self, *, at: int | None = None, above: float = float("inf"), error: Callable[[], BaseException] = gpu_is_full
    ) -> None:
        super().__init__()
        self.at, self.above, self.error = at, above, error
        self.sizes: list[int] = []
        self.failed = 0

    def made(self, tensor: Tensor) -> None:
        size = tensor.untyped_storage().nbytes()
        self.sizes.append(size)
        if len(self.sizes) - 1 == self.at or size > self.above:
            self.failed += 1
            raise self.error()


class StopAt:
    """`on_step` of a run that is cancelled after its step number `at`, from 0; counts the steps of all other runs."""

    def __init__(self, at: int | None = None, error: type[BaseException] = StoppedError) -> None:
        self.at, self.error = at, error
        self.seen = 0

    def __call__(self, step: Step) -> None:
        self.seen += 1
        if self.seen - 1 == self.at:
            raise self.error
