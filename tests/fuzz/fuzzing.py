"""Tests with inputs that are made up: `@fuzzed(strategy, examples=N, seconds=S)` on `def test_x(case, folder)`.

Each example is a result, or one UserError of one line; everything else fails (`guards.py`). Inputs that are kept in
`corpus/<test>/` run first. In the normal suite, N examples follow, the same ones each time. With `--fuzz-minutes M`,
random ones follow until the test's share of the time is over; an input that fails is then reduced, and kept.
"""

from __future__ import annotations

import inspect
import random
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hypothesis
from fuzz import corpus
from fuzz.guards import CONSTANT, Folder, guarded
from hypothesis.errors import UnsatisfiedAssumption
from hypothesis.strategies import SearchStrategy

ROUND = 200
"""Random examples between two looks at the clock."""


@dataclass(frozen=True)
class Bounds:
    """What an example may take: seconds of processor time, MiB beyond twice its input, connections, other errors."""

    seconds: float
    memory: int = CONSTANT
    network: bool = False
    allowed: tuple[type[BaseException], ...] = ()


@dataclass
class Counted:
    """What was tried in one test."""

    inputs: int = 0
    kept: int = 0
    """Inputs of the corpus among them."""
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


@dataclass
class Fuzz:
    """Runs the examples of one test."""

    test: str
    folder: Folder
    counted: Counted
    share: float | None = None
    """Seconds for random examples; None runs the fixed ones."""

    def run(
        self, examine: Callable[[Any], object], strategy: SearchStrategy[Any], examples: int, bounds: Bounds
    ) -> None:
        """Raises what the first failing input raises."""
        started = time.monotonic()
        try:
            for case in corpus.cases(self.test):
                self.counted.kept += 1
                self._kept(examine, case, bounds)
            if self.share is None:
                self._some(examine, strategy, examples, zlib.crc32(self.test.encode()), bounds)
            while self.share is not None and time.monotonic() - started < self.share:
                self._some(examine, strategy, ROUND, random.getrandbits(64), bounds, until=started + self.share)
        except BaseException as error:
            self.counted.failures.append(f"{type(error).__name__}: {error}".splitlines()[0][:500])
            raise
        finally:
            self.counted.seconds = round(time.monotonic() - started, 1)

    def _kept(self, examine: Callable[[Any], object], case: Any, bounds: Bounds) -> None:
        try:
            self._one(examine, case, bounds)
        except UnsatisfiedAssumption:  # the strategy does not draw it any more
            return

    def _one(self, examine: Callable[[Any], object], case: Any, bounds: Bounds) -> None:
        self.counted.inputs += 1
        try:
            with guarded(self.folder, seconds=bounds.seconds, memory=bounds.memory, network=bounds.network):
                examine(case)
        except bounds.allowed:
            return

    def _some(
        self,
        examine: Callable[[Any], object],
        strategy: SearchStrategy[Any],
        examples: int,
        seed: int,
        bounds: Bounds,
        until: float | None = None,
    ) -> None:
        failing: list[Any] = []

        def example(case: Any) -> None:
            if not failing and until is not None and time.monotonic() > until:
                return
            try:
                self._one(examine, case, bounds)
            except UnsatisfiedAssumption:
                raise
            except Exception:
                failing[:] = [case]
                raise

        try:
            hypothesis.seed(seed)(_settings(examples)(hypothesis.given(case=strategy)(example)))()
        finally:
            if failing and self.share is not None:
                corpus.keep(self.test, failing[0])


def _settings(examples: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def fuzzed(
    strategy: SearchStrategy[Any],
    *,
    examples: int,
    seconds: float = 5.0,
    memory: int = CONSTANT,
    network: bool = False,
    allowed: tuple[type[BaseException], ...] = (),
) -> Callable[[Callable[..., object]], Callable[..., None]]:
    """Runs a test `test_x(case, ...)` for inputs of a strategy, which draws plain data (see `corpus.keep`). Its other
    arguments are fixtures; `folder` is where it writes its input (`folder.file`) and its output (`folder.outputs`).

    examples: how many run in the normal suite.
    seconds: of processor time for one example.
    memory: MiB for one example beyond twice the size of its input.
    network: whether it may connect to others, as to a server.
    allowed: errors beside UserError that are a proper answer.
    """
    bounds = Bounds(seconds, memory, network, allowed)

    def decorate(test: Callable[..., object]) -> Callable[..., None]:
        def run(fuzz: Fuzz, **fixtures: Any) -> None:
            fuzz.run(lambda case: test(case=case, **fixtures), strategy, examples, bounds)

        asked = [each for name, each in inspect.signature(test).parameters.items() if name != "case"]
        first = inspect.Parameter("fuzz", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        run.__signature__ = inspect.Signature([first, *asked])  # type: ignore[attr-defined]
        run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
        run.fuzzed = True  # type: ignore[attr-defined]
        return run

    return decorate
