"""Any command line ends with a result or with one line that says what is wrong."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz.command_words import BASES, FILES, lines, parsers
from fuzz.fuzzing import fuzzed
from fuzz.guards import Folder
from PIL import Image
from test_family_cli import PICTURED, TEXT, save

from vc_core import cli

FAILED = re.compile(r"(python -m vc_core[ \w-]*: )?error: \S.*")
ENDED = (0, cli.UNUSABLE)


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, bytes]]:
    """Name and content of each file that a line can name."""
    folder = tmp_path_factory.mktemp("named")
    picture, video = folder / "a picture.png", folder / "video.gif"
    Image.new("RGB", (20, 12), (200, 10, 10)).save(picture)
    frames = [Image.new("RGB", (16, 16), (40 * index, 0, 0)) for index in range(3)]
    frames[0].save(video, save_all=True, append_images=frames[1:])
    found = {"text": save(TEXT, folder), "image": save(PICTURED, folder), "picture": picture, "video": video}
    texts = {
        "broken": ("broken.safetensors", b"\x08\0\0\0\0\0\0\0{}      "),
        "lines": ("lines.jsonl", b'{"prompt": "a", "width": 16, "height": 16, "frames": 2, "steps": 1}\n'),
        "words": ("words.txt", "zoom in\n\u00fc".encode()),
        "tracks": ("tracks.json", b'[{"x": 2, "y": 2}, {"x": 9, "y": 9}]'),
    }
    files = {name: (path.name, path.read_bytes()) for name, path in found.items()} | texts
    assert files.keys() == set(FILES)
    return files


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """At most 6 GiB more for this process, so that what asks for all memory is refused instead of given it."""
    pages = Path("/proc/self/statm")
    if not pages.exists():  # Windows, macOS
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(pages.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (6 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def called(words: list[str]) -> tuple[int, str]:
    """The exit status of a line, and what it wrote to stderr."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            status = cli.main(words)
        except SystemExit as ended:
            status = ended.code  # type: ignore[assignment]
    return status, errors.getvalue()


def named(words: list[str], contents: dict[str, tuple[str, bytes]], folder: Folder) -> list[str]:
    """The words with the paths of the files that they name, which are written."""
    paths: dict[str, str] = {}

    def path(found: re.Match[str]) -> str:
        if found[1] not in paths:
            paths[found[1]] = str(folder.file(*contents[found[1]]))
        return paths[found[1]]

    return [re.sub("\0(\\w+)\0", path, word) for word in words]


def test_each_command_has_a_line_to_start_from() -> None:
    assert BASES.keys() == parsers().keys()


@pytest.mark.usefixtures("bounded_memory")
@fuzzed(lines(), examples=40, seconds=10, memory=1024, network=True)
def test_lines_end_with_a_result_or_one_line(
    case: list[str], folder: Folder, contents: dict[str, tuple[str, bytes]]
) -> None:
    words = named(case, contents, folder)
    given = {path.name: path.read_bytes() for path in folder.inputs.iterdir()}
    status, errors = called(words)
    assert status in ENDED, f"{status}: {errors}"
    assert {path.name: path.read_bytes() for path in folder.inputs.iterdir()} == given
    if status:
        assert FAILED.fullmatch(errors.split("\n")[-2]), errors
        assert errors.endswith("\n")
        assert case[0] == "batch" or not list(folder.outputs.iterdir()), f"{errors}: {list(folder.outputs.iterdir())}"
