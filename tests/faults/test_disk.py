"""Files while disks, clocks and other processes do what they should not."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_models as small
import torch

from vc_core import cli, files
from vc_core.batch.manifest import Entry, Manifest
from vc_core.checkpoint import convert, open_checkpoint
from vc_core.errors import UserError
from vc_core.files import append_line, placed
from vc_core.frames.pixels import save_image
from vc_core.submit.following import _seconds
from vc_core.video import write

ROOT = Path(__file__).resolve().parents[2]
KILLS = 6
ENTRY = Entry(key="a", line=1, status="failed", given={})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.save(small.IMAGE_MODEL, tmp_path_factory.mktemp("model") / "model.safetensors")


def compact(folder: Path) -> None:
    manifest = Manifest(folder)
    manifest.entries = {ENTRY.key: ENTRY}
    manifest.path.touch()
    try:
        manifest.compact([ENTRY.key])
    finally:
        manifest.path.unlink()


WRITERS: dict[str, Callable[[Path, Path], Any]] = {
    "video": lambda folder, model: write(folder / "new" / "a.mp4", torch.zeros(2, 16, 16, 3), fps=8),
    "images": lambda folder, model: write(folder / "new" / "a", torch.zeros(2, 16, 16, 3), fps=8),
    "image": lambda folder, model: save_image(folder / "new" / "a.png", torch.zeros(4, 4, 3)),
    "model": lambda folder, model: convert(model, folder / "new" / "a.safetensors"),
    "split model": lambda folder, model: convert(model, folder / "new", split=True),
    "manifest": lambda folder, model: compact(folder),
}


def refuse(number: int) -> Callable[..., None]:
    """A call of the system that fails."""

    def call(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("call", ["creating", "writing", "naming"])
@pytest.mark.parametrize("name", WRITERS)
def test_what_the_system_refuses_leaves_nothing(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: str
) -> None:
    (tmp_path / "mine").write_text("mine")
    if call == "creating":
        monkeypatch.setattr(Path, "touch", Path.touch if name == "images" else refuse(errno.EROFS))
        monkeypatch.setattr(files.secrets, "token_hex", lambda _: "missing/name" if name == "images" else "name")
    if call == "writing":
        monkeypatch.setattr(files, "_sync", refuse(errno.ENOSPC))
    if call == "naming":
        monkeypatch.setattr(files, "_commit", refuse(errno.EIO))
    if name == "manifest" and call == "creating":
        return
    with pytest.raises((UserError, OSError)) as caught:
        WRITERS[name](tmp_path, model)
    if call == "creating":
        assert "Check the space and the permissions there, or choose another folder." in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_a_split_model_has_all_its_names_or_none(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where some files have their names already; what was there before stays."""
    commit, calls = files._commit, []

    def second_fails(*given: Any, **more: Any) -> None:
        calls.append(0)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        commit(*given, **more)

    monkeypatch.setattr(files, "_commit", second_fails)
    (tmp_path / "mine").write_text("mine")
    for overwrite in (False, True):
        calls.clear()
        with pytest.raises(UserError, match="Nothing was left behind"):
            convert(model, tmp_path / "new", split=True, overwrite=overwrite)
        assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_a_line_that_a_full_disk_cuts_is_no_entry(tmp_path: Path) -> None:
    append_line(tmp_path / "manifest.jsonl", '{"key": "a", "line": 1, "status": "failed", "given": {}}')
    with (tmp_path / "manifest.jsonl").open("a") as file:
        file.write('{"key": "b", "li')
    append_line(tmp_path / "manifest.jsonl", '{"key": "c", "line": 3, "status": "failed", "given": {}}')
    assert list(Manifest(tmp_path).entries) == ["a", "c"]


def test_a_file_that_is_replaced_while_it_is_loaded_is_refused(tmp_path: Path) -> None:
    """Tensors of two files would be mixed where it is mapped again. Without that, the opened file is still there."""
    path = small.save(small.TEXT_MODEL, tmp_path / "model.safetensors")
    opened = open_checkpoint(path)
    small.save(small.TEXT_MODEL, tmp_path / "other.safetensors", seed=6).replace(path)
    assert opened.build("autoencoder") is not None
    with pytest.raises(UserError, match="was changed by another program while it was read"):
        opened.build("autoencoder", dtype=torch.float16)
    path.unlink()
    assert opened.build("autoencoder") is not None
    with pytest.raises(UserError, match="There is no file"):
        opened.build("autoencoder", dtype=torch.float16)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_killed_processes_and_two_with_the_same_name(tmp_path: Path) -> None:
    """Killed while they convert and split; others write one name at once; a mapped file is cut."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "faults.killing", str(tmp_path), str(KILLS)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)
    for name in ("converting", "splitting"):
        assert found[name]["killed"] > 0
        assert found[name]["not_whole"] == found[name]["temporary_files_after_the_next_run"] == 0
    same = {"failed": 0, "every_one_is_there": True, "the_last_is_whole": True, "others": 0}
    assert found["same_name"] == same
    assert found["cut"] == {".safetensors": 0, ".ckpt": 0}


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of the system that jumps by up to ten days, forwards and backwards, whenever it is asked."""
    draw, now = random.Random(1), time.time
    monkeypatch.setattr(time, "time", lambda: now() + draw.uniform(-1, 1) * 864000)


def test_a_clock_that_jumps_removes_nothing_that_is_written(tmp_path: Path, jumping: None) -> None:
    with placed(tmp_path / "slow") as slow:
        slow.part.write_text("ours")
        for index in range(20):
            with placed(tmp_path / f"{index}") as quick:
                quick.part.write_text("another")
    assert (tmp_path / "slow").read_text() == "ours"
    assert len(list(tmp_path.iterdir())) == 21


def test_a_clock_that_jumps_does_not_disturb_a_batch(tmp_path: Path, model: Path, jumping: None) -> None:
    """With progress bars, which show times, and the manifest, which keeps them."""
    small.save(small.TEXT_MODEL, tmp_path / "model.safetensors")
    lines = [{"prompt": "a boat", "seed": seed, "model": str(tmp_path / "model.safetensors")} for seed in range(2)]
    size = {"device": "cpu", "width": 16, "height": 16, "frames": 2, "steps": 2}
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps({**line, **size}) + "\n" for line in lines))
    assert cli.main(["batch", str(tmp_path / "lines.jsonl"), "--output", str(tmp_path / "out")]) == 0
    entries = Manifest(tmp_path / "out").entries.values()
    assert [entry.status for entry in entries] == ["done", "done"]
    assert all(0 <= entry.seconds < 60 for entry in entries)


def test_a_run_is_never_shorter_than_no_time() -> None:
    """Where the clock of the server was set back meanwhile."""
    said = [["execution_start", {"timestamp": 9000}], ["execution_success", {"timestamp": 1000}]]
    assert _seconds({"messages": said}) == 0
