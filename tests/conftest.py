"""Fixtures for all tests; what a real ComfyUI offers them is described in `comfyui/__init__.py`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from comfyui.base import Base, make_base
from comfyui.inprocess import Comfy, start
from comfyui.server import Server

# Read when PyTorch is first imported, here and in the servers. A small network gains little from a second thread, and
# threads that wait for each other on a busy machine take many times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """The base directory that ComfyUI works in, in process and as a server."""
    return make_base(tmp_path_factory.mktemp("comfyui", numbered=True))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--dynamic-vram", action="store_true", help="run ComfyUI in this process with its dynamic VRAM, emulated"
    )
    parser.addoption("--fuzz-minutes", type=float, help="run tests/fuzz with random inputs, for so long in all")
    parser.addoption("--fuzz-report", metavar="FILE", help="write what was tried in tests/fuzz to a JSON file")


@pytest.fixture(scope="session")
def dynamic_vram(request: pytest.FixtureRequest) -> bool:
    """Whether ComfyUI runs with its dynamic VRAM in this process."""
    return bool(request.config.getoption("--dynamic-vram"))


@pytest.fixture(scope="session")
def comfy(base: Base, dynamic_vram: bool) -> Comfy:
    """A real ComfyUI with our pack, in this process."""
    return start(base, dynamic_vram=dynamic_vram)


@pytest.fixture(scope="session")
def server(base: Base) -> Iterator[Server]:
    """A real ComfyUI server with our pack, for the whole session."""
    with Server(base) as running:
        yield running


@pytest.fixture
def start_server(base: Base) -> Iterator[Callable[..., Server]]:
    """Starts another server for one test: `start_server("--disable-metadata")`; it ends with the test."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(Server(base, options))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`-m server` and `-m "not server"` choose by what a test asks for. `--dynamic-vram` leaves out tests that are
    marked as weightless."""
    if config.getoption("--dynamic-vram"):
        left_out = [item for item in items if item.get_closest_marker("weightless")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        asked: list[Any] = getattr(item, "fixturenames", [])
        if "server" in asked or "start_server" in asked:
            item.add_marker("server")
