"""Files are there complete or not at all, and never replace another."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from video.clips import noise, ramps
from video.reading import look

from vc_core import files
from vc_core.errors import UserError
from vc_core.files import ABANDONED, STALE, check_target, placed
from vc_core.video import Options, available_formats, find_format, write

ROOT = Path(__file__).resolve().parents[1]
KINDS = [
    name
    for name in ("mp4 h264", "mov prores 422", "mkv ffv1", "webm vp9", "webp", "webp lossless", "gif", "apng", "png")
    if name in available_formats()
]
LONG = [name for name in KINDS if name in ("mp4 h264", "gif", "webp")]
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits and signals")


class StoppedError(Exception):
    """What a host raises when its user cancels."""


def path_for(folder: Path, name: str, stem: str = "clip") -> Path:
    return folder / f"{stem}{find_format(name).suffix}"


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("way", ["on_frame", "generator", "size"])
def test_a_cancelled_or_failed_clip_leaves_nothing(tmp_path, name, way):
    old = path_for(tmp_path, name, "old")
    write(old, ramps(2), fps=8, options=Options(format=name))
    before = sorted(tmp_path.rglob("*"))

    def on_frame(done: int, count: int | None) -> None:
        if way == "on_frame" and done == 3:
            raise StoppedError

    def frames():
        yield from ramps(3)
        if way == "generator":
            raise StoppedError
        if way == "size":
            yield ramps(1, 64, 64)[0]
        yield from ramps(3)

    with pytest.raises(UserError if way == "size" else StoppedError):
        write(path_for(tmp_path, name), frames(), fps=8, options=Options(format=name), on_frame=on_frame)
    assert sorted(tmp_path.rglob("*")) == before
    assert look(old).count == 2


@pytest.mark.parametrize("name", KINDS)
def test_an_encoder_that_fails_leaves_nothing(tmp_path, name, monkeypatch):
    from vc_core.video import writing

    for writer in ("StreamWriter", "GifWriter", "WebpWriter", "ApngWriter", "PngWriter"):
        monkeypatch.setattr(
            getattr(writing, writer), "finish", lambda self: (_ for _ in ()).throw(RuntimeError("boom"))
        )
    with pytest.raises(RuntimeError, match="boom"):
        write(path_for(tmp_path, name), ramps(3), fps=8, options=Options(format=name))
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_refuses_says_so_and_leaves_nothing(tmp_path, monkeypatch):
    from vc_core.video import writing

    refusing = replace(find_format("mp4 h264"), options={"preset": "none such"})
    monkeypatch.setattr(writing, "find_format", lambda name: refusing)
    with pytest.raises(UserError, match="The encoder of mp4 h264 rejected a video of 94x66"):
        write(tmp_path / "clip.mp4", ramps(3), fps=8, options=Options(format="mp4 h264"))
    assert list(tmp_path.iterdir()) == []


FULL = """
import os, resource, sys
from pathlib import Path
from video.clips import noise
from vc_core.errors import UserError
from vc_core.video import Options, find_format, write
folder = Path(sys.argv[1])
for name in sys.argv[2:]:
    path = folder / f"clip{find_format(name).suffix}"
    clip = noise(6, 66, 94)
    write(path, clip, fps=8, options=Options(format=name))
    whole = path.stat().st_size
    path.rename(folder / f"whole{path.suffix}")
    for room in (0, 100, whole // 3, whole // 2, whole - 5000, whole - 100, whole - 1, whole):
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            try:
                write(path, clip, fps=8, options=Options(format=name))
            except UserError as error:
                os._exit(7 if "not enough space" in str(error) else 8)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        left = sorted(file.name for file in folder.iterdir())
        expected = [f"whole{path.suffix}"] if room < whole else [path.name, f"whole{path.suffix}"]
        assert (status, left) == (7 if room < whole else 0, expected), (name, room, whole, status, left)
    for file in folder.iterdir():
        file.unlink()
sys.stdout.write("every limit held")
"""


@posix
def test_a_full_disk_leaves_nothing_and_says_so(tmp_path):
    """A limit on file sizes replaces a full disk: the same failure of the same call, at any byte of the file."""
    done = python(FULL, tmp_path, *(name for name in KINDS if name != "png"))
    assert done.communicate()[0].endswith("every limit held")


KILLED = """
import os, random, sys, time
from pathlib import Path
from video.clips import noise
from vc_core.video import Options, find_format, write
folder, draw = Path(sys.argv[1]), random.Random(4)
clip = noise(12, 66, 94)
def one(name, stem):
    write(folder / f"{stem}{find_format(name).suffix}", clip, fps=8, options=Options(format=name))
for name in sys.argv[2:]:
    one(name, f"first {name}")
    start = time.perf_counter()
    one(name, f"old {name}")
    took = time.perf_counter() - start
    for i in range(20):
        child = os.fork()
        if child == 0:
            one(name, f"{i} {name}")
            os._exit(0)
        time.sleep(draw.uniform(0, 1.3) * took)
        os.kill(child, 9)
        os.waitpid(child, 0)
sys.stdout.write("all killed")
"""


@posix
def test_a_killed_process_leaves_no_file_that_is_not_whole(tmp_path):
    """At 20 random points of the work for each way of writing."""
    names = [name for name in ("mp4 h264", "gif", "webp", "apng", "png") if name in available_formats()]
    assert python(KILLED, tmp_path, *names).communicate()[0] == "all killed"
    finished = [path for path in tmp_path.iterdir() if not path.name.endswith(".part")]
    assert {path.name.split()[0] for path in finished} >= {"first", "old"}
    assert len(finished) < 22 * len(names)
    for path in finished:
        assert look(path).count == 12
    left = [path for path in tmp_path.iterdir() if path.name.endswith(".part")]
    assert left, "it was killed in the middle at least once"
    for path in [*left, *(file for folder in left if folder.is_dir() for file in folder.iterdir())]:
        os.utime(path, (time.time() - ABANDONED - 60,) * 2)
    write(tmp_path / "next.mp4", ramps(2), fps=8)
    assert sorted(tmp_path.iterdir()) == sorted([*finished, tmp_path / "next.mp4"])


def python(code: str, *words: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], env=environment, stdout=subprocess.PIPE, text=True, stderr=None
    )


def test_an_existing_file_is_never_replaced(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        write(path, ramps(2), fps=8)
    assert path.read_text() == "mine"
    write(path, ramps(2), fps=8, overwrite=True)
    assert look(path).count == 2


def test_a_folder_of_pictures_replaces_nothing(tmp_path):
    made = write(tmp_path / "clip", ramps(2), fps=8, overwrite=True).path
    assert look(made).count == 2
    with pytest.raises(UserError, match="a folder of images never replaces anything"):
        write(made, ramps(3), fps=8, overwrite=True)
    assert look(made).count == 2


def test_folders_on_the_way_go_again_when_nothing_is_written(tmp_path):
    (tmp_path / "kept").mkdir()

    def frames():
        yield ramps(1)[0]
        raise StoppedError

    with pytest.raises(StoppedError):
        write(tmp_path / "kept" / "new" / "folder" / "clip.mp4", frames(), fps=8)
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


@pytest.mark.parametrize("name", ["mp4 h264", "png"])
def test_a_name_that_is_taken_meanwhile_is_left_to_its_owner(tmp_path, name):
    path = path_for(tmp_path, name)

    def take(done: int, count: int | None) -> None:
        if not path.exists():
            path.mkdir() if name == "png" else path.write_text("mine")

    written = write(path, ramps(2), fps=8, options=Options(format=name), on_frame=take)
    assert written.path == path.with_name(f"clip-2{path.suffix}")
    assert look(written.path).count == 2
    assert (list(path.iterdir()) == []) if name == "png" else path.read_text() == "mine"


def test_without_hard_links_it_works_as_well(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "clip.mp4"
    assert write(path, ramps(2), fps=8).path == path
    with placed(tmp_path / "text") as place:
        place.part.write_text("ours")
        (tmp_path / "text").write_text("theirs")
    assert (tmp_path / "text").read_text() == "theirs"
    assert (tmp_path / "text-2").read_text() == "ours"


def leave(folder: Path, name: str, age: float) -> Path:
    """A file as a dead process would leave it, last changed `age` seconds ago."""
    file = folder / name
    file.write_text("half")
    os.utime(file, (time.time() - age,) * 2)
    return file


@posix
def test_leftovers_of_dead_processes_go_with_the_next_file(tmp_path):
    old = leave(tmp_path, ".videocrafter-1.part", ABANDONED + 60)
    young, other = leave(tmp_path, ".videocrafter-2.part", ABANDONED - 60), leave(tmp_path, "mine.part", STALE * 9)
    write(tmp_path / "clip.mp4", ramps(2), fps=8)
    assert sorted(tmp_path.iterdir()) == sorted([young, other, tmp_path / "clip.mp4"])
    assert not old.exists()


@posix
@pytest.mark.parametrize("folder", [False, True])
def test_a_part_that_somebody_writes_is_left_alone_however_old(tmp_path, folder):
    with placed(tmp_path / "slow", folder=folder) as slow:
        os.utime(slow.part, (0, 0))
        write(tmp_path / "clip.mp4", ramps(2), fps=8)
        if not folder:
            slow.part.write_text("whole")
    assert slow.final.exists()


def test_where_nobody_can_tell_leftovers_stay_for_a_day(tmp_path, monkeypatch):
    """Windows, and file systems without locks."""
    monkeypatch.setattr(files, "fcntl", None)
    old = leave(tmp_path, ".videocrafter-1.part", STALE + 60)
    young = leave(tmp_path, ".videocrafter-2.part", STALE - 60)
    write(tmp_path / "clip.mp4", ramps(2), fps=8)
    assert not old.exists()
    assert young.exists()


def test_targets_that_cannot_be_are_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file" / "clip.mp4", tmp_path / ("n" * 300 + ".mp4"), f"{tmp_path}/a\0b.mp4"):
        with pytest.raises(UserError):
            check_target(path)
    before = sorted(tmp_path.iterdir())
    assert check_target(tmp_path / "new" / "clip.mp4") == tmp_path / "new" / "clip.mp4"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_is_not_ours_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="is not writable"):
        check_target(tmp_path / "clip.mp4")


MEMORY = """
import os, resource, sys
from pathlib import Path
import numpy as np
from vc_core.video import Options, find_format, write
folder = Path(sys.argv[1])
ring = [np.full((90, 120, 3), 31 * i, np.uint8) for i in range(8)]
for name, given, count in [(*word.split(":"), count) for word in sys.argv[2:] for count in (64, 1024)]:
    child = os.fork()
    if child == 0:
        frames = {"once": iter, "twice": list}[given](ring[i % 8] for i in range(count))
        path = folder / f"{given}{count}{find_format(name).suffix}"
        write(path, frames, fps=8, options=Options(format=name))
        sys.stdout.write(f"{name} {given}:{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\\n")
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_memory_does_not_grow_with_the_clip(tmp_path):
    """The frames would be 33 MB; what an encoder keeps for looking ahead is reached within 64. A GIF goes through them
    twice where it can."""
    runs = [f"{name}:once" for name in LONG] + ["gif:twice"]
    out = python(MEMORY, tmp_path, *runs).communicate()[0]
    peaks: dict[str, list[int]] = {}
    for line in out.splitlines():
        name, peak = line.split(":")
        peaks.setdefault(name, []).append(int(peak))
    assert len(peaks) == len(runs)
    for name, (short, long) in peaks.items():
        assert long - short < 15_000, f"{name}: {short} kB for 64 frames, {long} kB for 1024"


def test_noise_is_not_mistaken_for_a_still(tmp_path):
    """Only what differs is stored in WebP: nothing may be left out."""
    clip = noise(3, 37, 53)
    clip[1, 5:9, 7:8] = clip[0, 5:9, 7:8]
    clip[2] = clip[1]
    assert look(write(tmp_path / "clip.webp", clip, fps=8, options=Options(format="webp lossless")).path).count == 3
