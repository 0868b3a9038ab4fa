"""Processes that are killed, and that write the same name at once; it needs POSIX.

`python -m faults.killing FOLDER KILLS` says what they left.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import small_models as small
import torch

from vc_core.checkpoint import convert, open_checkpoint
from vc_core.errors import UserError
from vc_core.files import PREFIX, SUFFIX, placed, remove_abandoned

WRITERS = 4


def forked(work: Callable[[], None]) -> int:
    """Runs something in a process of its own, and returns its number."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return child


def status_of(child: int) -> int:
    """How a process ended: its exit status, or the signal that ended it, negative."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(model: Path, folder: Path, kills: int, *, split: bool) -> dict[str, Any]:
    """What conversions leave that are killed at random moments."""

    def work(name: str) -> None:
        convert(model, folder / f"{name}.safetensors", dtype="fp16", split=split)

    draw, begin = random.Random(4), time.perf_counter()
    work("whole")
    took = time.perf_counter() - begin
    whole = {path.name.removeprefix("whole"): path.stat().st_size for path in folder.iterdir()}
    ended = []
    for index in range(kills):
        child = forked(lambda name=f"{index:03d}": work(name))  # type: ignore[misc]
        time.sleep(draw.uniform(0, 1.2) * took)
        os.kill(child, signal.SIGKILL)
        ended.append(status_of(child))
    parts = [path for path in folder.iterdir() if path.name.startswith(PREFIX) and path.name.endswith(SUFFIX)]
    named = [path for path in folder.iterdir() if path not in parts and not path.name.startswith("whole")]
    sizes = [path.stat().st_size == whole.get(path.name[len("000") :]) for path in named]
    readable = [bool(open_checkpoint(path).parts) for path in named]
    remove_abandoned(folder)
    return {
        "killed": ended.count(-signal.SIGKILL),
        "files": len(named),
        "not_whole": len(named) - sum(whole and read for whole, read in zip(sizes, readable, strict=True)),
        "temporary_files": len(parts),
        "temporary_files_after_the_next_run": sum(path.exists() for path in parts),
    }


def at_once(folder: Path) -> dict[str, Any]:
    """What processes leave that write the same names at the same time, without and with `overwrite`."""
    together = multiprocessing.get_context("fork").Barrier(WRITERS)

    def work(index: int) -> None:
        for overwrite in (False, True):
            with placed(folder / f"{overwrite}.txt", overwrite=overwrite) as place:
                place.part.write_text(str(index) * 10000)
                together.wait(60)

    children = [forked(lambda index=index: work(index)) for index in range(WRITERS)]  # type: ignore[misc]
    ended = [status_of(child) for child in children]
    texts = sorted(path.read_text() for path in folder.glob("False*.txt"))
    last = [path.read_text() for path in folder.glob("True*.txt")]
    written = [str(index) * 10000 for index in range(WRITERS)]
    return {
        "failed": sum(map(bool, ended)),
        "every_one_is_there": texts == written,
        "the_last_is_whole": len(last) == 1 and last[0] in written,
        "others": len(list(folder.iterdir())) - WRITERS - 1,
    }


def cut(model: Path, archive: Path) -> dict[str, Any]:
    """How processes end that load a file which was cut after it was opened: with the message (0), or with a signal."""

    def work(path: Path) -> None:
        opened = open_checkpoint(path)
        os.truncate(path, path.stat().st_size // 2)
        try:
            opened.build("unet")
        except UserError as error:
            os._exit(0 if "was changed by another program" in str(error) else 3)
        os._exit(4)

    return {path.suffix: status_of(forked(lambda path=path: work(path))) for path in (model, archive)}  # type: ignore[misc]


def main(folder: Path, kills: int) -> None:
    """Does all of it and writes what came of it as JSON."""
    torch.set_num_threads(1)  # threads do not live on in a forked process
    model = small.save(small.IMAGE_MODEL, folder / "model.safetensors")
    archive = folder / "model.ckpt"
    torch.save(small.state_dict(small.IMAGE_MODEL), archive)
    found: dict[str, Any] = {}
    for name, split in (("converting", False), ("splitting", True)):
        (folder / name).mkdir()
        found[name] = killed(model, folder / name, kills, split=split)
    (folder / "same").mkdir()
    found["same_name"] = at_once(folder / "same")
    found["cut"] = cut(model, archive)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
