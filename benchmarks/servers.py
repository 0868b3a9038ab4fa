"""Runs full-size models in a real ComfyUI server, with its default memory management and with limited memory.

python -m benchmarks.servers                                     # a CUDA card, all settings
python -m benchmarks.servers --models t2v_1024 --settings default 6GiB --dtype fp16
python -m benchmarks.servers --device cpu --models small --settings default --steps 4

For each setting, a separate server runs the workflow template of each model twice: the first run loads the model, the
second finds it loaded. `default` starts ComfyUI without options; `6GiB` and similar reserve memory (`--reserve-vram`)
so that this much of the card is left; `no_dynamic_vram` is `--disable-dynamic-vram`.
The result contains the seconds of each run and of its nodes, the peak memory use of the whole card by nvidia-smi and of
the server's process (and the use before), statistics of the video, the server's messages about memory, and errors. It
is written after every run. `COMFYUI_PATH` is ComfyUI's folder. The checkpoints have random weights; they are created in
`--folder` if they do not exist, and take 4 to 10 GB each.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import io
import json
import logging
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .__main__ import RESULTS, ROOT, revision
from .full_size import DTYPES, MODELS
from .machine import processor
from .nvidia_smi import Card, Watch

sys.path.insert(0, str(ROOT / "tests"))

from comfyui.base import Base, make_base
from comfyui.server import Event, Run, Server
from comfyui.workflow import to_prompt

log = logging.getLogger(__name__)

SETTINGS = ("default", "12GiB", "8GiB", "6GiB", "no_dynamic_vram")
OPTIONS = {"default": (), "no_dynamic_vram": ("--disable-dynamic-vram",)}
SMALLER = re.compile(r"(\d+(?:\.\d+)?)GiB")
DYNAMIC = "DynamicVRAM support detected and enabled"
RELEVANT = re.compile(
    r"vram|memory|aimdo|offload|loaded|load to|prompt executed|warn|error|exception|dtype", re.IGNORECASE
)
COLOUR = re.compile(r"\x1b\[[\d;]*m")
LINES, ERROR_TEXT = 40, 1500
"""Maximum number of a server's messages per run, and characters of an error."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.servers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--models", nargs="+", choices=MODELS, default=["videocrafter2", "t2v_1024"])
    options.add_argument("--settings", nargs="+", type=setting, default=list(SETTINGS), help="settings, in this order")
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cuda: the first card")
    options.add_argument("--dtype", choices=DTYPES, default="published", help="dtype of the weights in generated files")
    options.add_argument("--steps", type=int, default=20, help="sampling steps (default: %(default)s)")
    options.add_argument("--first-steps", type=int, default=None, help="sampling steps of the first run, if different")
    options.add_argument("--folder", type=Path, default=None, help="folder for the checkpoints (default: temporary)")
    options.add_argument("--limit", type=float, default=3600.0, help="total time limit in seconds")
    options.add_argument("--note", default="", help="a note to store in the result")
    options.add_argument("--output", type=Path, default=None, help="the JSON file (default: in benchmarks/results)")
    options.add_argument("--logs", type=Path, default=None, help="file for the complete output of the servers")
    return options


def setting(text: str) -> str:
    """A validated setting."""
    if text not in OPTIONS and not SMALLER.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a setting; use {', '.join(SETTINGS)}, or another number of GiB"
        )
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.device == "cpu" and any(SMALLER.fullmatch(name) for name in options.settings):
        parser().error("--settings: memory can be limited only on a card; on a CPU use default")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        files = {name: MODELS[name].path(folder.resolve(), options.dtype) for name in options.models}
        bench = Bench(options, files, Card.here() if options.device == "cuda" else None)
        for name in options.settings:
            bench.measure(name)
    sys.stdout.write(table(bench.result) + "\n")
    return 0


def options_of(name: str, card: Card | None) -> tuple[str, ...]:
    """ComfyUI's command-line options for a setting."""
    smaller = SMALLER.fullmatch(name)
    if smaller is None:
        return OPTIONS[name]
    assert card is not None
    reserved = card.total_bytes / 2**30 - float(smaller[1])
    if reserved <= 0:
        raise ValueError(f"{name}: the card has only {card.total_bytes / 2**30:.1f} GiB")
    return ("--reserve-vram", f"{reserved:.2f}")


class Bench:
    """A run of the command: its options, the model files by name, and the results so far."""

    def __init__(self, options: argparse.Namespace, files: Mapping[str, Path], card: Card | None) -> None:
        self.options, self.files, self.card = options, files, card
        self.end = time.monotonic() + options.limit
        self.rows: list[dict[str, Any]] = []
        self.result: dict[str, Any] = {**about(options, card), "rows": self.rows}
        self.output: Path = options.output or RESULTS / f"servers_{options.device}.json"
        self.output.parent.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        """Seconds left until the limit."""
        return self.end - time.monotonic()

    def save(self) -> None:
        """Writes the current results."""
        self.output.write_text(json.dumps(self.result, indent=2) + "\n", encoding="utf-8")

    def measure(self, name: str) -> None:
        """Measures all models in one setting. If a server crashes, it is restarted for the remaining models."""
        rest = list(self.options.models)
        while rest:
            begun = [rest.pop(0)]
            if self.left <= 0:
                self.rows.append({"setting": name, "model": begun[0], "error": "not run: the time limit was reached"})
                self.save()
                continue
            try:
                self._serve(name, begun, rest)
            except (OSError, RuntimeError, ValueError, asyncio.TimeoutError) as error:
                log.warning("%s, %s: %s", name, begun[-1], error)
                self.rows.append({"setting": name, "model": begun[-1], "error": ending(str(error))})
                self.save()

    def _serve(self, name: str, begun: list[str], rest: list[str]) -> None:
        """Runs a server for the last model in `begun`, then for those in `rest`, which are moved to `begun`."""
        options = options_of(name, self.card)
        with tempfile.TemporaryDirectory() as folder:
            base = self._base(Path(folder))
            start = time.perf_counter()
            server = Server(base, [*page(base), *options], cpu=self.card is None)
            try:
                with server, Watch(server.rss, self.card is not None) as watch:
                    shared = {"setting": name, "options": list(options), "start_seconds": time.perf_counter() - start}
                    self.result.update(versions(server))
                    self._model(server, watch, shared, begun[-1])
                    while rest and self.left > 0:
                        begun.append(rest.pop(0))
                        free(server)
                        self._model(server, watch, shared, begun[-1])
            finally:
                self._keep(server.log, name)

    def _base(self, folder: Path) -> Base:
        base = make_base(folder)
        for model, path in self.files.items():
            link = base.model("checkpoints", MODELS[model].file)
            if not link.exists():
                link.symlink_to(path)
        image = ROOT / "models" / "example_picture.png"
        (base.input / "example.png").write_bytes(image.read_bytes())
        return base

    def _keep(self, text: str, name: str) -> None:
        if self.options.logs is not None:
            self.options.logs.parent.mkdir(parents=True, exist_ok=True)
            with self.options.logs.open("a", encoding="utf-8") as file:
                file.write(f"===== {name}\n{text}\n")

    def _model(self, server: Server, watch: Watch, shared: Mapping[str, Any], model: str) -> None:
        """Runs a model twice and adds a row to the result."""
        row: dict[str, Any] = {**shared, "model": model, "dynamic_vram": DYNAMIC in server.log}
        self.rows.append(row)
        watch.reset()
        row["before"] = watch.peaks()
        prompt = to_prompt(MODELS[model].template, server.object_info())
        for seed, which in enumerate(("first", "second")):
            if self.left <= 0:
                row[which] = {"status": "not run", "error": "the time limit was reached"}
                break
            few = self.options.first_steps if which == "first" else None
            steps = few or self.options.steps
            change(prompt, "VideoCrafterKSampler", steps=steps, seed=seed)
            row[which] = {"steps": steps, **self._run(server, watch, prompt)}
            log.info("%s, %s, %s: %s", shared["setting"], model, which, brief(row[which]))
            self.save()
            if row[which]["status"] != "success":
                break
        self.save()

    def _run(self, server: Server, watch: Watch, prompt: Mapping[str, Any]) -> dict[str, Any]:
        """Runs one prompt."""
        seen, times = len(server.log), Times(prompt, self.end, server.interrupt)
        watch.reset()
        begin = time.perf_counter()
        run = server.run(prompt, on_event=times, timeout=max(self.left, 1) + 30)
        found: dict[str, Any] = {"status": run.status, "seconds": time.perf_counter() - begin, "nodes": times.nodes}
        found |= watch.peaks()
        if run.status == "success":
            found["video"] = video(server, run)
        else:
            found["error"] = message(run)
        lines = [COLOUR.sub("", line) for line in server.log[seen:].splitlines() if RELEVANT.search(line)]
        return {**found, "log": lines[-LINES:]}


class Times:
    """An event handler that measures the seconds of each node type, and stops the run at the time limit."""

    def __init__(self, prompt: Mapping[str, Any], end: float, stop: Callable[[], None]) -> None:
        self.kinds = {node: content["class_type"] for node, content in prompt.items()}
        self.end, self.stop = end, stop
        self.nodes: dict[str, float] = {}
        self.running, self.since = "", 0.0

    def __call__(self, event: Event) -> None:
        now = time.perf_counter()
        if event.type in ("executing", "execution_success", "execution_error", "execution_interrupted"):
            if self.running:
                self.nodes[self.running] = self.nodes.get(self.running, 0.0) + now - self.since
            self.running, self.since = self.kinds.get(str(event.data.get("node")), ""), now
        if time.monotonic() > self.end:
            self.end = float("inf")
            self.stop()


def page(base: Base) -> list[str]:
    """Options that start ComfyUI without its frontend package, and without previews, as by default."""
    folder = base.root / "page"
    folder.mkdir()
    (folder / "index.html").write_text("", encoding="utf-8")
    return ["--front-end-root", str(folder), "--preview-method", "none"]


def free(server: Server) -> None:
    """Unloads the server's models, so that they do not affect the memory use of the next one."""
    server.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(1.0)


def change(prompt: Mapping[str, Any], kind: str, **inputs: Any) -> None:
    """Sets inputs of all nodes of one type."""
    for node in prompt.values():
        if node["class_type"] == kind:
            node["inputs"] |= inputs


def video(server: Server, run: Run) -> dict[str, Any]:
    """Size, mean and standard deviation of the pixels; a model that overflows gives frames of one colour."""
    import av
    import numpy as np

    (file,) = (file for file in run.files if file["filename"].endswith(".mp4"))
    with av.open(io.BytesIO(server.view(file))) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return {"shape": list(frames.shape), "mean": float(frames.mean()), "spread": float(frames.std())}


def message(run: Run) -> str:
    """The error of a failed run, with the end of its traceback."""
    error = run.error or {}
    if "exception_message" not in error:
        return ending(json.dumps(error))
    trace = "".join(error.get("traceback", [])[-4:])
    return ending(f"{error.get('node_type')}: {error.get('exception_type')}: {error['exception_message']}\n{trace}")


def ending(text: str) -> str:
    """The end of a text."""
    return COLOUR.sub("", text).strip()[-ERROR_TEXT:]


def versions(server: Server) -> dict[str, Any]:
    """Versions and the card's memory, as reported by the server."""
    stats = server.get("/system_stats")
    system, devices = stats["system"], stats["devices"]
    return {
        "comfyui": system.get("comfyui_version", ""),
        "torch": system.get("pytorch_version", ""),
        "vram_total_bytes": devices[0].get("vram_total") if devices else None,
    }


def about(options: argparse.Namespace, card: Card | None) -> dict[str, Any]:
    """Date, machine and settings of a result."""
    try:
        aimdo = importlib.metadata.version("comfy-aimdo")
    except importlib.metadata.PackageNotFoundError:
        aimdo = ""
    described = {"device": card.name, "driver": card.driver, "card_bytes": card.total_bytes} if card else {}
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "revision": revision(ROOT),
        "device": processor(),
        **described,
        "dtype": options.dtype,
        "comfy_aimdo": aimdo,
        "python": platform.python_version(),
        "system": platform.system(),
        "note": options.note,
    }


def brief(run: Mapping[str, Any]) -> str:
    """A short summary of a run."""
    if run["status"] != "success":
        return f"{run['status']}: {run.get('error', '')[:200]}"
    peak = run.get("card_peak_bytes", run["host_peak_bytes"])
    return f"{run['seconds']:.1f} s, {peak / 2**30:.2f} GiB"


def table(result: Mapping[str, Any]) -> str:
    """The rows of a result as a Markdown table."""
    lines = ["| setting | model | dynamic VRAM | first run | second run |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        failed = row.get("error", "-").splitlines()[-1]
        runs = [brief(row[which]) if which in row else failed for which in ("first", "second")]
        dynamic = {True: "yes", False: "no"}.get(row.get("dynamic_vram"), "-")
        lines.append(f"| {row['setting']} | {row['model']} | {dynamic} | " + " | ".join(runs).replace("\n", " ") + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
