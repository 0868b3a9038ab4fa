"""run.py sets up once, completes what was cut off, and leaves nothing half-made."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import conftest
import pytest

import run


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment in which Python and pip are there and nothing else."""
    monkeypatch.setattr(run, "STAMP", tmp_path / "setup.json")
    monkeypatch.setattr(run, "make_venv", lambda: None)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    return tmp_path


def _archive(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
        link = tarfile.TarInfo("pack/inside/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    return path


def test_a_step_is_done_once_and_again_when_its_key_changes(ready: Path):
    done: list[str] = []
    steps = [run.Step("a", "1", lambda: done.append("a1")), run.Step("b", "1", lambda: done.append("b1"))]
    run.set_up(steps)
    run.set_up(steps)
    run.set_up([steps[0], run.Step("b", "2", lambda: done.append("b2"))])
    assert done == ["a1", "b1", "b2"]


def test_a_step_that_failed_is_taken_up_again(ready: Path):
    def fail() -> None:
        raise run.SetupError("no network")

    done: list[str] = []
    with pytest.raises(run.SetupError):
        run.set_up([run.Step("a", "1", lambda: done.append("a")), run.Step("b", "1", fail)])
    assert json.loads(run.STAMP.read_text(encoding="utf-8")) == {"a": "1"}
    run.set_up([run.Step("a", "1", lambda: done.append("a")), run.Step("b", "1", lambda: done.append("b"))])
    assert done == ["a", "b"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path):
    target = tmp_path / "tool"
    target.mkdir()
    (target / "old").write_text("old", encoding="utf-8")

    def cut_off() -> None:
        with run.replaced(target) as fresh:
            (fresh / "half").write_text("half", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_off()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["old", "tool"]
    with run.replaced(target) as fresh:
        (fresh / "new").write_text("new", encoding="utf-8")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "tool"]


def test_only_plain_files_below_the_folder_are_unpacked(tmp_path: Path):
    names = ["pack/inside/main.py", "pack/inside/a/b.txt", "pack/other.py", "pack/inside/../../evil.py"]
    run.unpack(_archive(tmp_path / "a.tar.gz", names), "pack/inside/", tmp_path / "out")
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if not path.is_dir()}
    assert found == {"a.tar.gz", "out/main.py", "out/a/b.txt"}


def test_comfyui_requirements_never_replace_torch(tmp_path: Path):
    lines = (
        "torch\ntorchvision\ntorchaudio>=2\n\n# a note\ntorchsde\ncomfyui-workflow-templates==1\nnumpy>=1.25 # why\n"
    )
    (tmp_path / "requirements.txt").write_text(lines, encoding="utf-8")
    key = run.comfyui_requirements_step(tmp_path).key.split()
    assert key == [run.TORCHAUDIO, *run.TORCH, "torchsde", "numpy>=1.25"]


def test_a_path_without_comfyui_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(run.SetupError, match=r"no main\.py"):
        run.own_comfyui()
    (tmp_path / "main.py").touch()
    assert run.own_comfyui() == tmp_path.resolve()


def test_an_unsuitable_python_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run, "PYTHONS", ((4, 0), (4, 2)))
    with pytest.raises(run.SetupError, match=r"Python 4\.0 to 4\.2"):
        run.make_venv()


def test_an_unknown_command_shows_all(capsys: pytest.CaptureFixture[str]):
    assert run.main(["vidio"]) == 2
    said = capsys.readouterr().err
    assert all(f"run.py {command}" in said for command in ("video", "test", "fuzz", "audit"))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules that `test` runs, none of which is really started; `types` and `pytest` fail."""
    started: list[str] = []

    def started_as(words: Sequence[str], *_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
        started.append(" ".join(words[2:]))
        return subprocess.CompletedProcess(words, int(words[2] in ("types", "pytest")), b"what it found\n")

    monkeypatch.setattr(run, "set_up_tests", lambda own: Path("no ComfyUI"))
    monkeypatch.setattr(run, "CHECKS", {"the linter": ("lint",), "the types": ("types",)})
    monkeypatch.setattr(run.subprocess, "run", started_as)
    return started


def test_checks_and_tests_all_run_and_those_that_fail_are_named(
    commands: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.test(["-k", "golden"]) == 1
    assert sorted(commands) == ["lint", "pytest --numprocesses=2 --dist=worksteal -k golden", "types"]
    said = capsys.readouterr().err
    assert "run.py: the linter: what it found" in said
    assert said.endswith("run.py: failed: the types, pytest\n")


def test_checks_that_have_not_begun_are_left_out_when_the_tests_are_stopped(
    commands: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = threading.Event()

    def stop(*_: object) -> int:
        checked.set()
        raise KeyboardInterrupt

    def check(*_: object) -> None:
        assert checked.wait(60)
        commands.append("check")

    monkeypatch.setattr(run, "run", stop)
    monkeypatch.setattr(run, "check", check)
    assert run.main(["test"]) == 130
    assert len(commands) <= 1


def test_fuzzing_takes_minutes_and_passes_other_arguments_on(
    commands: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["fuzz", "--minutes", "30", "-k", "video"]) == 1
    assert commands == ["pytest tests/fuzz --fuzz-minutes 30 -o faulthandler_timeout=2700 -k video"]
    with pytest.raises(SystemExit):
        run.main(["fuzz"])
    assert "--minutes" in capsys.readouterr().err


@pytest.mark.parametrize("dynamic", [False, True])
def test_weightless_tests_are_left_out_with_dynamic_vram(dynamic: bool) -> None:
    dropped: list[object] = []

    def deselected(items: list[object]) -> None:
        dropped.extend(items)

    config = SimpleNamespace(getoption=lambda _: dynamic, hook=SimpleNamespace(pytest_deselected=deselected))
    marked = SimpleNamespace(fixturenames=[], get_closest_marker=lambda name: name == "weightless")
    plain = SimpleNamespace(fixturenames=[], get_closest_marker=lambda name: None)
    items = [marked, plain]
    conftest.pytest_collection_modifyitems(config, items)
    assert items == ([plain] if dynamic else [marked, plain])
    assert dropped == ([marked] if dynamic else [])


KNOWN = {"name": "pillow", "version": "9.0.0", "vulns": [{"id": "CVE-2022-22817", "fix_versions": ["9.0.1"]}]}
CLEAN = {"name": "av", "version": "14.0.0", "vulns": []}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ([CLEAN, UNKNOWN], 0, "1 packages checked, 0 known vulnerabilities; not known to the service: torch"),
        ([CLEAN, KNOWN], 1, "pillow 9.0.0: CVE-2022-22817, fixed in 9.0.1"),
        ([UNKNOWN], run.UNCHECKED, "nothing was checked"),
        (None, run.UNCHECKED, "nothing was checked"),
    ],
    ids=["clean", "known", "all skipped", "offline"],
)
def test_an_audit_reports_vulnerabilities_and_never_takes_silence_for_safety(
    answer: list[object] | None,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def asked(words: Sequence[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        assert words[2] == "pip_audit"
        text = "" if answer is None else json.dumps({"dependencies": answer})
        return subprocess.CompletedProcess(words, 1, text.encode())

    monkeypatch.setattr(run, "set_up", lambda steps: None)
    monkeypatch.setattr(run.subprocess, "run", asked)
    assert run.main(["audit"]) == status
    assert said in capsys.readouterr().err
