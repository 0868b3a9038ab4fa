"""`python -m evaluation`: runs the experiments on the small models and writes table, numbers and contact sheets."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

import torch

from vc_core.checkpoint.building import torch_dtype
from vc_core.pipeline import VideoCrafter

from . import experiments, report

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = ("text", "fps", "negative", "image", "precision")


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(prog="python -m evaluation", description=__doc__)
    options.add_argument("--text-model", type=Path, default=ROOT / "models" / "videocrafter_small_t2v.safetensors")
    options.add_argument("--image-model", type=Path, default=ROOT / "models" / "videocrafter_small_i2v.safetensors")
    options.add_argument("--questions", nargs="*", choices=QUESTIONS, default=list(QUESTIONS))
    options.add_argument("--count", type=int, default=200, help="held-out prompts of the main experiments")
    options.add_argument(
        "--small-count", type=int, default=60, help="prompts for fps and negative; precision uses a quarter"
    )
    options.add_argument("--folder", type=Path, default=ROOT / "benchmarks" / "results")
    options.add_argument("--name", default="small_models")
    options.add_argument(
        "--join", nargs="*", type=Path, default=[], help="JSON files of runs with other questions, to make one table"
    )
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves it to torch")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)

    def load(kind: str = "fp32", path: Path = options.text_model) -> VideoCrafter:
        dtype = torch_dtype(kind)
        assert dtype is not None
        return VideoCrafter.load(path, device=options.device, dtype=dtype)

    findings = experiments.Findings()
    for path in options.join:
        findings.numbers |= json.loads(path.read_text(encoding="utf-8"))
    text = load()
    if "text" in options.questions:
        experiments.text_accuracy(text, options.count, findings)
    if "fps" in options.questions:
        experiments.fps_condition(text, options.small_count, findings)
    if "negative" in options.questions:
        experiments.negative_prompt(text, options.small_count, findings)
    if "image" in options.questions:
        experiments.image_accuracy(load(path=options.image_model), text, options.count, findings)
    if "precision" in options.questions:
        experiments.half_precision(load, max(1, options.small_count // 4), findings)
    sys.stdout.write(report.write(findings, options.folder, options.name) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
