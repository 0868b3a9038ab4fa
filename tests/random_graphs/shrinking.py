"""Makes a failing graph small, so that a person sees what it takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from comfyui.base import ROOT

from .grammar import Info, choices, is_widget, options
from .making import Prompt

Fails = Callable[[Prompt], bool]

CORPUS = ROOT / "tests" / "fuzz" / "corpus" / "graphs"


def keep(prompt: Prompt, name: str, said: str) -> Path:
    """Writes a failing graph, made small, into the corpus, with what was said of it. "now" is how it should end: a
    "user error", until the person who corrects it says otherwise."""
    CORPUS.mkdir(parents=True, exist_ok=True)
    file = CORPUS / f"{name}.json"
    text = json.dumps({"was": said.partition("\n")[0], "now": "user error", "prompt": prompt}, indent=1)
    file.write_text(text + "\n", encoding="utf-8")
    return file


def shrink(prompt: Prompt, info: Info, fails: Fails, tries: int = 150) -> Prompt:
    """The smallest graph found that still fails: without nodes that can be skipped, optional links and settings."""
    left = tries
    again = True
    while again and left > 0:
        again = False
        for smaller in _smaller(prompt, info):
            if left <= 0:
                break
            left -= 1
            if fails(smaller):
                prompt, again = smaller, True
                break
    return prompt


def _smaller(prompt: Prompt, info: Info) -> Iterator[Prompt]:
    yield from _skipped(prompt, info)
    for number, node in prompt.items():
        described = info[node["class_type"]]["input"]
        for name in node["inputs"]:
            if name in described.get("optional", {}):
                yield _changed(prompt, number, name, None)
            spec = described.get("required", {}).get(name) or described.get("optional", {}).get(name)
            if spec is not None and is_widget(spec) and _default(spec) not in (None, node["inputs"][name]):
                yield _changed(prompt, number, name, _default(spec))


def _skipped(prompt: Prompt, info: Info) -> Iterator[Prompt]:
    """Graphs in which a link goes past a node, to what that node itself takes of the same type."""
    for number, node in prompt.items():
        for name, value in node["inputs"].items():
            if not _is_link(value, prompt):
                continue
            before = prompt[value[0]]
            kind = info[before["class_type"]]["output"][value[1]]
            for link in before["inputs"].values():
                if _is_link(link, prompt) and info[prompt[link[0]]["class_type"]]["output"][link[1]] == kind:
                    yield _changed(prompt, number, name, link)


def _changed(prompt: Prompt, number: str, name: str, value: Any) -> Prompt:
    """The graph with one input changed, or left out, and without nodes that lead nowhere."""
    copy: Prompt = json.loads(json.dumps(prompt))
    if value is None:
        del copy[number]["inputs"][name]
    else:
        copy[number]["inputs"][name] = value
    return _used(copy)


def _used(prompt: Prompt) -> Prompt:
    """What the last node takes, which the graph was made backwards from."""
    last = list(prompt)[-1]
    kept, found = {last}, [last]
    while found:
        for value in prompt[found.pop()]["inputs"].values():
            if _is_link(value, prompt) and value[0] not in kept:
                kept.add(value[0])
                found.append(value[0])
    return {number: node for number, node in prompt.items() if number in kept}


def _is_link(value: Any, prompt: Prompt) -> bool:
    return isinstance(value, list) and len(value) == 2 and value[0] in prompt


def _default(spec: Any) -> Any:
    offered = choices(spec)
    first = offered[0]["key"] if offered and isinstance(offered[0], dict) else next(iter(offered), None)
    return options(spec).get("default", first)
