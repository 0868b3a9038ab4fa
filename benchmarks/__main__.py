"""Measures speed and memory on this machine, relative to a matrix product in the same run.

python -m benchmarks                              # everything that takes a reasonable time
python -m benchmarks --only unet --longest 1000   # including sizes that take minutes
python -m benchmarks --device cuda                # on a GPU, in about five minutes
python -m benchmarks --device cuda --only vc2_320x512 --output /tmp/result.json
python -m benchmarks --compare old.json new.json  # compares two results
python -m benchmarks --compare HEAD~5 HEAD --only unet   # measures and compares two revisions
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .machine import processor

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PARTS = ("unet", "guided", "frames", "autoencoder", "video", "planned", "compiled", "writing", "loading")
SECTIONS = (
    *("peaks", "vc2_320x512", "t2v_576x1024", "video_vc2_320x512", "video_t2v_576x1024"),
    *("attention", "decode", "small_card", "small_models", "windows", "compiled_blocks"),
)
"""The sections measured on a GPU, in this order."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--only",
        nargs="+",
        choices=(*PARTS, *SECTIONS),
        default=None,
        help=f"parts to measure; on a GPU {', '.join(SECTIONS)}, and the CPU parts only if named",
    )
    options.add_argument("--preset", default="videocrafter2_512", help="the published layout (default: %(default)s)")
    options.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    options.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32")
    options.add_argument("--threads", type=int, default=0, help="CPU threads; 0 for torch's default")
    options.add_argument("--repeats", type=int, default=3, help="measurements per median")
    options.add_argument("--longest", type=float, default=240.0, help="skip passes that take more seconds")
    options.add_argument("--side", type=int, default=4096, help="side of the matrices of the reference product")
    options.add_argument(
        "--sizes",
        nargs="+",
        type=size,
        default=None,
        metavar="FxHxW",
        help="sizes of latents; clips grow from the first",
    )
    options.add_argument("--limit", type=float, default=300.0, help="maximum seconds for all GPU parts")
    options.add_argument("--tiny", action="store_true", help="run the GPU parts at sizes that work on any device")
    options.add_argument("--note", default="", help="a note to store in the result")
    options.add_argument(
        "--output", "--out", type=Path, default=None, help="the JSON file (default: benchmarks/results/DEVICE)"
    )
    options.add_argument("--compare", nargs=2, metavar=("OLD", "NEW"), help="two results, or revisions to measure")
    options.add_argument("--source", type=Path, default=ROOT, help=argparse.SUPPRESS)
    return options


def size(text: str) -> tuple[int, int, int]:
    """Frames, height and width."""
    frames, height, width = (int(part) for part in text.split("x"))
    return frames, height, width


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.compare:
        from .table import compared

        old, new = (result_of(which, options) for which in options.compare)
        sys.stdout.write(compared(old, new) + "\n")
        return 0
    output = options.output or RESULTS / f"speed_{options.device.replace(':', '')}_{options.dtype}.json"
    result = measured(options, output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    from .table import table

    sys.stdout.write(table(result) + "\n")
    return 0


def measured(options: argparse.Namespace, output: Path) -> dict[str, Any]:
    """Measures on this machine and returns the result. GPU results are written to `output` as soon as they are
    known."""
    sys.path.insert(0, str(options.source))  # for another revision's vc_core
    import torch

    from vc_core.specs import PRESETS

    from . import gpu, measuring
    from .card import Card, versions
    from .clock import Clock

    if options.threads:
        torch.set_num_threads(options.threads)
    clock = Clock(torch.device(options.device), options.repeats)
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    bench = measuring.Bench(
        clock, PRESETS[options.preset], kinds[options.dtype], longest=options.longest, side=options.side
    )
    bench.sizes = tuple(options.sizes or measuring.SIZES)
    bench.result.update(about(options, clock))
    on_gpu = options.tiny or clock.device.type == "cuda"
    chosen = options.only or (SECTIONS if on_gpu else PARTS)
    if on_gpu:
        bench.result.update(versions(clock.device))
        gpu.measure(Card(clock.device, output, options.limit, options.tiny, bench.result), chosen)
    measuring.measure(bench, [part for part in chosen if part in PARTS])
    return bench.result


def about(options: argparse.Namespace, clock: Any) -> dict[str, Any]:
    """Date, machine and settings of a result."""
    import torch

    device = torch.cuda.get_device_name(clock.device) if clock.device.type == "cuda" else processor()
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "revision": revision(options.source),
        "preset": options.preset,
        "dtype": options.dtype,
        "device": device,
        "threads": torch.get_num_threads(),
        "clock": clock.kind,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "note": options.note,
    }


def revision(folder: Path) -> str:
    """The commit of a working tree, with a plus sign if files were changed; empty outside a working tree or without
    git."""
    if shutil.which("git") is None:
        return ""
    git = ["git", "-C", str(folder)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")


def result_of(which: str, options: argparse.Namespace) -> dict[str, Any]:
    """A stored result, or the result of measuring a revision in a separate working tree."""
    path = Path(which)
    if path.is_file():
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return stored
    with tempfile.TemporaryDirectory() as folder:
        tree, output = Path(folder) / "tree", Path(folder) / "result.json"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), which], check=True)
        try:
            command = [sys.executable, "-m", "benchmarks", "--source", str(tree), "--output", str(output)]
            for option in ("preset", "device", "dtype", "threads", "repeats", "longest", "side", "limit"):
                command += [f"--{option}", str(getattr(options, option))]
            command += ["--only", *options.only] if options.only else []
            if options.sizes:
                command += ["--sizes", *("x".join(map(str, one)) for one in options.sizes)]
            subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
            return {**json.loads(output.read_text(encoding="utf-8")), "revision": which}
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


if __name__ == "__main__":
    sys.exit(main())
