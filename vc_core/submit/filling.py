"""A workflow in the API format, and its widgets by name: the title, class or id of a node, a dot, and the widget."""

from __future__ import annotations

import copy
import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..batch.lines import NO, YES
from ..batch.reading import name_of
from ..errors import UserError
from ..files import expanded, is_file
from ..json_text import parse

UPLOADS = ("image_upload", "video_upload", "audio_upload", "file_upload")


@dataclass(frozen=True)
class Filled:
    """A prompt for the server, and the local files that it names, by the names that they get there."""

    prompt: dict[str, Any]
    uploads: dict[str, Path]


class Workflow:
    """A workflow whose widgets are filled by name. nodes: the server's, see `Server.nodes`."""

    def __init__(self, prompt: Mapping[str, Any], nodes: Mapping[str, Any]) -> None:
        self.prompt, self.nodes = prompt, nodes
        self.widgets: dict[str, list[tuple[str, str]]] = {}
        for key, node in prompt.items():
            own = [name for name, value in node["inputs"].items() if not isinstance(value, list)]
            title = str(node.get("_meta", {}).get("title", ""))
            for widget in own:
                places = [f"{place}.{widget}" for place in (title, node["class_type"], key) if place]
                for name in {name_of(each) for each in (widget, *places, *([title] if len(own) == 1 else []))}:
                    self.widgets.setdefault(name, []).append((key, widget))

    def fill(self, values: Mapping[str, Any]) -> Filled:
        """The workflow with these values in its widgets. Raises UserError for a widget that it does not have, or has
        several times, and for a value that the widget cannot have."""
        made, uploads = copy.deepcopy(dict(self.prompt)), {}
        for name, value in values.items():
            key, widget = self._find(name)
            spec = self._spec(made[key]["class_type"], widget)
            if any(_about(spec).get(upload) for upload in UPLOADS) and str(value) not in _choices(spec):
                path = _local(name, value)
                value = f"{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}{path.suffix.lower()}"
                uploads[value] = path
            else:
                value = _converted(name, value, spec, made[key]["inputs"][widget])
            made[key]["inputs"][widget] = value
        return Filled(made, uploads)

    def _find(self, name: str) -> tuple[str, str]:
        found = self.widgets.get(name, [])
        if len(found) == 1:
            return found[0]
        if found:
            titles = [self.prompt[key].get("_meta", {}).get("title") or key for key, _ in found]
            names = ", ".join(f"{title}.{widget}" for title, (_, widget) in zip(titles, found, strict=True))
            raise UserError(f"{len(found)} nodes have a widget {name!r}. Name one of them: {names}.")
        near = difflib.get_close_matches(name, self.widgets, n=3)
        cure = f"Did you mean {' or '.join(near)}?" if near else f"It has {', '.join(sorted(self.widgets)[:40])}."
        raise UserError(f"The workflow has no widget {name!r}. {cure}")

    def _spec(self, kind: str, widget: str) -> list[Any]:
        """How the server describes a widget; empty for one inside of a choice."""
        inputs = self.nodes[kind]["input"]
        return list({**inputs.get("optional", {}), **inputs.get("required", {})}.get(widget, []))


def load_workflow(path: Path, nodes: Mapping[str, Any]) -> Workflow:
    """A workflow from its file. Raises UserError for what is not one in the API format, or needs missing nodes."""
    try:
        prompt = parse(expanded(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"The workflow {str(path)!r} cannot be read ({error}). Check the name and the folder."
        ) from error
    if not isinstance(prompt, dict) or not prompt or not all(map(_is_node, prompt.values())):
        raise UserError(
            f"{str(path)!r} is not a workflow in the API format. Choose one of workflows/api, or export it: File > "
            "Export (API) in ComfyUI."
        )
    missing = sorted({node["class_type"] for node in prompt.values()} - set(nodes))
    if missing:
        raise UserError(
            f"The server has no node {', '.join(missing)}, which {str(path)!r} needs. Install its pack there."
        )
    return Workflow(prompt, nodes)


def _is_node(found: Any) -> bool:
    """Whether a value has what the API format says about a node."""
    return (
        isinstance(found, dict)
        and isinstance(found.get("class_type"), str)
        and isinstance(found.get("inputs"), dict)
        and isinstance(found.get("_meta", {}), dict)
    )


def _about(spec: list[Any]) -> Mapping[str, Any]:
    return spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}


def _choices(spec: list[Any]) -> list[Any]:
    found = spec[0] if spec and isinstance(spec[0], list) else _about(spec).get("options") or []
    return [each["key"] if isinstance(each, dict) else each for each in found]


def _local(name: str, value: Any) -> Path:
    path = expanded(str(value))
    if not is_file(path):
        raise UserError(f"{name} is {value!r}, which is neither a file here nor one in the server's input folder.")
    return path


def _converted(name: str, value: Any, spec: list[Any], now: Any) -> Any:
    """The value in the type of the widget, within its range. now: the value in the workflow, for its type."""
    if _choices(spec):
        return _chosen(name, value, _choices(spec))
    kind = spec[0] if spec and isinstance(spec[0], str) else ""
    typed = _typed(name, value, {"INT": int, "FLOAT": float, "BOOLEAN": bool}.get(kind, str if kind else type(now)))
    if isinstance(typed, int | float) and not isinstance(typed, bool):
        least, most = _about(spec).get("min", typed), _about(spec).get("max", typed)
        if not least <= typed <= most:
            raise UserError(f"{name} is {typed}; the widget allows {least} to {most}.")
    return typed


def _chosen(name: str, value: Any, choices: list[Any]) -> Any:
    for each in choices:
        if str(each) == str(value):
            return each
    near = difflib.get_close_matches(str(value), list(map(str, choices)), n=1)
    raise UserError(f"{name} is {value!r}. Allowed: {', '.join(map(str, near or choices[:30]))}.")


def _typed(name: str, value: Any, kind: type) -> Any:
    if kind is bool:
        if str(value).lower() not in YES + NO:
            raise UserError(f"{name} is {value!r}; it should be true or false.")
        return str(value).lower() in YES
    if kind not in (int, float):
        return str(value)
    try:
        if isinstance(value, bool):
            raise ValueError
        return kind(value) if kind is float or not isinstance(value, float) else kind(str(value))
    except (ValueError, TypeError) as error:
        raise UserError(f"{name} is {value!r}; it should be a {'whole ' if kind is int else ''}number.") from error
