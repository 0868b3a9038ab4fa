"""Fixtures of the fuzzed tests, their share of the time, and the report."""

from __future__ import annotations

import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hypothesis.configuration
import pytest
from fuzz.fuzzing import Counted, Fuzz
from fuzz.guards import Folder

COUNTED = pytest.StashKey[dict[str, Counted]]()
TESTS = pytest.StashKey[int]()
PACKAGES = ("torch", "safetensors", "numpy", "pillow", "av", "hypothesis")


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[TESTS] = sum(map(_takes_part, session.items))


def _takes_part(item: pytest.Item) -> bool:
    """Whether a test tries inputs of the product. The guards have a fuzzed test of their own, which does not count."""
    return hasattr(getattr(item, "function", None), "fuzzed") and not _is_of_guards(item)


def _is_of_guards(item: pytest.Item) -> bool:
    return item.path.stem == "test_guards"


@pytest.fixture(scope="session")
def counted(pytestconfig: pytest.Config) -> dict[str, Counted]:
    """What was tried so far, by the names of the tests."""
    return pytestconfig.stash.setdefault(COUNTED, {})


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps the files of hypothesis out of the repository."""
    hypothesis.configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Where an example may write."""
    place = Folder(tmp_path / "example")
    place.refresh()
    return place


@pytest.fixture
def fuzz(request: pytest.FixtureRequest, folder: Folder, counted: dict[str, Counted]) -> Fuzz:
    """Runs the examples of the test."""
    minutes = request.config.getoption("--fuzz-minutes")
    if _is_of_guards(request.node):
        return Fuzz(request.node.name, folder, Counted())
    share = None if minutes is None else 60 * minutes / max(1, request.config.stash[TESTS])
    return Fuzz(request.node.name, folder, counted.setdefault(request.node.name, Counted()), share)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes the report. It has the tests of this process, so pytest-xdist is not for runs with a report."""
    file = session.config.getoption("--fuzz-report")
    tried = session.config.stash.get(COUNTED, {})
    if file and tried:
        Path(file).write_text(json.dumps(_report(tried, session.config), indent=1) + "\n", encoding="utf-8")


def _report(tried: dict[str, Counted], config: pytest.Config) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "minutes": config.getoption("--fuzz-minutes"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "inputs": sum(each.inputs for each in tried.values()),
        "failures": sum(len(each.failures) for each in tried.values()),
        "tests": {name: vars(each) for name, each in sorted(tried.items())},
    }
