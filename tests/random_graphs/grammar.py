"""Which nodes a random graph may have, and what fits where, as `/object_info` says it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Info = Mapping[str, Any]
Spec = Sequence[Any]

WIDGETS = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"})
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
OURS = "VideoCrafter"

LEFT_OUT = re.compile(
    r"^(Checkpoint|Model|CLIP|VAE|Lora|ImageOnlyCheckpoint|LoraModel)Save$|^Save(LoRA|Lora|Training)|Train|Data[Ss]et|"
    r"DiffControlNet|TorchCompile|Webcam|^Load3D|^Preview3D|^(Wan|LTX|Hunyuan|Cosmos|Kling)"
)
"""Nodes that write models, train or compile them, wait for a page, or are for one family of other
models."""
OTHERS = frozenset({"MODEL", "CLIP", "VAE", "CLIP_VISION", "CONTROL_NET", "STYLE_MODEL"})
"""ComfyUI's own loaders of these do not read our files, and a graph with one of them would end there."""


@dataclass(frozen=True)
class Kind:
    """A node that a graph may have. info: what `/object_info` says of it."""

    name: str
    info: Info

    @property
    def ours(self) -> bool:
        """Whether it belongs to this pack."""
        return self.name.startswith(OURS)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The types of its outputs."""
        return tuple(kind if isinstance(kind, str) else "COMBO" for kind in self.info["output"])

    @property
    def shows(self) -> bool:
        """Whether a graph may end with it."""
        return bool(self.info.get("output_node"))

    @property
    def sockets(self) -> tuple[tuple[str, ...], ...]:
        """The types that each of its required sockets takes."""
        return tuple(types(spec) for _, spec in self.inputs("required") if not is_widget(spec))

    def inputs(self, group: str) -> Iterator[tuple[str, Spec]]:
        """The names and specs of its "required" or "optional" inputs."""
        yield from self.info["input"].get(group, {}).items()


def types(spec: Spec) -> tuple[str, ...]:
    """The types that an input takes."""
    return ("COMBO",) if isinstance(spec[0], list) else tuple(str(spec[0]).split(","))


def options(spec: Spec) -> Info:
    """What is said of an input beside its type."""
    return spec[1] if len(spec) > 1 else {}


def is_widget(spec: Spec) -> bool:
    """Whether an input holds a value; others need a link."""
    if options(spec).get("forceInput"):
        return False
    return types(spec)[0] in WIDGETS or types(spec)[0] == DYNAMIC


def choices(spec: Spec) -> list[Any]:
    """The values that a list offers."""
    return list(spec[0] if isinstance(spec[0], list) else options(spec).get("options") or [])


class Grammar:
    """The nodes of a server that graphs are made of: ours, and ComfyUI's that take or give a type of ours.

    working: ComfyUI's nodes that are known to work with ours.
    """

    def __init__(self, info: Info, working: Collection[str] = ()) -> None:
        self.working = frozenset(working)
        kinds = [Kind(name, each) for name, each in sorted(info.items())]
        shared = {kind for each in kinds if each.ours for kind in _sockets(each)} - WIDGETS
        self.depth: dict[str, int] = {}
        """Type -> how many nodes it takes to make it."""
        self.kinds = self._makeable([each for each in kinds if _allowed(each) and (shared & _sockets(each))])

    def makers(self, wanted: Sequence[str]) -> list[Kind]:
        """The nodes that have an output of one of these types."""
        return [kind for kind in self.kinds if set(kind.outputs) & set(wanted)]

    def nearest(self, wanted: Sequence[str]) -> list[Kind]:
        """Those of them that need the fewest nodes before them."""
        makers = self.makers(wanted)
        least = min((self.cost(kind) for kind in makers), default=0)
        return [kind for kind in makers if self.cost(kind) == least]

    def cost(self, kind: Kind) -> int:
        """How many nodes at least are in a row that ends with this one."""
        return 1 + max((self._reach(wanted) for wanted in kind.sockets), default=0)

    def ends(self) -> list[Kind]:
        """The nodes that a graph may end with."""
        return [kind for kind in self.kinds if kind.shows]

    def _reach(self, wanted: Sequence[str]) -> int:
        return min((self.depth[kind] for kind in wanted if kind in self.depth), default=10**6)

    def _makeable(self, kinds: list[Kind]) -> list[Kind]:
        """Those whose required sockets can all be filled, with the least depth of each type."""
        found: dict[str, Kind] = {}
        for depth in range(1, len(kinds) + 1):
            new = [each for each in kinds if each.name not in found and self.cost(each) <= depth]
            if not new and depth > 1 and not any(value == depth - 1 for value in self.depth.values()):
                break
            found |= {each.name: each for each in new}
            for each in new:
                for kind in each.outputs:
                    self.depth.setdefault(kind, depth)
        return [each for each in kinds if each.name in found]


def working(document: str) -> set[str]:
    """The nodes that have the verdict "works" in docs/compatibility.md."""
    rows = [line.strip("|").split("|") for line in document.splitlines() if line.startswith("| ")]
    named = [row[0] for row in rows if len(row) == 4 and row[1].strip() == "works"]
    return {name for cell in named for name in re.findall(r"`([^`]+)`", cell)}


def _sockets(kind: Kind) -> set[str]:
    """Every type that a node takes or gives."""
    taken = {each for group in ("required", "optional") for _, spec in kind.inputs(group) for each in types(spec)}
    return taken | set(kind.outputs)


def _allowed(kind: Kind) -> bool:
    """Whether a node is of use here: no loader of other models, nothing that trains, and all its lists have entries."""
    required = list(kind.inputs("required"))
    if LEFT_OUT.search(kind.name) or kind.info.get("api_node") or kind.info.get("deprecated"):
        return False
    if any(types(spec)[0].startswith("COMFY_") and types(spec)[0] != DYNAMIC for _, spec in required):
        return False
    if any(types(spec)[0] == "COMBO" and not choices(spec) for _, spec in required):
        return False
    return kind.ours or bool(kind.sockets) or not (set(kind.outputs) & OTHERS)
