"""Many runs of changing workflows in one real server, and what it holds after them; and a video of two hours.

python -m benchmarks.soak                              # 300 runs, about half an hour on two cores, and the video
python -m benchmarks.soak --only runs --runs 60

Each run is one of the workflows in the API format, in changing order, with small models in place of the published ones
and another size, method for long videos, sampler or control; seeds are new each time, every seventh run is interrupted
while it samples, and model files are replaced by others of the same name. After one round, which is over by run 50,
nothing has a shape that the server has not seen: PyTorch's libraries keep what they prepare for each shape. Every ten
runs the server forgets all results and its history, unloads its models, collects
garbage and returns free memory to the system (malloc_trim); then its memory, tensors, objects, file handles, threads
and files are counted. The video has 24 frames per second for 7200 s, written by `vc_core` from a generator, and by
*VideoCrafter Video Combine* in a server. Figures go to `benchmarks/results/soak.json`, and as curves to `soak.png`.
`COMFYUI_PATH` is ComfyUI's folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .__main__ import RESULTS, ROOT, revision
from .curves import Curve, plotted
from .long_video import by_node, by_vc_core
from .machine import processor
from .servers import message

sys.path.insert(0, str(ROOT / "tests"))

import small_models as small
import stand_ins

from comfyui import probe
from comfyui.base import Base, make_base
from comfyui.server import Event, Server

log = logging.getLogger(__name__)

PARTS = ("runs", "vc_core", "node")
EVERY, INTERRUPTED, REPLACED = 10, 7, 25
"""Runs between two measurements, interrupted runs, and replaced files."""
SETTLED = 50
"""Runs after which memory must not grow any more."""
SIZES = ((40, 24), (24, 40), (32, 32), (32, 48))
SIZED = ("VideoCrafterEmptyLatent", "VideoCrafterPictureToVideo")
STEPS, FRAMES, LONG = 2, 8, 16
"""Sampling steps, frames of what is no long video, and more frames than which are one."""
SAMPLERS = (("ddim_exact", "uniform"), ("euler", "normal"), ("dpmpp_2m", "karras"))
METHODS = ("freelong", "windows", "windows_fast", "continue", "freenoise")
MODEL = "videocrafter2_512.ckpt"
CONTROLS = (
    "VideoCrafterFreeUControl",
    "VideoCrafterByTheWayControl",
    "VideoCrafterMotionStrengthControl",
    "VideoCrafterStepCache",
    "VideoCrafterGuidanceCache",
)
"""Nodes between a model and its sampler that work with every model, with their defaults."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="keeps the other parts of the result")
    options.add_argument("--runs", type=int, default=300, help="number of runs (default: %(default)s)")
    options.add_argument("--seconds", type=float, default=7200.0, help="length of the video (default: %(default)s)")
    options.add_argument("--seed", type=int, default=1, help="of the order and the changes of the workflows")
    options.add_argument("--output", type=Path, default=RESULTS / "soak.json", help="the JSON file")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 1 if a run ended with an error."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    result = json.loads(options.output.read_text(encoding="utf-8")) if options.output.is_file() else {}
    result |= {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "revision": revision(ROOT)}
    result |= {"device": processor(), "versions": versions()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for part in options.only:
        with tempfile.TemporaryDirectory() as folder:
            result[part] = _part(part, Path(folder), options)
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if "runs" in result:
        plotted(title(result["runs"]), curves(result["runs"])).save(options.output.with_suffix(".png"), optimize=True)
    return 1 if result.get("runs", {}).get("errors") else 0


def _part(part: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    if part == "vc_core":
        return by_vc_core(folder, options.seconds)
    base = make_base(folder)
    os.environ["TMPDIR"] = str(folder / "tmp")  # the server's temporary files, to be counted
    (folder / "tmp").mkdir()
    try:
        probe.add(base)
        if part == "runs":
            stand_ins.put(base)
        with Server(base) as server:
            return by_node(server, options.seconds) if part == "node" else Soak(server, options).run()
    finally:
        del os.environ["TMPDIR"]


class Soak:
    """Runs in one server, and what it holds after each ten of them."""

    def __init__(self, server: Server, options: argparse.Namespace) -> None:
        self.server, self.count = server, options.runs
        self.chance = random.Random(options.seed)
        defaults = {kind: widgets(server, kind) for kind in CONTROLS}
        workflows = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in api()}
        self.workflows = {name: changed(prompt, self.chance, defaults) for name, prompt in workflows.items()}
        self.probe = probe.Probe(server)
        self.measured: list[dict[str, Any]] = []
        self.ends: Counter[str] = Counter()
        self.errors: list[str] = []

    def run(self) -> dict[str, Any]:
        """All runs, and the result."""
        begun, names = time.monotonic(), list(self.workflows)
        order: list[str] = []
        for number in range(1, self.count + 1):
            if not order:
                order = self.chance.sample(names, len(names))
            if number % REPLACED == 0:
                self.replace(number)
            self.one(order.pop(), number)
            if number % EVERY == 0:
                self.measure(number)
        return {
            "runs": self.count,
            "seconds": round(time.monotonic() - begun, 1),
            "workflows": len(names),
            "ends": dict(self.ends.most_common()),
            "errors": self.errors,
            "growth": growth(self.measured),
            "measured": self.measured,
        }

    def one(self, name: str, number: int) -> None:
        """One changed workflow."""
        prompt = seeded(self.workflows[name], self.chance)
        at = 1 if number % INTERRUPTED == 0 else 0

        def cancel(event: Event) -> None:
            if at and event.type == "progress" and event.data["value"] >= at:
                self.server.interrupt()

        run = self.server.run(prompt, on_event=cancel)
        self.ends[run.status] += 1
        if run.status not in ("success", "interrupted"):
            self.errors.append(f"run {number}, {name}: {message(run)}")
            log.warning("%s", self.errors[-1])

    def replace(self, number: int) -> None:
        """Another model under the name of one that is loaded."""
        path = self.server.base.model("checkpoints", MODEL)
        part = path.with_suffix(".new")
        small.save(small.TEXT_MODEL, part, seed=number)
        part.replace(path)

    def measure(self, number: int) -> None:
        """Counts what the server holds and which files there are, and removes its results."""
        held = dataclasses.asdict(self.probe())
        left = leftovers(self.server.base)
        clear(self.server.base)
        self.measured.append({"run": number, **held, "leftover_files": left})
        log.info("%s", self.measured[-1])


def api() -> list[Path]:
    """The workflows in the API format."""
    return sorted((stand_ins.FOLDER / "api").glob("*.json"))


def widgets(server: Server, kind: str) -> dict[str, Any]:
    """The defaults of a node's widgets."""
    info = server.object_info()[kind]["input"]
    specs = {**info.get("required", {}), **info.get("optional", {})}
    return {name: spec[1]["default"] for name, spec in specs.items() if len(spec) > 1 and "default" in spec[1]}


def changed(prompt: dict[str, Any], chance: random.Random, defaults: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A small version of a workflow with another size, sampler and method, and perhaps one more node."""
    prompt = stand_ins.cut_down(prompt)
    _sized(prompt, chance)
    for node in [node for node in prompt.values() if node["class_type"] == "VideoCrafterKSampler"][:1]:
        _sampled(node["inputs"], chance)
        if node["inputs"].get("long_video") != "fifo" and chance.random() < 0.5:
            kind = chance.choice(list(defaults))
            prompt["soak"] = {"class_type": kind, "inputs": {**defaults[kind], "model": node["inputs"]["model"]}}
            node["inputs"]["model"] = ["soak", 0]
    return prompt


def _sized(prompt: dict[str, Any], chance: random.Random) -> None:
    """Few steps, and a small size unless an upscaler follows."""
    larger = any(node["class_type"] in stand_ins.LARGER for node in prompt.values())
    width, height = chance.choice(SIZES)
    for inputs in (node["inputs"] for node in prompt.values() if node["class_type"] in SIZED and not larger):
        inputs.update(width=width, height=height)
        inputs["frames"] = min(inputs["frames"], FRAMES) if inputs["frames"] <= LONG else inputs["frames"]
    for inputs in (node["inputs"] for node in prompt.values() if "steps" in node["inputs"]):
        inputs["steps"] = STEPS


def seeded(prompt: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The workflow with other seeds."""
    found = json.loads(json.dumps(prompt))
    for inputs in (node["inputs"] for node in found.values() if "seed" in node["inputs"]):
        inputs["seed"] = chance.getrandbits(32)
    return found


def _sampled(inputs: dict[str, Any], chance: random.Random) -> None:
    """Another method for a long video; another sampler, where the workflow has a usual one."""
    long = inputs.get("long_video", "off") != "off"
    if long and inputs["long_video"] in METHODS and "long_video_settings" not in inputs:
        inputs["long_video"] = chance.choice(METHODS)
    elif not long and inputs["sampler_name"] == "ddim_exact":
        inputs["sampler_name"], inputs["scheduler"] = chance.choice(SAMPLERS)


def leftovers(base: Base) -> list[str]:
    """Temporary files that are still there: incomplete ones of ours, and all in the system's temporary folder."""
    parts = [path for folder in (base.output, base.temp) for path in folder.rglob(".videocrafter-*")]
    return sorted(str(path.relative_to(base.root)) for path in (*parts, *(base.root / "tmp").rglob("*")))


def clear(base: Base) -> None:
    """Removes the results."""
    for path in sorted(base.output.rglob("*"), reverse=True):
        if path.is_file():
            path.unlink()


def growth(measured: Sequence[dict[str, Any]]) -> dict[str, float]:
    """By how much each figure is larger at the end than once the server has settled: medians of three, as a share."""
    settled = [each for each in measured if each["run"] >= SETTLED]
    if len(settled) < 2:
        return {}
    found = {}
    for name in (field.name for field in dataclasses.fields(probe.Held)):
        first, last = (statistics.median(each[name] for each in part) for part in (settled[:3], settled[-3:]))
        found[name] = round(last / max(first, 1) - 1, 5)
    return found


def curves(result: dict[str, Any]) -> list[Curve]:
    """What is plotted of the runs."""
    measured = result["measured"]
    runs = [each["run"] for each in measured]
    titles = {"tensors": "tensors", "objects": "objects that Python tracks", "modules": "modules"}
    titles |= {"handles": "file handles", "threads": "threads"}
    resident = Curve("resident memory, MiB", runs, [each["resident"] / 2**20 for each in measured])
    return [resident, *(Curve(text, runs, [each[name] for each in measured]) for name, text in titles.items())]


def title(result: dict[str, Any]) -> str:
    """The title of the plots."""
    grown = result["growth"].get("resident", 0.0)
    return f"One server over {result['runs']} runs; memory from run {SETTLED} to the end: {grown:+.2%}"


def versions() -> dict[str, str]:
    """The versions of what runs."""
    import av
    import torch

    return {"python": platform.python_version(), "torch": torch.__version__, "av": av.__version__}


if __name__ == "__main__":
    sys.exit(main())
