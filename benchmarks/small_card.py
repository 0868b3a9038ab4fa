"""Makes a video with vc_core on a simulated smaller card, by limiting torch's memory.

python -m benchmarks.small_card                                  # T2V-1024 in fp16 with 6 GiB
python -m benchmarks.small_card --model videocrafter2 --gib 4
python -m benchmarks.small_card --device cpu --dtype fp32 --model small

The limit applies to loading and to the run. It counts torch's allocations; the CUDA context (about 0.5 GiB) comes on
top. There is no limit on a CPU. The checkpoint has random weights; it is created in `--folder` if it does not exist.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vc_core.denoising import Sampling
from vc_core.errors import UserError
from vc_core.pipeline import Request, VideoCrafter

from .__main__ import RESULTS, ROOT, revision
from .clock import Clock
from .full_size import DTYPES, MODELS
from .machine import processor

KINDS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.small_card",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--model", choices=MODELS, default="t2v_1024")
    options.add_argument("--gib", type=float, default=6.0, help="memory limit of torch (default: %(default)s)")
    options.add_argument("--steps", type=int, default=4)
    options.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu")
    options.add_argument("--dtype", choices=KINDS, default="fp16", help="dtype of the computation")
    options.add_argument(
        "--file-dtype", choices=DTYPES, default="published", help="dtype of the weights in a generated file"
    )
    options.add_argument("--folder", type=Path, default=None, help="folder for the checkpoint (default: temporary)")
    options.add_argument("--note", default="", help="a note to store in the result")
    options.add_argument("--output", type=Path, default=None, help="the JSON file (default: in benchmarks/results)")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parser().parse_args(arguments)
    output: Path = options.output or RESULTS / f"small_card_{options.model}.json"
    with tempfile.TemporaryDirectory() as temporary:
        path = MODELS[options.model].path((options.folder or Path(temporary)).resolve(), options.file_dtype)
        result = {**about(options), **measured(path, options)}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 0


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Date, machine and settings of the result."""
    device = torch.device(options.device)
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "revision": revision(ROOT),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "capped_at_gib": options.gib if device.type == "cuda" else None,
        "model": options.model,
        "dtype": options.dtype,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "note": options.note,
    }


def measured(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of loading and of one run under the limit, with statistics of the video."""
    device = torch.device(options.device)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(options.gib * 2**30 / total)
    clock = Clock(device)
    loaded, crafter = attempt(clock, lambda: VideoCrafter.load(path, device=device, dtype=KINDS[options.dtype]))
    found: dict[str, Any] = {"load": loaded}
    if crafter is not None:
        request = Request(seed=1, sampling=Sampling(steps=options.steps))
        ran, frames = attempt(clock, lambda: crafter.generate("a boat on the sea", request=request))
        found["run"] = {"steps": options.steps, **ran, **({} if frames is None else looks(frames))}
    return found


def attempt(clock: Clock, work: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
    """Seconds and peak memory of a call and its result, or its error and None."""
    results: list[Any] = []
    seconds: list[float] = []

    def timed() -> None:
        seconds.append(clock.once(lambda: results.append(work())))

    try:
        peak = clock.peak(timed)
    except (torch.OutOfMemoryError, UserError) as error:
        return {"error": f"{type(error).__name__}: {error}"}, None
    reserved = torch.cuda.max_memory_reserved(clock.device) if clock.device.type == "cuda" else None
    return {"seconds": seconds[0], **peak, **({"reserved_bytes": reserved} if reserved else {})}, results[0]


def looks(frames: Tensor) -> dict[str, Any]:
    """Size, mean and standard deviation of the pixels."""
    return {"shape": list(frames.shape), "mean": float(frames.mean()), "spread": float(frames.std())}


if __name__ == "__main__":
    sys.exit(main())
