"""What the widgets of a random graph hold: defaults, borders, values between them, texts of people and of nobody."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .grammar import DYNAMIC, Spec, choices, options, types

SIDES = (8, 16, 24, 40, 64)
"""Usual sides in pixels, next to the borders of a widget."""
MOST = {
    "steps": 4,
    "frames": 20,
    "batch_size": 3,
    "amount": 3,
    "free_init": 2,
    "scale_by": 2.0,
    "rounds": 2,
    "length": 20,
    "loop_count": 3,
}
"""The most of what takes time, and of everything else that is a number."""
MOST_SIDE, MOST_INT, MOST_FLOAT, MOST_MEGAPIXELS = 96, 64, 1000.0, 0.02
SIDE = re.compile(r"width|height|size|side|left|right|top|bottom|canvas|resolution|pixels|largest")
SEED = re.compile(r"seed")
FILE = re.compile(r"_name$|^file$|^image$")
CAREFUL = {"preset": 0.95, "weight_dtype": 0.9}
"""How often these keep their default, without which most graphs end at their loader."""
USUAL, FILES = 0.5, 0.8
"""How often a widget keeps its default, and names a file that a workflow does."""
TEXTS = (
    "a red square",
    "",
    "a (blue:1.3) circle that moves [left] BREAK on white",
    "ein größer Würfel 🟥 من اليسار",
    "embedding:none, ((a:0.2",
    "0: a red square\n8: a blue circle",
    "nan",
    "1, 2, 3",
)


class Values:
    """Draws values of widgets. examples: (node, input) -> values that people's workflows have."""

    def __init__(self, examples: Mapping[tuple[str, str], list[Any]]) -> None:
        self.examples = examples

    def draw(self, chance: random.Random, node: str, name: str, spec: Spec) -> Any:
        """A value of a widget."""
        kind = types(spec)[0]
        known = self.examples.get((node, name))
        if kind == "STRING":
            return self._text(chance, spec, known)
        if known and name not in CAREFUL and chance.random() < (FILES if FILE.search(name) else USUAL / 2):
            value = chance.choice(known)
            return _bounded(name, value) if kind in ("INT", "FLOAT") else value
        if kind in ("COMBO", DYNAMIC):
            return _choice(chance, name, spec)
        if kind == "BOOLEAN":
            return chance.random() < 0.5
        return _number(chance, name, spec, whole=kind == "INT")

    def _text(self, chance: random.Random, spec: Spec, known: list[Any] | None) -> str:
        usual = [options(spec).get("default", ""), *(known or [])]
        return str(chance.choice(usual if chance.random() < 0.7 else TEXTS))


def examples(folder: Path) -> dict[tuple[str, str], list[Any]]:
    """What the workflows in the API format in a folder hold, by node and input."""
    found: dict[tuple[str, str], list[Any]] = {}
    for file in sorted(folder.glob("*.json")):
        for node in json.loads(file.read_text(encoding="utf-8")).values():
            for name, value in node["inputs"].items():
                if not isinstance(value, list) and value not in found.setdefault((node["class_type"], name), []):
                    found[node["class_type"], name].append(value)
    return found


def most(name: str) -> float:
    """The largest number that an input of this name gets here, so that runs stay short."""
    last = name.rpartition(".")[2]
    if last in MOST:
        return MOST[last]
    if last == "megapixels":
        return MOST_MEGAPIXELS
    return MOST_SIDE if SIDE.search(last) else math.inf


def _bounded(name: str, value: float) -> float:
    return type(value)(min(value, most(name)))


def _choice(chance: random.Random, name: str, spec: Spec) -> Any:
    offered = [each["key"] if isinstance(each, Mapping) else each for each in choices(spec)]
    default = options(spec).get("default")
    return default if default in offered and chance.random() < CAREFUL.get(name, USUAL) else chance.choice(offered)


def _number(chance: random.Random, name: str, spec: Spec, *, whole: bool) -> float:
    said = options(spec)
    low, high = said.get("min", 0), said.get("max", 2**31)
    if whole and SEED.search(name):
        return chance.choice([low, high, chance.randint(0, 2**32)])
    limit = min(most(name), MOST_INT if whole else MOST_FLOAT)
    top = max(low, min(high, limit))
    bottom = max(low, -limit)
    default = said.get("default", bottom)
    if bottom <= default <= top and chance.random() < USUAL:
        return default
    sides = [side for side in SIDES if bottom <= side <= top] if whole and SIDE.search(name) else []
    if sides and chance.random() < 0.85:
        return chance.choice(sides)
    return _between(chance, bottom, top, said.get("step"), whole=whole)


def _between(chance: random.Random, bottom: float, top: float, step: float | None, *, whole: bool) -> float:
    """A border, or something between them, mostly a multiple of the step."""
    draw = chance.random()
    if draw < 0.3:
        return bottom if draw < 0.15 else top
    if whole:
        value = chance.randint(math.ceil(bottom), math.floor(top))
        fitting = bottom + (value - bottom) // int(step or 1) * int(step or 1)
        return int(fitting if chance.random() < 0.9 else value)
    return round(chance.uniform(bottom, top), 3)
