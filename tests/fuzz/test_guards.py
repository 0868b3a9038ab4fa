"""Each guard of the fuzzed tests reports what it is for, and nothing else."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz import corpus
from fuzz.fuzzing import Bounds, Counted, Fuzz, fuzzed
from fuzz.guards import Breach, Folder, guarded
from hypothesis import assume
from hypothesis import strategies as st

from run import ROOT
from vc_core.errors import UserError

posix = pytest.mark.skipif(os.name == "nt", reason="needs timers of POSIX")
measured = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc/self/clear_refs")


def caught(folder: Folder, act: Callable[[], object], **bounds: Any) -> str:
    """What the guards say about an example."""
    with pytest.raises(Breach) as found, guarded(folder, **{"seconds": 5.0, **bounds}):
        act()
    return str(found.value)


def swallowing(act: Callable[[], object]) -> Callable[[], None]:
    """Code that hides its errors."""

    def run() -> None:
        try:
            act()
        except Exception:  # noqa: BLE001
            return

    return run


@posix
def test_a_hang_is_reported(folder: Folder) -> None:
    def spin() -> None:
        while True:
            pass

    assert "hang" in caught(folder, swallowing(spin), seconds=0.1)


@posix
def test_waiting_is_reported(folder: Folder) -> None:
    assert "hang" in caught(folder, lambda: time.sleep(60), seconds=0.02)


@measured
def test_memory_beyond_twice_the_input_is_reported(folder: Folder) -> None:
    def use(bytes_: int) -> None:
        folder.file("input", bytes(bytes_))
        assert len(b"x" * (3 * bytes_)) == 3 * bytes_

    assert "MiB are allowed" in caught(folder, lambda: use(32 << 20), memory=8)
    with guarded(folder, seconds=5, memory=64):
        use(32 << 20)


@pytest.mark.parametrize(
    "act",
    [
        lambda place: (place / "stray").write_text("x", encoding="utf-8"),
        lambda place: os.open(place / "stray", os.O_CREAT | os.O_RDWR),
        lambda place: (place / "stray").mkdir(),
        lambda place: (place / "mine").rename(place / "yours"),
        lambda place: (place / "mine").unlink(),
    ],
    ids=["write", "create", "mkdir", "rename", "unlink"],
)
def test_files_elsewhere_are_reported_and_prevented(
    folder: Folder, tmp_path: Path, act: Callable[[Path], object]
) -> None:
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    assert "outside of the folder" in caught(folder, swallowing(lambda: act(tmp_path)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["example", "mine"]


@pytest.mark.parametrize(
    "act",
    [
        lambda: os.system("true"),
        lambda: subprocess.run([sys.executable, "-V"], check=False),
        lambda: pickle.loads(b"cos\nsystem\n(S'true'\ntR."),
    ],
    ids=["system", "subprocess", "pickle"],
)
def test_execution_is_reported_and_prevented(folder: Folder, act: Callable[[], object]) -> None:
    assert "must not" in caught(folder, swallowing(act))


def test_half_files_and_files_of_a_refusal_are_reported(folder: Folder) -> None:
    assert "left over" in caught(folder, lambda: (folder.outputs / "x.part").write_bytes(b""))

    def refuse() -> None:
        (folder.outputs / "x.mp4").write_bytes(b"")
        raise UserError("No.")

    assert "after a refusal" in caught(folder, refuse)


def test_messages_of_several_lines_are_reported(folder: Folder) -> None:
    def refuse() -> None:
        raise UserError("one\ntwo")

    assert "one line" in caught(folder, refuse)


def test_what_is_allowed_passes(folder: Folder) -> None:
    with guarded(folder, seconds=5):
        Path("video.mp4").write_bytes(folder.file("a", b"1").read_bytes())
    with guarded(folder, seconds=5):
        raise UserError("This is what was given; that is the cure.")
    assert list(folder.outputs.iterdir()) == []


def test_other_errors_fail_unless_they_are_named(folder: Folder) -> None:
    def examine(_: object) -> None:
        raise KeyError("x")

    fuzz = Fuzz("x", folder, Counted())
    with pytest.raises(KeyError):
        fuzz.run(examine, st.none(), 1, Bounds(5))
    assert fuzz.counted.failures == ["KeyError: 'x'"]
    Fuzz("x", folder, Counted()).run(examine, st.none(), 1, Bounds(5, allowed=(KeyError,)))


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty corpus."""
    monkeypatch.setattr(corpus, "FOLDER", tmp_path / "corpus")
    return tmp_path / "corpus"


def test_a_failing_input_is_reduced_kept_and_run_first(folder: Folder, kept: Path) -> None:
    def examine(case: int) -> None:
        assert case < 77

    fuzz = Fuzz("test_x[a/b]", folder, Counted(), share=60)
    with pytest.raises(AssertionError):
        fuzz.run(examine, st.integers(0, 10**6), 1, Bounds(5))
    assert [json.loads(file.read_bytes()) for file in (kept / "test_x_a_b").iterdir()] == [77]
    again = Fuzz("test_x[a/b]", folder, Counted())
    with pytest.raises(AssertionError):
        again.run(examine, st.integers(0, 10**6), 1, Bounds(5))
    assert (again.counted.inputs, again.counted.kept) == (1, 1)


def test_fixed_examples_are_the_same_each_time_and_random_ones_end(folder: Folder, kept: Path) -> None:
    seen: list[list[int]] = [[], []]
    for cases in seen:
        Fuzz("test_x", folder, Counted()).run(cases.append, st.integers(), 20, Bounds(5))
    assert seen[0] == seen[1]
    assert len(seen[0]) == 20
    fuzz = Fuzz("test_x", folder, Counted(), share=0.2)
    fuzz.run(lambda _: None, st.integers(), 20, Bounds(5))
    assert fuzz.counted.inputs > 20
    assert not kept.exists()


@pytest.mark.parametrize("case", [b"\0\xff", "\ud800", None, [1.5, ("a", b"b")], {"a": {1: (2,)}, "bytes": [True]}])
def test_the_corpus_keeps_plain_data(kept: Path, case: Any) -> None:
    corpus.keep("test", case)
    assert list(corpus.cases("test")) == [case]
    with pytest.raises(TypeError, match="plain data"):
        corpus.keep("test", Path("x"))


@fuzzed(st.integers(0, 9), examples=10)
def test_fixtures_and_assumptions_work(case: int, folder: Folder, tmp_path: Path) -> None:
    assume(case % 2)
    assert folder.root.parent == tmp_path


def test_nothing_of_hypothesis_is_left_in_the_repository() -> None:
    assert not (ROOT / ".hypothesis").exists()
