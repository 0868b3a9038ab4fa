"""Runs random valid graphs of our nodes and ComfyUI's in one real server, and counts how they end.

python -m benchmarks.random_graphs --graphs 300 --seed 1
python -m benchmarks.random_graphs --only 17 --show              # one graph again

A graph ends with a result, an error of ours that says what to change, or an error of one of ComfyUI's nodes. Any other
error is a failure, as are a server that ends, a run without an end, files outside of ComfyUI's folders, and a fixed run
afterwards whose frames differ. Failing graphs are made small and kept in `tests/fuzz/corpus/graphs`, which the tests
run. `COMFYUI_PATH` is ComfyUI's folder. Everything runs on the CPU, with small models.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .__main__ import RESULTS, ROOT, revision
from .machine import processor

sys.path.insert(0, str(ROOT / "tests"))

from random_graphs.files import Graphs, put
from random_graphs.judging import SLOW_CORE, Judge, Verdict
from random_graphs.making import Prompt
from random_graphs.shrinking import keep, shrink

from comfyui.base import comfy_path, make_base
from comfyui.server import Server

log = logging.getLogger(__name__)

EXAMPLES, SAVED, CHECKED = 5, 10, 4
"""How many messages of each kind of end a result has; graphs after which it is written, and after which the fixed run
follows."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.random_graphs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--graphs", type=int, default=300, help="number of graphs (default: %(default)s)")
    options.add_argument("--seed", type=int, default=1, help="seed of the first graph; the others follow it")
    options.add_argument("--only", type=int, nargs="+", help="seeds of graphs to run, and no others")
    options.add_argument("--show", action="store_true", help="print each graph as JSON")
    options.add_argument("--keep", action="store_true", help="keep failing graphs, made small, in tests/fuzz/corpus")
    options.add_argument("--more", action="store_true", help="go on after the graphs that the JSON file has")
    options.add_argument("--limit", type=float, default=7200.0, help="total time limit in seconds")
    options.add_argument("--output", type=Path, default=RESULTS / "random_graphs.json", help="the JSON file")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 1 if a graph failed."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options)
        try:
            first = options.seed + sum(bench.ends.values())
            bench.run(options.only or range(first, options.seed + options.graphs))
        finally:
            bench.server.close()
            bench.save()
    return 1 if bench.failures else 0


class Bench:
    """A run of the command."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.base, self.options = make_base(folder), options
        put(self.base)
        self.start()
        self.graphs = Graphs(self.server)
        self.ends: Counter[str] = Counter()
        self.nodes: Counter[str] = Counter()
        self.said: dict[str, Counter[str]] = {}
        self.failures: list[dict[str, Any]] = []
        self.begun = time.monotonic()
        if options.more:
            self.add(json.loads(options.output.read_text(encoding="utf-8")))

    def add(self, earlier: dict[str, Any]) -> None:
        """Goes on with an earlier result."""
        self.ends.update(earlier["ends"])
        for seed in range(earlier["first_seed"], earlier["first_seed"] + earlier["graphs"]):
            self.nodes.update({node["class_type"] for node in self.graphs[seed].values()})
        self.said = {kind: Counter(said) for kind, said in earlier["messages"].items()}
        self.failures = list(earlier["failures"])
        self.begun -= earlier["seconds"]
        self.options.seed = earlier["first_seed"]

    def start(self) -> None:
        """A new server."""
        self.server = Server(self.base).__enter__()
        self.judge = Judge(self.server, every=CHECKED)

    def run(self, seeds: Sequence[int]) -> None:
        """Runs the graphs of these seeds."""
        for seed in seeds:
            if time.monotonic() - self.begun > self.options.limit:
                log.warning("the time limit is reached before seed %d", seed)
                return
            prompt = self.graphs[seed]
            if self.options.show:
                sys.stdout.write(json.dumps(prompt, indent=1) + "\n")
            start = time.monotonic()
            verdict = self.judged(prompt)
            self.count(prompt, verdict)
            log.info("%d: %s, %.1f s %s %s", seed, verdict.kind, time.monotonic() - start, verdict.place, verdict.said)
            if verdict.failed:
                self.fail(seed, prompt, verdict)
            if sum(self.ends.values()) % SAVED == 0:
                self.save()

    def save(self) -> None:
        """Writes the result so far."""
        self.options.output.parent.mkdir(parents=True, exist_ok=True)
        self.options.output.write_text(json.dumps(self.result(), indent=1) + "\n", encoding="utf-8")

    def judged(self, prompt: Prompt) -> Verdict:
        """Runs one graph; after one that ends the server, or hangs, another is started."""
        verdict = self.judge.judge(prompt)
        if verdict.kind in ("gone", "slow", "changed", SLOW_CORE):
            self.server.close()
            self.start()
        return verdict

    def count(self, prompt: Prompt, verdict: Verdict) -> None:
        """Adds a run to the result."""
        self.ends[verdict.kind] += 1
        self.nodes.update({node["class_type"] for node in prompt.values()})
        if verdict.said:
            self.said.setdefault(verdict.kind, Counter())[verdict.said[:160]] += 1

    def fail(self, seed: int, prompt: Prompt, verdict: Verdict) -> None:
        """Notes a failure, and keeps its graph."""
        self.failures.append({"seed": seed, "kind": verdict.kind, "place": verdict.place, "said": verdict.said})
        if self.options.keep:
            small = shrink(prompt, self.graphs.info, lambda one: self.judged(one).kind == verdict.kind)
            log.info("kept as %s", keep(small, f"seed_{seed}", verdict.said))

    def result(self) -> dict[str, Any]:
        """What the JSON file holds."""
        import torch

        ours = [name for name in self.graphs.info if name.startswith("VideoCrafter")]
        return {
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "revision": revision(ROOT),
            "device": processor(),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "comfyui": comfyui_version(),
            },
            "first_seed": self.options.seed,
            "graphs": sum(self.ends.values()),
            "seconds": round(time.monotonic() - self.begun, 1),
            "ends": dict(self.ends.most_common()),
            "failures": self.failures,
            "nodes_of_ours": {name: self.nodes[name] for name in sorted(ours)},
            "nodes_of_comfyui": sum(name not in ours for name in self.nodes),
            "messages": {kind: dict(said.most_common(EXAMPLES)) for kind, said in sorted(self.said.items())},
        }


def comfyui_version() -> str:
    """ComfyUI's version."""
    text = (comfy_path() / "comfyui_version.py").read_text(encoding="utf-8")
    return text.partition('"')[2].partition('"')[0]


if __name__ == "__main__":
    sys.exit(main())
