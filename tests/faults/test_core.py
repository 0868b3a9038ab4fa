"""Cancel and too little memory anywhere in a run of vc_core: a sample of what `python -m benchmarks.faults` tries."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from faults.injecting import FULL, Allocations, StopAt
from faults.runs import CoreRuns
from faults.trying import Trial
from torch import Tensor

from vc_core.errors import UserError
from vc_core.network import parts

CANCELLED = ("model text", "method continue", "with FreeInit", "with key frames", "control scalecrafter")
FULL_IN = ("method windows", "control freetraj", "whole videos of ToonCrafter")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> CoreRuns:
    return CoreRuns(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def trial(runs: CoreRuns) -> Callable[[str], Trial]:
    """A run, with what it gives on models that were loaded for it."""

    def made(name: str) -> Trial:
        runs.fresh()
        expected: Tensor = runs.made[name](None)
        runs.fresh()
        runs.made[name](None)
        return Trial(name=name, made=runs.made[name], expected=expected, networks=runs.networks)

    return made


@pytest.mark.parametrize("name", CANCELLED)
def test_after_a_cancelled_run_the_next_is_that_of_a_fresh_model(
    runs: CoreRuns, trial: Callable[[str], Trial], name: str
) -> None:
    tried, steps = trial(name), StopAt()
    runs.made[name](steps)
    at = random.Random(name).randrange(steps.seen)
    assert not tried.cancelled(at, KeyboardInterrupt).wrong


@pytest.mark.parametrize("name", FULL_IN)
def test_a_run_without_memory_falls_back_or_says_what_to_lower(
    runs: CoreRuns, trial: Callable[[str], Trial], name: str
) -> None:
    tried, count, draw = trial(name), Allocations(), random.Random(name)
    with count:
        runs.made[name](None)
    for error in FULL[:2]:
        assert not tried.without_memory(Allocations(at=draw.randrange(len(count.sizes)), error=error)).wrong
    assert not tried.interrupted(draw.randrange(len(count.sizes))).wrong


def test_a_device_with_little_memory_works_on_smaller_parts(
    runs: CoreRuns, trial: Callable[[str], Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down to the smallest that a map of such a small network can be cut to."""
    monkeypatch.setattr(parts, "LEAST", 64)
    tried, count = trial("whole videos of a text"), Allocations()
    with count:
        runs.made[tried.name](None)
    sizes = sorted(set(count.sizes))
    found = [tried.without_memory(Allocations(above=sizes[-2])), tried.without_memory(Allocations(above=sizes[0]))]
    assert [each.wrong for each in found] == ["", ""]
    assert [each.outcome for each in found] == ["falls back", "says what to lower"]


def test_what_remains_without_memory_says_what_to_lower(runs: CoreRuns) -> None:
    """Outside of the network and the autoencoder nothing can be cut into parts."""
    crafter = runs.bench.crafter("text")
    for error in FULL:
        with Allocations(at=0, error=error), pytest.raises(UserError, match=r"not enough memory .* Make fewer frames"):
            crafter.generate("a boat")
