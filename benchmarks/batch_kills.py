"""Kills a batch at random moments and resumes it, until it is done; then compares it with an undisturbed run.

python -m benchmarks.batch_kills                        # 200 videos, 20 kills
python -m benchmarks.batch_kills --lines 12 --kills 3

Every video must be there once, with the same bytes as in the undisturbed run, and none may be made twice.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COMMON = {"device": "cpu", "steps": 1, "frames": 2}
MADE = re.compile(r"^\[\d+/\d+\] (.+): [\d.]+ s, seed \d+$", re.MULTILINE)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.batch_kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument(
        "--model", default="small", help="a text-to-video model (default: the bundled %(default)s one)"
    )
    options.add_argument("--lines", type=int, default=200, help="videos (default: %(default)s)")
    options.add_argument("--kills", type=int, default=20, help="(default: %(default)s)")
    options.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    options.add_argument("--output", type=Path, default=None, help="a file for the result, as JSON")
    return options


def write_lines(path: Path, count: int, model: str) -> None:
    """A batch of short videos."""
    colors, shapes = ("red", "green", "blue", "yellow"), ("square", "circle", "triangle")
    lines = [
        {"prompt": f"a {colors[i % 4]} {shapes[i % 3]} moves to the left", "seed": i, "model": model, **COMMON}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


class Life:
    """One process that runs the batch: forked from a server that has imported everything, so that it starts at once."""

    def __init__(self, lines: Path, folder: Path, output: Path) -> None:
        self.output = output
        arguments = ["batch", str(lines), "--output", str(folder), "--quiet"]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["vc_core.cli"])
        self.process = context.Process(target=_run, args=(arguments, output))
        self.process.start()

    def wait_for_first(self) -> None:
        """Until the first video is reported, or the process ends."""
        while self.process.is_alive() and not self.files():
            time.sleep(0.01)

    def files(self) -> list[str]:
        """The videos that are reported so far."""
        return MADE.findall(self.output.read_text("utf-8")) if self.output.exists() else []

    def finished(self) -> list[str]:
        """The videos, once the process has ended. Raises RuntimeError if it did not end well."""
        self.process.join()
        if self.process.exitcode:
            raise RuntimeError(f"the batch ended with {self.process.exitcode}: {self.output.read_text('utf-8')}")
        return self.files()

    def killed_after(self, delay: float) -> bool:
        """Kills the process some seconds from now, unless it ends earlier; returns whether it was killed."""
        self.process.join(delay)
        self.process.kill()
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL


def _run(arguments: list[str], output: Path) -> None:
    """The body of a process: everything that it writes goes to a file."""
    from vc_core import cli

    with output.open("w", encoding="utf-8", buffering=1) as file:
        sys.stdout = sys.stderr = file
        status = cli.main(arguments)
    os._exit(status)


def measure(folder: Path, lines: int, kills: int, *, model: str = "small", seed: int = 0) -> dict[str, Any]:
    """What became of a batch that was killed. Raises RuntimeError if an undisturbed run fails."""
    file, whole, broken = folder / "lines.jsonl", folder / "whole", folder / "broken"
    write_lines(file, lines, model)
    life = Life(file, whole, folder / "whole.txt")
    life.wait_for_first()
    begin = time.monotonic()
    life.finished()
    seconds = time.monotonic() - begin
    moments, done, reported = random.Random(seed), 0, []
    for index in range(kills):
        life = Life(file, broken, folder / f"{index}.txt")
        life.wait_for_first()
        done += life.killed_after(moments.uniform(0, 2 * seconds / (kills + 1)))
        reported += life.files()
    reported += Life(file, broken, folder / "last.txt").finished()
    expected = {path.name: path.read_bytes() for path in sorted(whole.glob("*.mp4"))}
    found = {path.name: path.read_bytes() for path in sorted(broken.glob("*.mp4"))}
    entries = [json.loads(line)["file"] for line in (broken / "manifest.jsonl").read_text("utf-8").splitlines()]
    return {
        "lines": lines,
        "kills": done,
        "seconds_undisturbed": round(seconds, 1),
        "videos": len(found),
        "equal_bytes": sum(found.get(name) == data for name, data in expected.items()),
        "entries": len(entries),
        "distinct_entries": len(set(entries)),
        "made_twice": len(reported) - len(set(reported)),
        "temporary_files": len(list(broken.glob(".videocrafter-*"))),
    }


def main() -> None:
    """Measures, and writes the result to stdout and to the file that is asked for."""
    options = parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options.lines, options.kills, model=options.model, seed=options.seed)
    text = json.dumps(result, indent=2) + "\n"
    sys.stdout.write(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
