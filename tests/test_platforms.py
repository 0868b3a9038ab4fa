"""What differs on Windows and macOS, by its causes: encodings, paths, names, locked files, and what only POSIX has."""

from __future__ import annotations

import ast
import logging
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line.running import one_line, run
from syntax import files, tree

from run import ROOT
from training.__main__ import parser as training_parser
from training.__main__ import work
from vc_core import bundled
from vc_core import files as writing
from vc_core.errors import UserError
from vc_core.files import append_line, check_target, is_device, placed
from vc_core.options import lora

PRODUCT = [*files("vc_core", "nodes", "worlds", "training", "evaluation"), Path("run.py"), Path("__init__.py")]
"""Benchmarks are left out: they measure on Linux."""

POSIX_MODULES = {"crypt", "fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_NAMES = re.compile(
    r"os\.(fork|uname|getuid|geteuid|getgid|getpgid|killpg|setsid|mkfifo|statvfs|getloadavg|sched_\w+|wait\w*|WNOHANG)|"
    r"signal\.(SIGALRM|SIGKILL|SIGHUP|SIGUSR\d|SIGCHLD|alarm|setitimer|pause)|"
    r"\w+\.(get_context|set_start_method)"
)
MEASURES = {"evaluation/long_videos.py": "resource"}
"""The figures of the note on long videos are made on Linux."""


def _guarded(file: Path) -> set[ast.AST]:
    """What is run only where it exists: bodies of `try` with an ImportError."""
    return {
        inner
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Try) and any(ast.unparse(each.type or node) == "ImportError" for each in node.handlers)
        for statement in node.body
        for inner in ast.walk(statement)
    }


def test_what_only_posix_has_is_used_where_it_exists() -> None:
    found = []
    for file in PRODUCT:
        guarded = _guarded(file)
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Import | ast.ImportFrom) and node not in guarded:
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                names -= {MEASURES.get(file.as_posix())}
                found += [f"{file}:{node.lineno}: {name}" for name in names & POSIX_MODULES]
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = f"{node.value.id}.{node.attr}"
                found += [f"{file}:{node.lineno}: {name}"] if POSIX_NAMES.fullmatch(name) else []
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("/proc"):
                found.append(f"{file}:{node.lineno}: {node.value}")
    assert not found


def _is_binary(call: ast.Call) -> bool:
    given = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
    return any(isinstance(each, ast.Constant) and "b" in str(each.value) for each in given[:2])


def test_text_is_read_and_written_in_an_encoding_that_is_named() -> None:
    """The default is that of the system: cp1252 on many Windows machines."""
    found = []
    for file in PRODUCT:
        for node in ast.walk(tree(file)):
            if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = ast.unparse(node.func).removesuffix(f".{name}") if name == "open" else ""
            is_text = name in ("read_text", "write_text") and not any(
                isinstance(each, ast.Constant) for each in node.args
            )
            is_file = name == "open" and owner.rpartition(".")[2] not in (
                "os",
                "Image",
                "av",
                "tarfile",
                "_opener",
                "require_av()",
            )
            if is_text or (is_file and not _is_binary(node)):
                found.append(f"{file}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert not found


def test_processes_are_started_as_on_windows() -> None:
    """Training starts its processes with spawn, which passes on what can be pickled."""
    options = training_parser().parse_args(["--processes", "2"])
    function, passed_on = pickle.loads(pickle.dumps((work, options)))
    assert (function, passed_on.processes) == (work, 2)


_TERMINAL = """
import io, sys

class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True

assert (sys.stdout.encoding, sys.stderr.encoding) == ("cp1252", "cp1252")
sys.stderr = Terminal(sys.stderr.buffer, encoding="cp1252", errors="backslashreplace", line_buffering=True)
from vc_core import cli

def status(*words):
    try:
        return cli.main(words)
    except SystemExit as error:
        return error.code

parser = cli._parser()
commands = next(action.choices for action in parser._actions if isinstance(action.choices, dict))
for command in commands:
    assert status(command, "--help") == 0, command
name = "\\u65e5\\u672c \\U0001f600 \\u2192"
prompt = f"a red square {name}"
video, copy = f"{name}.mp4", f"{name}.safetensors"
small = ("--model", "small", "--device", "cpu")
assert status("text-to-video", prompt, *small, "--steps", "2", "--frames", "2", "--output", video) == 0
assert status("text-to-video", prompt, *small, "--output", video) == 2
assert status("text-to-video", prompt, "--model", f"{name}.ckpt", "--output", "a.mp4") == 2
assert status("text-to-video", prompt, *small, "--sampler", name, "--output", "a.mp4") == 2
assert status("convert", sys.argv[1], "--output", copy) == 0
assert status("inspect", copy, "--json") == 0
assert status("evaluate", video) == 0
open("lines.csv", "w", encoding="utf-8").write(f"prompt,steps,frames\\n{prompt},2,2\\n")
assert status("batch", "lines.csv", "--output", name, "--set", "model=small") == 0
assert status("batch", f"{name}.csv") == 2
assert status(name) == 2
"""


def test_every_command_writes_to_a_terminal_of_windows(tmp_path: Path) -> None:
    """Help, results, progress and errors in cp1252, with names and prompts that it does not have."""
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _TERMINAL, str(bundled.TEXT)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=300, check=False)
    said, errors = done.stdout.decode("cp1252"), done.stderr.decode("cp1252")
    assert done.returncode == 0, errors[-3000:]
    assert "Traceback" not in errors
    assert "\\u65e5\\u672c \\U0001f600 \\u2192.mp4: 2 frames" in said
    bars = [line for line in errors.replace("\r", "\n").splitlines() if "sampling:" in line and "%" in line]
    assert bars
    assert not [line for line in bars if "\\u" in line], "the progress bar uses characters that cp1252 does not have"
    assert (tmp_path / "日本 😀 →.mp4").is_file()


@pytest.mark.parametrize(
    ("text", "path", "strength"),
    [
        ("C:\\models\\a.safetensors", "C:\\models\\a.safetensors", 1.0),
        ("C:\\models\\a.safetensors:0.8", "C:\\models\\a.safetensors", 0.8),
        ("\\\\server\\share\\a.safetensors:-1", "\\\\server\\share\\a.safetensors", -1.0),
        ("D:/a:b.pt", "D:/a:b.pt", 1.0),
    ],
)
def test_the_colon_of_a_drive_is_no_strength(text: str, path: str, strength: float) -> None:
    assert lora(text) == (Path(path), strength)


@pytest.mark.parametrize(
    "name", ["con", "NUL.mp4", "sub/aux/x.mp4", "COM1 .txt", "lpt¹.png", "a:b.mp4", "x.mp4:stream"]
)
def test_names_that_are_no_files_on_windows_are_refused_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_target(tmp_path / name)
    monkeypatch.setattr(writing, "WINDOWS", True)
    with pytest.raises(UserError, match="is not a valid file name on Windows"):
        check_target(tmp_path / name)
    check_target(tmp_path / "console.mp4")
    assert not list(tmp_path.iterdir())


def test_devices_are_known_by_their_names_whatever_the_ending() -> None:
    assert all(map(is_device, ("con", "Nul.tar.gz", "COM9", "lpt³.x")))
    assert not any(map(is_device, ("console", "com", "com10", "a.con", "")))


class Busy:
    """A rename that another program prevents some times, as on Windows while it has the file open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: float, name: str = "replace") -> None:
        self.left, self.real = times, getattr(Path, name)
        monkeypatch.setattr(writing, "BUSY", 0.1)
        monkeypatch.setattr(Path, name, lambda path, *words: self(path, *words))  # noqa: PLW0108 - binds the path

    def __call__(self, path: Path, *words: object) -> object:
        self.left -= 1
        if self.left >= 0:
            raise PermissionError(13, "The process cannot access the file", str(path))
        return self.real(path, *words)


def _written(path: Path, text: str, **options: bool) -> Path:
    with placed(path, **options) as place:
        place.part.write_text(text, encoding="utf-8")
    return place.final


def test_a_file_that_is_open_for_a_moment_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _written(tmp_path / "a.txt", "old")
    Busy(monkeypatch, times=2)
    assert _written(path, "new", overwrite=True) == path
    assert path.read_text(encoding="utf-8") == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_stays_open_is_kept_and_the_new_one_put_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = _written(tmp_path / "a.txt", "old")
    Busy(monkeypatch, times=float("inf"))
    made = _written(path, "new", overwrite=True)
    assert (path.read_text(encoding="utf-8"), made.name) == ("old", "a-2.txt")
    assert made.read_text(encoding="utf-8") == "new"
    assert "is open in another program and was not replaced" in caplog.text
    assert sorted(tmp_path.iterdir()) == [made, path]


def test_where_nothing_is_replaced_a_refused_rename_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Busy(monkeypatch, times=float("inf"))
    with pytest.raises(PermissionError):
        _written(tmp_path / "a.txt", "new", overwrite=True)
    assert not list(tmp_path.iterdir())


def test_a_new_file_that_a_scanner_holds_gets_its_name_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "WINDOWS", True)
    Busy(monkeypatch, times=2, name="rename")
    assert _written(tmp_path / "a.txt", "new").read_text(encoding="utf-8") == "new"


def test_a_line_is_appended_once_the_file_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Busy(monkeypatch, times=2, name="open")
    append_line(tmp_path / "manifest.jsonl", "{}")
    monkeypatch.undo()
    assert (tmp_path / "manifest.jsonl").read_bytes() == b"{}\n"


def test_a_source_under_another_name_is_not_converted_onto_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A hard link, as `Model.safetensors` and `model.safetensors` are one file where case is ignored."""
    source, other = tmp_path / "Model.safetensors", tmp_path / "other.safetensors"
    source.write_bytes(bundled.TEXT.read_bytes())
    os.link(source, other)
    caplog.set_level(logging.ERROR)
    assert run("convert", source, "-o", other, "--overwrite") == 2
    assert "is the file that is read" in one_line(capsys.readouterr().err)
    assert other.read_bytes() == bundled.TEXT.read_bytes()
