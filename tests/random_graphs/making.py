"""Makes a random graph backwards, from the node that shows a result to the loaders."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .grammar import DYNAMIC, Grammar, Kind, Spec, choices, is_widget, types
from .values import Values

Prompt = dict[str, Any]

DEEPEST, MOST_NODES = 8, 14
"""Nodes in a row, and nodes of a graph, after which results are used again or made of as few nodes as possible."""
OPTIONAL, LINKED = 0.25, 0.03
"""How often an optional socket is connected, and a widget is."""
OURS, WORKING, OTHERS = 4.0, 1.5, 0.03
"""How often a node is taken where several fit: ours, those that are known to work with them, and all others."""
WEIGHTS = {
    "CLIPTextEncode": 40.0,
    "VAEDecode": 6.0,
    "VideoCrafterCLIPLoader": 1.0,
    "VideoCrafterCheckpointLoader": 24.0,
    "VideoCrafterDecode": 24.0,
    "VideoCrafterEmptyLatent": 12.0,
    "VideoCrafterImageConditioning": 2.0,
    "VideoCrafterKSampler": 24.0,
    "VideoCrafterUNETLoader": 1.0,
    "VideoCrafterVAELoader": 1.0,
    "VideoCrafterViewsToVideo": 1.0,
}
"""Of nodes that most workflows have, and of those that do not work with most models."""
SHOWING = 0.3
"""Of nodes that show something, where another node goes on from them."""
AGAIN = {"CLIP": 0.95, "VAE": 0.95, "CLIP_VISION": 0.95, "MODEL": 0.5, "IMAGE": 0.4}
AGAIN_OTHERS, SAME_SOURCE = 0.25, 0.9
"""How often a result of a type is used again, and a node without sockets is."""
GROWING = frozenset(
    {
        "FrameInterpolate",
        "ImageScaleBy",
        "ImageUpscaleWithModel",
        "LatentUpscaleBy",
        "RepeatImageBatch",
        "RepeatLatentBatch",
    }
)
"""Nodes that multiply sizes; each is in a graph once, so that its runs stay short."""


def make(grammar: Grammar, values: Values, seed: int) -> Prompt:
    """The graph of a seed: node id -> `{"class_type": ..., "inputs": {...}}`."""
    maker = _Maker(grammar, values, random.Random(seed))
    maker.end()
    return maker.prompt


@dataclass
class _Maker:
    """One graph in the making; nodes are in it once all before them are, so that there are no circles."""

    grammar: Grammar
    values: Values
    chance: random.Random
    prompt: Prompt = field(default_factory=dict)

    def end(self) -> None:
        """A node that shows a result, and all before it."""
        self.node(self._drawn(self.grammar.ends()), 0)

    def node(self, kind: Kind, depth: int) -> str:
        """Adds a node of this kind; gives its id."""
        inputs: dict[str, Any] = {}
        for group in ("required", "optional"):
            for name, spec in kind.inputs(group):
                inputs |= self._input(kind.name, name, spec, depth, needed=group == "required")
        number = str(len(self.prompt) + 1)
        self.prompt[number] = {"class_type": kind.name, "inputs": inputs}
        return number

    def _input(self, node: str, name: str, spec: Spec, depth: int, *, needed: bool) -> dict[str, Any]:
        if is_widget(spec):
            return self._widget(node, name, spec, depth)
        wanted = types(spec)
        if not needed and (self.chance.random() > OPTIONAL or not self.grammar.makers(wanted)):
            return {}
        return {name: self._link(wanted, depth + 1)}

    def _widget(self, node: str, name: str, spec: Spec, depth: int) -> dict[str, Any]:
        wanted = types(spec)
        if wanted[0] != DYNAMIC and self.chance.random() < LINKED and any(self._results(wanted)):
            return {name: self._used(wanted)}
        value = self.values.draw(self.chance, node, name, spec)
        found = {name: value}
        for inner, each in _opened(spec, value):
            found |= self._input(node, f"{name}.{inner}", each, depth, needed=True)
        return found

    def _link(self, wanted: Sequence[str], depth: int) -> list[Any]:
        """An output of one of these types, of a node that is there or a new one."""
        again = max(AGAIN.get(kind, AGAIN_OTHERS) for kind in wanted)
        if len(self.prompt) >= MOST_NODES:
            again = 1.0
        if any(self._results(wanted)) and self.chance.random() < again:
            return self._used(wanted)
        kind = self._kind(wanted, depth)
        there = [number for number, node in self.prompt.items() if node["class_type"] == kind.name]
        same = not kind.sockets and there and self.chance.random() < SAME_SOURCE
        number = self.chance.choice(there) if same else self.node(kind, depth)
        return [number, self.chance.choice([i for i, kind_ in enumerate(kind.outputs) if kind_ in wanted])]

    def _kind(self, wanted: Sequence[str], depth: int) -> Kind:
        short = depth >= DEEPEST or len(self.prompt) >= MOST_NODES
        makers = self.grammar.nearest(wanted) if short else self.grammar.makers(wanted)
        used = {node["class_type"] for node in self.prompt.values()}
        makers = [kind for kind in makers if kind.name not in used & GROWING] or makers
        return self._drawn(makers, ending=False)

    def _drawn(self, kinds: Sequence[Kind], *, ending: bool = True) -> Kind:
        """One of these nodes, by their weights."""
        weights = [_weight(kind, self.grammar) * (1.0 if ending or not kind.shows else SHOWING) for kind in kinds]
        return self.chance.choices(list(kinds), weights)[0]

    def _results(self, wanted: Sequence[str]) -> Iterator[list[Any]]:
        """The outputs of these types that the graph has."""
        outputs = {kind.name: kind.outputs for kind in self.grammar.kinds}
        for number, node in self.prompt.items():
            for place, kind in enumerate(outputs[node["class_type"]]):
                if kind in wanted:
                    yield [number, place]

    def _used(self, wanted: Sequence[str]) -> list[Any]:
        return list(self.chance.choice(list(self._results(wanted))))


def _weight(kind: Kind, grammar: Grammar) -> float:
    other = WORKING if kind.name in grammar.working else OTHERS
    return WEIGHTS.get(kind.name, OURS if kind.ours else other)


def _opened(spec: Spec, value: Any) -> Iterator[tuple[str, Spec]]:
    """The inputs that a choice of a dynamic list opens."""
    if types(spec)[0] != DYNAMIC:
        return
    for choice in choices(spec):
        if isinstance(choice, Mapping) and choice["key"] == value:
            for group in ("required", "optional"):
                yield from choice["inputs"].get(group, {}).items()
