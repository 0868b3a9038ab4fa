"""Runs random graphs on a server, and says whose error an error is."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from comfyui.base import ROOT, Base, comfy_path
from comfyui.server import Event, Run, Server

from .making import Prompt

FIXED_MODEL = "videocrafter2_512.ckpt"
SECONDS, GRACE = 60.0, 60.0
"""After how long a run is interrupted, and how long without a message it may take to end."""
FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
USER_ERROR = "videocrafter.UserError"
OURS = ("/custom_nodes/videocrafter/", f"{ROOT.as_posix()}/vc_core/", f"{ROOT.as_posix()}/nodes/")
LIBRARIES = ("/site-packages/", "/lib/python")

SLOW_CORE = "core, slow"

KNOWN = {
    r"Boolean value of Tensor with more than one value is ambiguous": "RenormCFG, TemporalScoreRescaling; see "
    "docs/compatibility.md",
}
"""Messages of errors in ComfyUI's nodes that happen while one of ours calls them, and what they are of."""


@dataclass(frozen=True)
class Verdict:
    """How the run of a graph ended.

    kind: "success"; "refused" before the run, by ComfyUI's checks; "user error", one of ours; "core", an error of one
    of ComfyUI's nodes, or "core, slow", one without an end. Failures are "ours", "under ours" (ComfyUI's code, called
    by ours), "slow", "changed" (the next fixed run gives other frames), "stray files" and "gone" (the server ended).
    """

    kind: str
    said: str = ""
    place: str = ""
    nodes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def failed(self) -> bool:
        """Whether the graph showed a defect."""
        return self.kind not in ("success", "refused", "user error", "core", SLOW_CORE)


class Judge:
    """Runs graphs on one server. After each, or after every few, comes the same short video, whose frames must not
    change. The files of `stand_ins.put` must be in its folders.
    """

    def __init__(self, server: Server, every: int = 1) -> None:
        self.server, self.every = server, every
        self.count = self.runs = 0
        self.files = _files(server.base)
        self.frames = self._fixed()

    def judge(self, prompt: Prompt) -> Verdict:
        """Runs a graph, and the fixed one after it."""
        verdict = self._run(prompt)
        self.runs += 1
        if verdict.failed or verdict.kind == SLOW_CORE:
            return verdict
        try:
            same = self.runs % self.every > 0 or np.array_equal(self._fixed(), self.frames)
        except (OSError, RuntimeError) as error:
            return Verdict("gone", str(error)[-500:])
        stray = sorted(_files(self.server.base) - self.files)
        if stray:
            self.files |= set(stray)
            return Verdict("stray files", ", ".join(stray))
        return verdict if same else Verdict("changed", "the frames of the next run differ")

    def _run(self, prompt: Prompt) -> Verdict:
        late = threading.Event()
        running: list[str] = [""]

        def stop() -> None:
            late.set()
            self.server.interrupt()

        def follow(event: Event) -> None:
            if event.type == "executing" and event.data.get("node") in prompt and not late.is_set():
                running[:] = [prompt[event.data["node"]]["class_type"]]

        timer = threading.Timer(SECONDS, stop)
        timer.start()
        try:
            run = self.server.run(prompt, on_event=follow, timeout=SECONDS + GRACE)
        except TimeoutError:
            return _slow(running[0], f"no end {GRACE:.0f} s after Cancel")
        except (OSError, RuntimeError) as error:
            return Verdict("gone", str(error)[-500:])
        finally:
            timer.cancel()
        return _slow(running[0], f"over {SECONDS:.0f} s") if late.is_set() else verdict_of(run)

    def _fixed(self) -> np.ndarray:
        """The frames of the fixed video: f h w c."""
        self.count += 1
        run = self.server.run(fixed(self.count), timeout=SECONDS + GRACE)
        if run.status != "success" or "5" in run.cached:
            raise RuntimeError(f"the fixed run ended with {run.status}: {run.error}")
        return np.stack([_pixels(self.server.view(file)) for file in run.files])


def _slow(node: str, said: str) -> Verdict:
    """What a run without an end is: ComfyUI's nodes have encoders that take minutes."""
    return Verdict("slow" if node.startswith("VideoCrafter") else SLOW_CORE, f"{said} in {node}")


def verdict_of(run: Run) -> Verdict:
    """Whose error the end of a run is."""
    if run.status == "success":
        return Verdict("success")
    error = run.error or {}
    if run.status == "refused":
        return Verdict("refused", str(error.get("error", error))[:500])
    if run.status == "interrupted":
        return Verdict("success", "interrupted")
    said = str(error.get("exception_message", error)).strip()
    if error.get("exception_type") == USER_ERROR:
        return Verdict("user error", said, str(error.get("node_type")))
    kind, place = _blamed(list(error.get("traceback", [])))
    known = next((what for pattern, what in KNOWN.items() if re.search(pattern, said)), "")
    if kind == "under ours" and known:
        kind, place = "core", f"{place} ({known})"
    return Verdict(kind, f"{error.get('node_type')}: {error.get('exception_type')}: {said}"[:1000], place)


def _blamed(trace: list[str]) -> tuple[str, str]:
    """Whose code a traceback ends in, libraries aside, and where."""
    frames = [match.groups() for line in trace for match in FRAME.finditer(line)]
    own = [(path, line, name) for path, line, name in frames if not any(part in path for part in LIBRARIES)]
    own = [frame for frame in own if _is_ours(frame[0]) or frame[0].startswith(comfy_path().as_posix())]
    if not own:
        return "core", ""
    path, line, name = own[-1]
    place = f"{path.rpartition('/custom_nodes/videocrafter/')[2].removeprefix(comfy_path().as_posix())}:{line} {name}"
    if _is_ours(path):
        return "ours", place
    return ("under ours" if any(_is_ours(frame[0]) for frame in own) else "core"), place


def _is_ours(path: str) -> bool:
    return any(part in path for part in OURS)


def _files(base: Base) -> set[str]:
    """Every file that is not where ComfyUI writes."""
    kept = ("output", "temp", "user", "custom_nodes")
    found = (path.relative_to(base.root) for path in base.root.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if path.parts[0] not in kept and path.suffix not in (".log", ".tmp")}


def _pixels(data: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def fixed(count: int) -> Mapping[str, Any]:
    """A short text-to-video run that is the same for each `count`, and that no cache has the frames of."""
    model = {"ckpt_name": FIXED_MODEL, "weight_dtype": "default", "preset": "auto"}
    settings = {"seed": 7, "steps": 2, "cfg": 3.0, "sampler_name": "ddim_exact", "scheduler": "uniform"}
    settings |= {"denoise": 1.0, "eta": 1.0, "fps": 0.0, "guidance_rescale": 0.0, "temporal_guidance": 0.0}
    links = {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["8", 0]}
    return {
        "1": _node("VideoCrafterCheckpointLoader", **model),
        "2": _node("CLIPTextEncode", clip=["1", 1], text="a red square"),
        "3": _node("CLIPTextEncode", clip=["1", 1], text=""),
        "4": _node("VideoCrafterEmptyLatent", width=40, height=24, frames=4),
        "8": _node("LatentFromBatch", samples=["4", 0], batch_index=0, length=4 + count % 60),
        "5": _node("VideoCrafterKSampler", **links, **settings),
        "6": _node("VideoCrafterDecode", samples=["5", 0], vae=["1", 2], frames_per_chunk=4),
        "7": _node("PreviewImage", images=["6", 0]),
    }


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}
