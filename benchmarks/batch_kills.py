"""Kills a batch at random moments and resumes it, until it is done; then compares it with an undisturbed run.

python -m benchmarks.batch_kills                        # 200 videos, 20 kills
python -m benchmarks.batch_kills --lines 12 --kills 3

Every video must be there once, with the same bytes as in the undisturbed run, and none may be made twice.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
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


def start(lines: Path, folder: Path) -> subprocess.Popen[str]:
    """The batch in a process of its own."""
    command = [sys.executable, "-m", "vc_core", "batch", str(lines), "--output", str(folder), "--quiet"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def undisturbed(lines: Path, folder: Path) -> float:
    """Runs the whole batch; returns the seconds from the first video to the end."""
    with start(lines, folder) as process:
        assert process.stdout is not None
        process.stdout.readline()
        begin = time.monotonic()
        _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors)
    return time.monotonic() - begin


def killed(lines: Path, folder: Path, delay: float) -> tuple[bool, list[str]]:
    """Runs the batch until `delay` seconds after its first video; whether it was killed, and the files it reported."""
    with start(lines, folder) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        while first and not MADE.match(first):
            first = process.stdout.readline()
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
        rest = process.stdout.read()
    return process.returncode not in (0, 2), MADE.findall(first + rest)


def measure(folder: Path, lines: int, kills: int, *, model: str = "small", seed: int = 0) -> dict[str, Any]:
    """What became of a batch that was killed. Raises RuntimeError if an undisturbed run fails."""
    file, whole, broken = folder / "lines.jsonl", folder / "whole", folder / "broken"
    write_lines(file, lines, model)
    seconds = undisturbed(file, whole)
    moments, done, reported = random.Random(seed), 0, []
    for _ in range(kills):
        was_killed, files = killed(file, broken, moments.uniform(0, 2 * seconds / (kills + 1)))
        done += was_killed
        reported += files
    with start(file, broken) as process:
        output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors)
    reported += MADE.findall(output)
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
