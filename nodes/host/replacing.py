"""Renamed nodes: workflows saved with an earlier id open with the present node, if ComfyUI supports it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from comfy_api.latest import ComfyAPI, io


@dataclass(frozen=True)
class Replacement:
    """A former node id, and the node that replaces it.

    Args:
        old_id: the id that is no longer registered, as found in saved workflows.
        new_id: the id of the present node.
        widgets: names of the old node's widgets in order; a workflow file stores only their values.
        inputs: input of the new node -> input of the old one. Empty if all names are unchanged.
        outputs: output index of the new node -> output index of the old one. Empty if none has moved.
    """

    old_id: str
    new_id: str
    widgets: Sequence[str] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[int, int] = field(default_factory=dict)


async def register(replacements: Sequence[Replacement]) -> None:
    """Registers the replacements with ComfyUI. Does nothing on older versions, which have no such API."""
    offered = getattr(ComfyAPI(), "node_replacement", None)
    kind = getattr(io, "NodeReplace", None)
    if offered is None or kind is None:
        return
    for item in replacements:
        await offered.register(
            kind(
                new_node_id=item.new_id,
                old_node_id=item.old_id,
                old_widget_ids=list(item.widgets) or None,
                input_mapping=[{"new_id": new, "old_id": old} for new, old in item.inputs.items()] or None,
                output_mapping=[{"new_idx": new, "old_idx": old} for new, old in item.outputs.items()] or None,
            )
        )
