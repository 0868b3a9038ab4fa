"""Renamed nodes: saved workflows that hold an earlier name open with the present node, where ComfyUI offers that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from comfy_api.latest import ComfyAPI, io


@dataclass(frozen=True)
class Replacement:
    """A node that saved workflows know by `old_id`, and what is used in its place.

    Args:
        old_id: the id that is no longer registered.
        new_id: the id of the present node.
        widgets: the widgets of the old node in their order, which is how a workflow file stores their values.
        inputs: input of the new node -> input of the old one. Empty if all of them kept their names.
        outputs: output of the new node -> output of the old one, by position. Empty if none has moved.
    """

    old_id: str
    new_id: str
    widgets: Sequence[str] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[int, int] = field(default_factory=dict)


async def register(replacements: Sequence[Replacement]) -> None:
    """Makes these known to ComfyUI. Older versions have no means for it: there, nothing happens."""
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
