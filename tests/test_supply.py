"""What the pack brings along, installs and runs: files with known hashes, no code from files, no network, pinned CI."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from syntax import code, files, tree

from run import PYTHONS, ROOT
from training import sums

LOADERS = {
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "shelve",
    "torch.export.load",
    "torch.hub",
    "torch.jit.load",
    "torch.package",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
}
"""What executes code in the files that it reads, or may."""

NETWORK = {
    "aiohttp",
    "ftplib",
    "http",
    "httpx",
    "huggingface_hub",
    "poplib",
    "requests",
    "smtplib",
    "socket",
    "socketserver",
    "ssl",
    "urllib.request",
    "urllib3",
    "websocket",
    "websockets",
    "xmlrpc",
}
PROCESSES = {"ctypes", "multiprocessing", "pty", "subprocess", "torch.multiprocessing"}
STARTING = re.compile(r"os\.(system|popen|fork\w*|exec\w*|spawn\w*|posix_spawn\w*|startfile)")


def _imported(file: Path) -> Iterator[tuple[int, str]]:
    """The lines and full names of what a file imports."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, str(node.module)
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@cache
def _calls(file: Path) -> list[tuple[str, dict[str, ast.expr], int]]:
    """The names of the functions that a file calls, with the named arguments and the line."""
    calls = [node for node in ast.walk(tree(file)) if isinstance(node, ast.Call)]
    return [
        (_dotted(call.func), {word.arg: word.value for word in call.keywords if word.arg}, call.lineno)
        for call in calls
    ]


def _dotted(node: ast.expr) -> str:
    """The name of a function with its modules; of one that a value has, the last part after a dot."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _within(name: str, modules: set[str]) -> bool:
    """Whether a name is one of these, or inside of one."""
    parts = name.split(".")
    return any(".".join(parts[:length]) in modules for length in range(1, len(parts) + 1))


def test_files_are_read_without_running_what_is_in_them() -> None:
    found = []
    for file in code():
        used = [*_imported(file), *((line, name) for name, _, line in _calls(file))]
        found += [f"{file}:{line}: {name}" for line, name in used if _within(name, LOADERS)]
        for name, given, line in _calls(file):
            if name == "torch.load" and not _is(given.get("weights_only"), True):
                found.append(f"{file}:{line}: torch.load without weights_only=True")
            if "allow_pickle" in given and not _is(given["allow_pickle"], False):
                found.append(f"{file}:{line}: allow_pickle")
            if "trust_remote_code" in given or name.endswith("add_safe_globals"):
                found.append(f"{file}:{line}: {name} accepts more than tensors")
    assert not found


def test_only_submit_uses_the_network_and_nothing_starts_processes() -> None:
    found = []
    for file in files("vc_core", "nodes"):
        refused = PROCESSES if file.parts[:2] == ("vc_core", "submit") else PROCESSES | NETWORK
        found += [f"{file}:{line}: {name}" for line, name in _imported(file) if _within(name, refused)]
        found += [f"{file}:{line}: {name}" for name, _, line in _calls(file) if STARTING.fullmatch(name)]
    assert not found


def test_no_program_is_started_through_a_shell() -> None:
    found = []
    for file in code():
        found += [f"{file}:{line}: {name}" for name, given, line in _calls(file) if "shell" in given]
        found += [f"{file}:{line}: {name}" for name, _, line in _calls(file) if name in ("os.system", "os.popen")]
    assert not found


def test_bundled_files_and_weights_of_the_tests_have_the_recorded_hashes() -> None:
    """`python -m training.sums` writes the table."""
    recorded, there = sums.read(), sums.measured()
    assert len([name for name in there if name.startswith("models/")]) >= 6
    assert set(recorded) == set(there), "write the table with python -m training.sums"
    assert [name for name in there if recorded[name] != there[name]] == []


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "tests" / "fuzz").mkdir(parents=True)
    (tmp_path / "models" / "a.safetensors").write_bytes(b"weights")
    (tmp_path / "tests" / "fuzz" / "b.pth").write_bytes(b"damaged on purpose")
    assert list(sums.write(tmp_path)) == ["models/a.safetensors"]
    assert sums.read(tmp_path) == sums.measured(tmp_path)
    (tmp_path / "models" / "a.safetensors").write_bytes(b"Weights")
    assert sums.read(tmp_path) != sums.measured(tmp_path)


WORKFLOWS = {file.name: file for file in (ROOT / ".github" / "workflows").glob("*.yml")}
PINNED = re.compile(r"^ *-? *uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+$")


def _workflow(name: str) -> Any:
    return yaml.safe_load(WORKFLOWS[name].read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_read_only_end_in_time_and_run_pinned_actions(name: str) -> None:
    read = _workflow(name)
    assert read["permissions"] == {"contents": "read"}
    for job, about in read["jobs"].items():
        assert 0 < about["timeout-minutes"] <= 120, job
        assert "permissions" not in about, job
        for step in about["steps"]:
            assert ("uses" in step) != ("run" in step), step
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False
            # A value of an event or a branch would be run as a part of the command.
            assert "${{ github.event" not in str(step.get("run", "")), step
    uses = [line for line in WORKFLOWS[name].read_text(encoding="utf-8").splitlines() if "uses:" in line]
    assert uses
    assert [line for line in uses if not PINNED.match(line)] == []


def test_the_same_command_runs_on_every_system_and_every_python() -> None:
    job = _workflow("test.yml")["jobs"]["test"]
    matrix, (first, last) = job["strategy"]["matrix"], PYTHONS
    assert [system.split("-")[0] for system in matrix["os"]] == ["ubuntu", "windows", "macos"]
    assert matrix["python"] == [f"3.{minor}" for minor in range(first[1], last[1] + 1)]
    assert first[0] == last[0] == 3
    assert job["strategy"]["fail-fast"] is False
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands[-1] == "python run.py test"
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").count('run.py test "$@"') == 1


def test_jobs_run_commands_and_read_files_that_exist() -> None:
    for name in WORKFLOWS:
        for job in _workflow(name)["jobs"].values():
            for step in job["steps"]:
                for path in re.findall(r"(?<=ComfyUI-VideoCrafter/)\S+", str(step.get("with", ""))):
                    assert (ROOT / path.replace("\\n", " ").split()[0]).is_file(), path
                words = str(step.get("run", "")).split()
                if words[:2] == ["python", "run.py"]:
                    assert words[2] in ("test", "audit")
                    assert all((ROOT / word).exists() for word in words[3:]), words


def test_every_rule_of_security_is_on() -> None:
    """Of ruff's rules, those named S; what is excepted says why, in a comment of its own."""
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    assert any(re.match(r' *"S", +# ', line) for line in lines)
    for number, line in enumerate(lines):
        if re.search(r'"S\d{3}"', line):
            reason = " ".join([*lines[max(0, number - 2) : number], line])
            assert "#" in reason, line
    for file in code():
        for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
            assert not re.search(r"noqa: S\d{3}(?! - )", line), f"{file}: {line.strip()} gives no reason"
