"""Keeps the queue of the server filled, and fetches what is done.

A prompt has an id that follows from its line. A line is posted only if the server knows its id neither in its queue nor
in its history: after a restart of the server these are empty, and the line is posted again; after a restart of this
command they are not, and the line is followed further.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from tqdm import tqdm

from ..batch.manifest import DONE, Entry, Manifest
from ..files import placed
from ..terminal import say
from ..video import safe_name
from .filling import Filled
from .server import RefusedError, Server

log = logging.getLogger(__name__)

AHEAD = 4
"""Prompts in the queue of the server at once, so that others are served in between."""
PAUSE = 0.5


@dataclass(frozen=True)
class Line:
    """A line, or one combination of its values. file: the name of its result, without the ending."""

    line: int
    key: str
    values: Mapping[str, Any]
    workflow: str
    filled: Filled
    file: str


@dataclass
class Follower:
    """Posts lines to a server and fetches their results into the folder of a manifest."""

    server: Server
    manifest: Manifest
    quiet: bool
    failed: list[str] = field(default_factory=list)
    waiting: deque[Line] = field(default_factory=deque)
    posted: dict[str, Line] = field(default_factory=dict)

    def run(self, lines: Sequence[Line]) -> None:
        """Until every line is fetched or failed."""
        self.waiting.extend(lines)
        with tqdm(total=len(lines), unit="video", disable=True if self.quiet else None) as bar:
            while self.waiting or self.posted:
                self._post()
                self._look()
                bar.n = len(lines) - len(self.waiting) - len(self.posted)
                bar.refresh()
                if self.posted:
                    time.sleep(PAUSE)

    def _post(self) -> None:
        while self.waiting and len(self.posted) < AHEAD:
            line = self.waiting.popleft()
            wanted = self._id(line)
            known = wanted in self.server.queued() or self.server.history(wanted) is not None
            try:
                self.posted[wanted if known else self._submit(line, wanted)] = line
            except RefusedError as error:
                self._fail(line, str(error))

    def _submit(self, line: Line, wanted: str) -> str:
        for name, path in line.filled.uploads.items():
            self.server.upload(path, name)
        return self.server.post(line.filled.prompt, wanted)

    def _id(self, line: Line) -> str:
        """A failed line is posted under a new id."""
        entry = self.manifest.entries.get(line.key)
        return str(uuid.uuid5(uuid.NAMESPACE_URL, line.key + (entry.finished if entry else "")))

    def _look(self) -> None:
        """Fetches what is done, and posts again what the server has forgotten."""
        queued = self.server.queued()  # before the history: what leaves the queue enters the history at once
        for prompt_id, line in list(self.posted.items()):
            record = self.server.history(prompt_id)
            if record is None:
                if prompt_id not in queued:
                    log.warning("The server has forgotten line %d, which is posted again.", line.line)
                    del self.posted[prompt_id]
                    self.waiting.appendleft(line)
                continue
            del self.posted[prompt_id]
            try:
                self._finish(line, prompt_id, record)
            except RefusedError as error:
                self._fail(line, str(error))

    def _finish(self, line: Line, prompt_id: str, record: Mapping[str, Any]) -> None:
        status, files = record.get("status") or {}, _files(record)
        if status.get("status_str") != "success":
            self._fail(line, _reason(status))
            return
        if not files:
            self._fail(line, "The workflow saved no file. Add a node that saves one.")
            return
        names = self._names(line, files)
        for name, file in list(zip(names, files, strict=True))[1:]:
            with placed(self.manifest.folder / name, overwrite=True) as place:
                self.server.fetch(file, place.part)
        with placed(self.manifest.folder / names[0]) as place:
            self.server.fetch(files[0], place.part)
            size = place.part.stat().st_size
            self.manifest.add(_entry(line, prompt_id, names, size, _seconds(status)))  # named right after this
        say(f"line {line.line}: {place.final}")

    def _names(self, line: Line, files: Sequence[Mapping[str, str]]) -> list[str]:
        """Names of which the first is free; the further ones are numbered, and may be there from a killed process."""
        endings = [PurePosixPath(file["filename"]).suffix for file in files]
        stem, number = line.file, 2
        while True:
            names = [f"{stem}{f'_{index}' if index else ''}{ending}" for index, ending in enumerate(endings)]
            if not (self.manifest.folder / names[0]).exists():
                return names
            stem, number = f"{line.file}-{number}", number + 1

    def _fail(self, line: Line, reason: str) -> None:
        self.failed.append(f"line {line.line}")
        self.manifest.add_failure(line.key, line.line, line.values, reason)
        log.error("line %d: %s", line.line, reason)


def name_of_line(line: int, suffix: str) -> str:
    """The name of the results of a line, without the ending."""
    return safe_name(f"{line:04d}{suffix}")[0]


def _files(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """The files that the nodes saved; previews only if there are no others."""
    shown = [
        item
        for node in record.get("outputs", {}).values()
        for items in node.values()
        if isinstance(items, list)
        for item in items
        if isinstance(item, dict) and "filename" in item
    ]
    return [item for item in shown if item.get("type") == "output"] or shown


def _reason(status: Mapping[str, Any]) -> str:
    """Why a prompt was not finished."""
    for kind, about in status.get("messages", []):
        if kind == "execution_error":
            return f"{about.get('node_type')}: {str(about.get('exception_message')).strip()}"
    return "The run was interrupted on the server."


def _seconds(status: Mapping[str, Any]) -> float:
    """How long a prompt ran, by the clock of the server, which may have been set meanwhile."""
    times = {kind: about.get("timestamp") for kind, about in status.get("messages", [])}
    start, end = times.get("execution_start"), times.get("execution_success")
    return max(0.0, (end - start) / 1000) if start and end else 0.0


def _entry(line: Line, prompt_id: str, names: Sequence[str], size: int, seconds: float) -> Entry:
    prompt = next((str(value) for name, value in line.values.items() if "prompt" in name or "text" in name), "")
    settings = {"prompt": prompt, "workflow": line.workflow, "prompt_id": prompt_id, "files": list(names)}
    inputs = [node["inputs"] for node in line.filled.prompt.values()]
    seeds = [values[name] for values in inputs for name in ("seed", "noise_seed") if isinstance(values.get(name), int)]
    return Entry(
        key=line.key,
        line=line.line,
        status=DONE,
        given=dict(line.values),
        file=names[0],
        bytes=size,
        seconds=round(seconds, 3),
        seed=seeds[0] if seeds else 0,
        settings=settings,
    )
