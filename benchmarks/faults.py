"""Tries faults in every kind of run: Cancel at each step, interruptions inside of passes, allocations that fail, kills.

python -m benchmarks.faults                               # everything, in vc_core, in ComfyUI and with processes
python -m benchmarks.faults --only vc_core --allocations 50
python -m benchmarks.faults --only comfyui --runs "method continue" "key frames"
python -m benchmarks.faults --only processes --kills 100

After each fault the same run must give what it gives on freshly loaded models, bit for bit, and nothing may be left on
the networks. A run without memory must fall back to smaller parts and give the same video, or say what to lower; in
ComfyUI it may also leave the error to ComfyUI. Processes are killed while they convert and split a model, and write the
same name at once. Weights are at random, and networks are small.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from .__main__ import RESULTS, ROOT, revision

sys.path.insert(0, str(ROOT / "tests"))

from faults.injecting import FULL, Allocations, StopAt, gpu_is_full
from faults.runs import CoreRuns
from faults.trying import Outcome, Trial

from vc_core.network import parts

log = logging.getLogger(__name__)

PROCESSES = "processes"
PLACES = ("vc_core", "comfyui", PROCESSES)
KINDS = ("cancelled", "interrupted", "without_memory")
SMALLEST = 64
"""The smallest parts, in values, where a device with little memory is tried: these networks have small maps."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--only", choices=PLACES, default=None, help="where to try them (default: in both)")
    options.add_argument("--runs", nargs="+", default=None, metavar="NAME", help="runs by name (default: all)")
    options.add_argument("--allocations", type=int, default=200, help="that fail, in each place (default: %(default)s)")
    options.add_argument("--kills", type=int, default=100, help="of each kind of process (default: %(default)s)")
    options.add_argument("--seed", type=int, default=0, help="of what is drawn (default: %(default)s)")
    options.add_argument("--output", type=Path, default=RESULTS / "faults.json", help="the JSON file (%(default)s)")
    return options


class Trials:
    """The faults that are tried in the runs of one place. cancel: what a user's Cancel raises there."""

    def __init__(self, runs: Any, cancel: type[BaseException], options: argparse.Namespace, *, host: bool) -> None:
        self.runs, self.cancel, self.options, self.host = runs, cancel, options, host
        self.names = [name for name in runs.made if options.runs is None or name in options.runs]
        self.errors = (gpu_is_full,) if host else FULL
        self.draw = random.Random(options.seed)

    def all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Tries all faults. Yields the name of each run, and what became of them."""
        each = -(-self.options.allocations // len(self.runs.made))
        for name in self.names:
            self.draw.seed(f"{self.options.seed} {name}")
            trial = self.trial(name)
            found = {"cancelled": self.in_steps(trial), **self.in_passes(trial, each)}
            wrong = [asdict(one) for outcomes in found.values() for one in outcomes if one.wrong]
            log.info("%s: %s", name, wrong or "all well")
            yield name, {**{kind: counted(outcomes) for kind, outcomes in found.items()}, "wrong": wrong}

    def trial(self, name: str) -> Trial:
        """A run, with what it gives on models that were loaded for it."""
        made = self.runs.made[name]
        self.runs.fresh()
        expected = made(None)
        self.runs.fresh()
        made(None)
        return Trial(name=name, made=made, expected=expected, networks=self.runs.networks, host=self.host)

    def in_steps(self, trial: Trial) -> list[Outcome]:
        """Cancels after each step."""
        steps = StopAt()
        trial.made(steps)
        return [trial.cancelled(at, self.cancel) for at in range(steps.seen)]

    def in_passes(self, trial: Trial, count: int) -> dict[str, list[Outcome]]:
        """Lets random allocations fail, once and from a size on, and interrupts at one of them."""
        every = Allocations()
        with every:
            trial.made(None)
        sizes = every.sizes
        tried = [
            Allocations(at=self.draw.randrange(len(sizes)), error=self.draw.choice(self.errors)) for _ in range(count)
        ]
        little = Allocations(above=self.draw.choice(sorted(set(sizes))[:-1]))
        found = [trial.without_memory(full) for full in tried]
        with patch.object(parts, "LEAST", SMALLEST):
            found.append(trial.without_memory(little))
        return {"interrupted": [trial.interrupted(self.draw.randrange(len(sizes)))], "without_memory": found}


def counted(found: Sequence[Outcome]) -> dict[str, int]:
    """How often each outcome occurred."""
    return dict(sorted(Counter(each.outcome for each in found).items()))


def totals(runs: Mapping[str, Any]) -> dict[str, Any]:
    """The sums over all runs."""
    outcomes = {kind: sum((Counter(run[kind]) for run in runs.values()), Counter()) for kind in KINDS}
    tried = sum(count for found in outcomes.values() for count in found.values())
    wrong = sum(len(run["wrong"]) for run in runs.values())
    return {"runs": len(runs), "faults": tried, "next_run_bit_equal": tried - wrong, "wrong": wrong, **outcomes}


def in_core(folder: Path, options: argparse.Namespace) -> Trials:
    """The runs of vc_core."""
    return Trials(CoreRuns(folder), KeyboardInterrupt, options, host=False)


def in_comfyui(folder: Path, options: argparse.Namespace) -> Trials:
    """The runs of a ComfyUI in this process."""
    from comfyui.base import make_base
    from comfyui.inprocess import start

    base = make_base(folder)
    comfy = start(base)
    from comfy.model_management import InterruptProcessingException
    from faults.host_runs import HostRuns

    return Trials(HostRuns(comfy, base), InterruptProcessingException, options, host=True)


def with_processes(kills: int) -> dict[str, Any]:
    """What processes leave that are killed, write the same name at once, or read a file that is cut."""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "faults.killing", folder, str(kills)]
        environment = {**os.environ, "PYTHONPATH": paths}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    """Tries everything, and writes the result; returns 1 if something went wrong."""
    options = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    kept: dict[str, Any] = json.loads(options.output.read_text("utf-8")) if options.output.exists() else {}
    versions = {"torch": torch.__version__, "python": platform.python_version(), "system": platform.system()}
    about = {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "revision": revision(ROOT), **versions}
    for place, work in (("vc_core", in_core), ("comfyui", in_comfyui)):
        if options.only in (None, place):
            runs = dict(kept.get(place, {}).get("each", {}))
            with tempfile.TemporaryDirectory() as folder:
                for name, found in work(Path(folder), options).all():
                    runs[name] = found
                    kept[place] = {**about, "seed": options.seed, **totals(runs), "each": runs}
                    options.output.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if options.only in (None, PROCESSES):
        kept[PROCESSES] = {**about, **with_processes(options.kills)}
        options.output.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return int(any(found.get("wrong", 0) for found in kept.values()))


if __name__ == "__main__":
    sys.exit(main())
