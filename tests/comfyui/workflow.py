"""From a workflow as the page saves it (format 0.4) to a prompt as the server takes it, without a browser.

In a saved workflow a node's widget values are a bare list; which value belongs to which input follows from the order of
the inputs in `/object_info`. That order is a contract with every saved workflow, and this module reads it the way the
page does: required inputs first, then optional ones; a seed is followed by its "control after generate" choice; the
choices of a dynamic combo bring their own widgets right behind it; a file picker is followed by its upload button.
Where a node is of another release, the page leaves out what it saved for widgets that the node here does not have, and
gives widgets that it did not know their defaults.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_MUTED, _BYPASSED = 2, 4
_WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR"}
_DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
_NOTES = {"Note", "MarkdownNote"}
_CONTROLS = {"fixed", "increment", "decrement", "randomize"}
_UPLOADS = ("image_upload", "video_upload", "audio_upload", "file_upload", "animated_image_upload")


class WorkflowError(ValueError):
    """The workflow does not fit the nodes that the server offers."""


def to_prompt(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt that the page would post for `workflow`.

    Args:
        workflow: the parsed JSON file, format 0.4, without subgraphs.
        object_info: what `/object_info` answers.

    Raises:
        WorkflowError: an unknown node, too few or too many widget values, or a link that leads nowhere.
    """
    if workflow.get("definitions", {}).get("subgraphs"):
        raise WorkflowError("the workflow holds subgraphs; only flat workflows can be turned into a prompt")
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link for link in workflow["links"]}
    graph = _Graph(nodes, links)
    prompt: dict[str, Any] = {}
    for node in nodes.values():
        kind = node["type"]
        if kind in _NOTES or kind in ("Reroute", "PrimitiveNode") or node.get("mode", 0) in (_MUTED, _BYPASSED):
            continue
        if kind not in object_info:
            raise WorkflowError(f"node {node['id']}: the server has no node {kind!r}")
        inputs = widget_values(node, object_info[kind]) | graph.linked(node)
        prompt[str(node["id"])] = {"class_type": kind, "inputs": inputs, "_meta": {"title": node.get("title", kind)}}
    return prompt


def widget_values(node: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    """The values of one node's widgets by input name, from its `widgets_values`."""
    given = node.get("widgets_values") or []
    if isinstance(given, Mapping):
        return {name: given[name] for name in widget_names(info, given) if name in given}
    values = _Values(node, list(given))
    for group in ("required", "optional"):
        values.take_all(info["input"].get(group, {}), _order(info, group))
    values.done()
    return values.taken


def widget_names(info: Mapping[str, Any], chosen: Mapping[str, Any] | None = None) -> list[str]:
    """The names of a node's widgets in their order; `chosen` opens the dynamic combos."""
    return [name for group in ("required", "optional") for name in _names(info["input"].get(group, {}), chosen or {})]


def _names(inputs: Mapping[str, Any], chosen: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, spec in inputs.items():
        if not _is_widget(spec):
            continue
        yield prefix + name
        for group in _branch(spec, chosen.get(prefix + name)):
            yield from _names(group, chosen, f"{prefix}{name}.")


def _order(info: Mapping[str, Any], group: str) -> Sequence[str]:
    return info.get("input_order", {}).get(group) or list(info["input"].get(group, {}))


def _options(spec: Sequence[Any]) -> Mapping[str, Any]:
    return spec[1] if len(spec) > 1 else {}


def _default(spec: Sequence[Any]) -> Any:
    choices = spec[0] if isinstance(spec[0], list) else _options(spec).get("options")
    first = choices[0] if choices else None
    return _options(spec).get("default", first["key"] if isinstance(first, Mapping) else first)


def _is_widget(spec: Sequence[Any]) -> bool:
    kind = spec[0]
    if any(_options(spec).get(option) for option in ("forceInput", "rawLink", "hidden")):
        return False
    return isinstance(kind, list) or kind == _DYNAMIC or any(part in _WIDGETS for part in str(kind).split(","))


def _branch(spec: Sequence[Any], value: Any) -> list[Mapping[str, Any]]:
    """The groups of inputs which the choice `value` of a dynamic combo opens."""
    if spec[0] != _DYNAMIC:
        return []
    for option in _options(spec)["options"]:
        if option["key"] == value:
            return [option["inputs"].get(group, {}) for group in ("required", "optional")]
    return []


class _Values:
    """The list of widget values of one node, taken from the front."""

    def __init__(self, node: Mapping[str, Any], rest: list[Any]) -> None:
        self._node = node
        self._rest = rest
        self._saved = {slot["name"] for slot in node.get("inputs", []) if slot.get("widget")}
        self.taken: dict[str, Any] = {}

    def take_all(self, inputs: Mapping[str, Any], order: Sequence[str], prefix: str = "") -> None:
        for name in order:
            spec = inputs[name]
            if not _is_widget(spec):
                continue
            value = self._next(prefix + name, spec)
            self.taken[prefix + name] = value
            self._skip_companion(name, spec)
            for group in _branch(spec, value):
                self.take_all(group, list(group), f"{prefix}{name}.")

    def done(self) -> None:
        """Values may be left for widgets that are saved by name and that the node does not have here."""
        if len(self._rest) > len(self._saved - self.taken.keys()):
            raise WorkflowError(f"{self._where()}: {len(self._rest)} widget values too many: {self._rest!r}")

    def _next(self, name: str, spec: Sequence[Any]) -> Any:
        if not self._rest:
            if self._saved and name not in self._saved:
                return _default(spec)
            raise WorkflowError(f"{self._where()}: no widget value is left for {name!r}")
        return self._rest.pop(0)

    def _skip_companion(self, name: str, spec: Sequence[Any]) -> None:
        """Takes away the value of a widget that exists in the page only."""
        control = _options(spec).get("control_after_generate", name in ("seed", "noise_seed") and spec[0] == "INT")
        if control and self._rest and self._rest[0] in _CONTROLS:
            self._rest.pop(0)
        if any(_options(spec).get(upload) for upload in _UPLOADS) and self._rest and self._rest[-1] == "image":
            self._rest.pop()

    def _where(self) -> str:
        return f"node {self._node['id']} ({self._node['type']})"


class _Graph:
    """Nodes and links; follows a link back through reroutes and bypassed nodes to the output that feeds it."""

    def __init__(self, nodes: Mapping[int, Mapping[str, Any]], links: Mapping[int, Sequence[Any]]) -> None:
        self._nodes = nodes
        self._links = links

    def linked(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """What comes in over links: `[node id, output]`, or the value itself where a primitive node holds it."""
        found: dict[str, Any] = {}
        for slot in node.get("inputs", []):
            if slot.get("link") is None:
                continue
            source = self._source(slot["link"], node)
            if source is not None:
                found[slot["name"]] = source
        return found

    def _source(self, link_id: int, target: Mapping[str, Any]) -> Any:
        if link_id not in self._links:
            raise WorkflowError(f"node {target['id']} ({target['type']}): link {link_id} is not in the workflow")
        _, origin, output, _, _, kind = self._links[link_id][:6]
        if origin not in self._nodes:
            raise WorkflowError(f"link {link_id} starts at node {origin}, which is not in the workflow")
        node = self._nodes[origin]
        if node.get("mode", 0) == _MUTED:
            return None
        if node["type"] == "PrimitiveNode":
            return node["widgets_values"][0]
        if node["type"] == "Reroute" or node.get("mode", 0) == _BYPASSED:
            return self._through(node, kind)
        return [str(origin), output]

    def _through(self, node: Mapping[str, Any], kind: str) -> Any:
        """The source of the first input that has the wanted type, as the page chooses it."""
        for slot in node.get("inputs", []):
            if slot.get("link") is not None and (node["type"] == "Reroute" or slot["type"] == kind):
                return self._source(slot["link"], node)
        return None
