"""A ComfyUI server of the tests' own, and a client that speaks to it as the page does."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import workflow as workflows
from .base import Base, comfy_path

_BOOT_SECONDS = 300.0
_ENDS = {"execution_success": "success", "execution_error": "error", "execution_interrupted": "interrupted"}
_PREVIEW, _PREVIEW_WITH_METADATA = 1, 4


@dataclass(frozen=True)
class Preview:
    """A picture that the server sent while a node ran: the node's id ("" on an older server) and the encoded file."""

    node: str
    data: bytes


@dataclass(frozen=True)
class Event:
    """One message of the server: its type (`progress`, `executing`, `executed`, `preview`...), and what it carries."""

    type: str
    data: Mapping[str, Any]


@dataclass
class Run:
    """A prompt from its posting to its end.

    `status` is "success", "error", "interrupted", or "refused" when the server did not take the prompt (HTTP 400).
    `error` is the server's message (`node_id`, `node_type`, `exception_message`...), or the body of the refusal.
    `outputs` is what `/history` holds: node id -> `{"images": [{filename, subfolder, type}], ...}`.
    `progress` is node id -> list of (value, max). `cached` are the ids of nodes that did not run again.
    """

    status: str
    prompt_id: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    progress: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    previews: list[Preview] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[dict[str, str]]:
        """Every file that a node shows, for `Server.view`."""
        return [
            item
            for shown in self.outputs.values()
            for items in shown.values()
            if isinstance(items, list)
            for item in items
            if isinstance(item, dict) and "filename" in item
        ]


class Server:
    """ComfyUI in a process of its own, with `base` as its base directory. A context manager.

    Args:
        base: from `make_base`.
        options: further words for ComfyUI's command line, such as `("--disable-metadata",)`.
        cpu: runs on the CPU; False leaves the choice of the device to ComfyUI.
    """

    def __init__(self, base: Base, options: Sequence[str] = (), *, cpu: bool = True) -> None:
        self.base = base
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_file = base.root / f"server-{self.port}.log"
        self._object_info: dict[str, Any] | None = None
        command = [sys.executable, str(comfy_path() / "main.py"), *(["--cpu"] if cpu else []), "--port", str(self.port)]
        command += ["--base-directory", str(base.root), "--database-url", "sqlite:///:memory:", "--disable-api-nodes"]
        command += ["--preview-method", "auto", *options]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=base.root
            )

    def __enter__(self) -> Server:
        self._wait_until_up()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the server's process."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def log(self) -> str:
        """Everything the server has written so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def rss(self) -> int:
        """Resident memory of the server in bytes."""
        import psutil

        return int(psutil.Process(self._process.pid).memory_info().rss)

    def get(self, path: str) -> Any:
        """The JSON answer to a GET, such as `server.get("/system_stats")`."""
        import requests

        answer = requests.get(self.url + path, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, body: Mapping[str, Any]) -> None:
        """Posts JSON where no answer is awaited, such as `server.post("/free", {"unload_models": True})`."""
        import requests

        requests.post(self.url + path, json=body, timeout=60).raise_for_status()

    def object_info(self) -> dict[str, Any]:
        """Every node's inputs and outputs, asked for once; model lists may have grown since."""
        if self._object_info is None:
            self._object_info = self.get("/object_info")
        return self._object_info

    def upload(self, picture: Path | bytes, name: str = "") -> str:
        """Puts a picture into the input folder over HTTP; gives the name to write into `LoadImage`."""
        import requests

        data = picture if isinstance(picture, bytes) else picture.read_bytes()
        title = name or (picture.name if isinstance(picture, Path) else "picture.png")
        answer = requests.post(
            self.url + "/upload/image", files={"image": (title, data)}, data={"overwrite": "true"}, timeout=60
        )
        answer.raise_for_status()
        return str(answer.json()["name"])

    def view(self, file: Mapping[str, str]) -> bytes:
        """The content of a file that a run shows (`run.files[0]`)."""
        import requests

        wanted = {key: file[key] for key in ("filename", "subfolder", "type") if key in file}
        answer = requests.get(self.url + "/view", params=wanted, timeout=60)
        answer.raise_for_status()
        return answer.content

    def history(self, prompt_id: str) -> dict[str, Any]:
        """What `/history` holds of a prompt; empty when it is not there."""
        found = self.get(f"/history/{prompt_id}").get(prompt_id)
        return found or {}

    def interrupt(self) -> None:
        """What the page's Cancel does."""
        self.post("/interrupt", {})

    def to_prompt(self, workflow: Mapping[str, Any]) -> dict[str, Any]:
        """A workflow as the page saves it, turned into a prompt."""
        return workflows.to_prompt(workflow, self.object_info())

    def run(
        self,
        prompt: Mapping[str, Any],
        *,
        workflow: Mapping[str, Any] | None = None,
        on_event: Callable[[Event], None] | None = None,
        timeout: float = 600.0,
    ) -> Run:
        """Posts a prompt and follows it over the websocket to its end.

        Args:
            prompt: node id -> `{"class_type": ..., "inputs": {...}}`; a link is `[node id, output]`.
            workflow: goes along for the nodes that write it into their files.
            on_event: sees every event at once; may call `server.interrupt()`.
            timeout: seconds without any message after which TimeoutError is raised.
        """
        return asyncio.run(self._run(prompt, workflow, on_event, timeout))

    async def _run(
        self,
        prompt: Mapping[str, Any],
        workflow: Mapping[str, Any] | None,
        on_event: Callable[[Event], None] | None,
        timeout: float,
    ) -> Run:
        import aiohttp

        client = uuid.uuid4().hex
        body: dict[str, Any] = {"prompt": prompt, "client_id": client}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        async with (
            aiohttp.ClientSession(self.url) as session,
            session.ws_connect(f"/ws?clientId={client}", max_msg_size=0) as ws,
        ):
            await ws.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
            async with session.post("/prompt", json=body) as answer:
                said = await answer.json()
                if answer.status == 400:
                    return Run("refused", error=said)
                answer.raise_for_status()
            run = Run("", prompt_id=said["prompt_id"])
            while not run.status:
                message = await asyncio.wait_for(ws.receive(), timeout)
                if message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                    raise ConnectionError(f"the server went away:\n{self.log[-4000:]}")
                event = _note(run, message.data)
                if event is not None and on_event is not None:
                    await asyncio.to_thread(on_event, event)
        run.outputs = (await asyncio.to_thread(self._finished, run.prompt_id)).get("outputs", {})
        return run

    def _finished(self, prompt_id: str) -> dict[str, Any]:
        """The history appears a moment after the last message."""
        for _ in range(100):
            found = self.history(prompt_id)
            if found:
                return found
            time.sleep(0.05)
        return {}

    def _wait_until_up(self) -> None:
        import requests

        end = time.monotonic() + _BOOT_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"ComfyUI ended with {self._process.returncode} before it was up:\n{self.log[-6000:]}"
                )
            try:
                requests.get(self.url + "/system_stats", timeout=5).raise_for_status()
                return
            except requests.RequestException:
                time.sleep(0.25)
        self.close()
        raise TimeoutError(f"ComfyUI was not up after {_BOOT_SECONDS:.0f} s:\n{self.log[-6000:]}")


def _note(run: Run, data: str | bytes) -> Event | None:
    """Writes one message into the run; None when it is of no interest."""
    event = _preview(data) if isinstance(data, bytes) else _message(run, data)
    if event is None:
        return None
    run.events.append(event)
    if event.type == "preview":
        run.previews.append(Preview(event.data["node"], event.data["image"]))
    elif event.type == "progress":
        run.progress.setdefault(str(event.data["node"]), []).append((event.data["value"], event.data["max"]))
    elif event.type == "execution_cached":
        run.cached = list(event.data["nodes"])
    elif event.type in _ENDS:
        run.status = _ENDS[event.type]
        run.error = dict(event.data) if run.status != "success" else None
    return event


def _message(run: Run, data: str) -> Event | None:
    message = json.loads(data)
    content = message.get("data") or {}
    mine = content.get("prompt_id") in (None, run.prompt_id)
    return Event(message["type"], content) if mine and message["type"] not in ("status", "feature_flags") else None


def _preview(data: bytes) -> Event | None:
    """A binary message: four bytes of type, then a header, then the encoded picture."""
    kind, size = struct.unpack(">II", data[:8])
    if kind == _PREVIEW_WITH_METADATA:
        about = json.loads(data[8 : 8 + size])
        return Event("preview", {"node": str(about.get("node_id", "")), "image": data[8 + size :]})
    return Event("preview", {"node": "", "image": data[8:]}) if kind == _PREVIEW else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
