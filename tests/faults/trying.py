"""Tries one fault in one run, and says what became of it and of the next run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

import torch
from faults.injecting import Allocations, StopAt
from torch import Tensor, nn

from vc_core.errors import UserError
from vc_core.long.video import OnStep

CLOSE = 1e-4
"""By how much a run that falls back to smaller parts may differ, relative to its norm."""
CURES = ("lower", "fewer", "smaller")
"""Words of what to do, one of which an error must have."""
Made = Callable[["OnStep | None"], Tensor]


@dataclass(frozen=True)
class Outcome:
    """What became of a fault. wrong: what should not have happened; empty where all is well."""

    run: str
    fault: str
    outcome: str
    wrong: str = ""


def state(networks: Iterable[nn.Module]) -> Hashable:
    """What a run may leave on a network: hooks, and attributes of its modules."""
    return tuple(
        (name, len(each._forward_hooks), len(each._forward_pre_hooks), tuple(sorted(vars(each))))
        for network in networks
        for name, each in network.named_modules()
    )


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A run by name, what it gives on fresh models, and what is loaded. host: whether an error of memory may be left to
    the program around it."""

    name: str
    made: Made
    expected: Tensor
    networks: Callable[[], Iterable[nn.Module]]
    host: bool = False

    def cancelled(self, at: int, error: type[BaseException]) -> Outcome:
        """Ends the run after its step `at`."""
        before, stop = state(self.networks()), StopAt(at, error)
        try:
            out = self.made(stop)
        except error:
            return Outcome(self.name, f"cancelled at step {at}", "stopped", self._next(before))
        complete = self.host and stop.seen == at + 1 and torch.equal(out, self.expected)  # nothing was left to stop
        wrong = self._next(before) if complete else "the run did not stop"
        return Outcome(self.name, f"cancelled at step {at}", "went on", wrong)

    def interrupted(self, at: int) -> Outcome:
        """Ends the run in the middle of a pass, at its allocation `at`."""
        before, fault = state(self.networks()), f"interrupted at operation {at}"
        try:
            with Allocations(at=at, error=KeyboardInterrupt):
                self.made(None)
        except KeyboardInterrupt:
            return Outcome(self.name, fault, "stopped", self._next(before))
        return Outcome(self.name, fault, "went on", "the run did not stop")

    def without_memory(self, full: Allocations) -> Outcome:
        """Lets allocations of the run fail."""
        before = state(self.networks())
        fault = f"{full.error.__name__} at {full.at}" if full.at is not None else f"allocations above {full.above:.0f}"
        outcome, wrong = self._without_memory(full)
        return Outcome(self.name, fault, outcome, wrong or self._next(before))

    def _without_memory(self, full: Allocations) -> tuple[str, str]:
        try:
            with full:
                out = self.made(None)
        except UserError as error:
            said = str(error)
            named = any(word in said.lower() for word in CURES) and "memory" in said
            return "says what to lower", "" if named else f"the error does not say what to lower: {said}"
        except (RuntimeError, MemoryError) as error:
            if self.host and isinstance(error, type(full.error())) and str(error) == str(full.error()):
                return "left to the host", ""
            return "another error", f"{type(error).__name__}: {error}"
        if not full.failed:
            return "nothing failed", ""
        return "falls back", "" if is_close(out, self.expected) else "the video is another one"

    def _next(self, before: Hashable) -> str:
        """What is wrong with the state of the networks and the next run."""
        if state(self.networks()) != before:
            return "something was left on the network"
        return "" if torch.equal(self.made(None), self.expected) else "the next run gives another video"


def is_close(out: Tensor, expected: Tensor) -> bool:
    """Whether two results differ by no more than another order of operations makes."""
    return out.shape == expected.shape and float((out - expected).norm()) <= CLOSE * float(expected.norm())
