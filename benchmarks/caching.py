"""Effect of the caches on a small model: operations, agreement with the exact clip, and accuracy.

    python benchmarks/caching.py --count 24

Every clip is made without caches and with them at each quality, from the same seed, prompt and settings.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.machine import processor  # noqa: E402
from evaluation.detector import observe  # noqa: E402
from evaluation.experiments import judge  # noqa: E402
from evaluation.generate import Case, draw_cases  # noqa: E402
from evaluation.measures import psnr  # noqa: E402
from vc_core.denoising import Sampling  # noqa: E402
from vc_core.denoising.caching import QUALITIES, Quality  # noqa: E402
from vc_core.pipeline import Request, VideoCrafter  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "videocrafter_small_t2v.safetensors")
    parser.add_argument("--count", type=int, default=24, help="prompts")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--sampler", default="ddim")
    parser.add_argument("--eta", type=float, default=0.0)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "caching.json")
    options = parser.parse_args()
    crafter = VideoCrafter.load(options.model)
    cases = draw_cases(options.count, unseen=True)
    sampling = Sampling(steps=options.steps, sampler=options.sampler, eta=options.eta)
    found: dict[str, Any] = {}
    exact: list[Any] = []
    for quality in (None, *QUALITIES):
        made, operations = clips(crafter, cases, sampling, quality)
        exact = exact or made
        row: dict[str, Any] = {"operations": operations, "accuracy": judge(cases, [observe(clip) for clip in made])}
        if quality is not None:
            agreement = [psnr(a, b) for a, b in zip(made, exact, strict=True)]
            row["fewer_operations"] = round(found["exact"]["operations"] / operations, 3)
            row["psnr"] = {"mean": round(sum(agreement) / len(agreement), 2), "lowest": round(min(agreement), 2)}
        found[quality or "exact"] = row
    report = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "device": processor(),
        "model": options.model.name,
        "prompts": options.count,
        **{name: getattr(options, name) for name in ("steps", "sampler", "eta")},
        "torch": torch.__version__,
        "found": found,
    }
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


def clips(
    crafter: VideoCrafter, cases: Sequence[Case], sampling: Sampling, quality: Quality | None
) -> tuple[list[Any], int]:
    """The clips with the caches at this quality, None for none, and the number of operations of one of them."""
    made, operations = [], 0
    for case in cases:
        request = Request(
            seed=case.seed,
            fps=case.scene.fps,
            sampling=sampling,
            step_cache=quality,
            guidance_cache=quality,
            together=False,
        )
        with nullcontext() if operations else FlopCounterMode(display=False) as counter:
            latents = [step.x for step in crafter.steps(case.prompt, request=request)][-1]
        operations = operations if counter is None else counter.get_total_flops()
        made.append(crafter.decode(latents).numpy())
    return made, operations


if __name__ == "__main__":
    main()
