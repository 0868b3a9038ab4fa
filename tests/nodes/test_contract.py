"""What saved workflows rely on: ids, sockets, widgets and their order, as `/object_info` tells them.

`object_info.json` is the contract. A change that is meant is written down with

    VC_WRITE_OBJECT_INFO=1 python run.py test tests/nodes/test_contract.py

and its difference looked at: a renamed or moved widget breaks the workflows that people have saved.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest

from comfyui.base import ROOT

pytestmark = pytest.mark.weightless

SNAPSHOT = Path(__file__).with_name("object_info.json")
KEPT = (
    "input",
    "input_order",
    "output",
    "output_name",
    "output_tooltips",
    "name",
    "display_name",
    "description",
    "category",
    "output_node",
)
FILE_LISTS = ("ckpt_name", "unet_name", "vae_name", "clip_name", "lora_name")


def described(comfy):
    """Node id -> what the page receives, without what depends on the host (files, samplers, new fields)."""
    return {name: _settled(node) for name, node in sorted(comfy.ours.items())}


def _settled(node):
    info = node.GET_NODE_INFO_V1()
    info = json.loads(json.dumps(info if isinstance(info, dict) else dataclasses.asdict(info)))
    for name, spec in _inputs(info):
        spec[1].pop("advanced", None)
        options = spec[1].get("options")
        if name in FILE_LISTS:
            spec[1]["options"] = "files"
        elif name in ("statistics", "file", "temporal"):
            spec[1]["options"] = [*options[:1], "files"]
        elif name == "sampler_name":
            spec[1]["options"] = [*options[:2], "the host's"]
        elif name == "scheduler":
            spec[1]["options"] = [*options[:3], "the host's"]
    return {key: info[key] for key in KEPT}


def _inputs(info):
    groups = (info["input"].get(group, {}) for group in ("required", "optional"))
    return [item for group in groups for item in group.items()]


def test_contract_of_saved_workflows(comfy):
    now = json.dumps(described(comfy), indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("VC_WRITE_OBJECT_INFO"):
        SNAPSHOT.write_text(now, encoding="utf-8")
    ours, expected = json.loads(now), json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    kind, *_ = ours["VideoCrafterLongVideo"]["input"]["required"]["method"]
    if kind != "COMFY_DYNAMICCOMBO_V3":  # an older host, where the node has names without settings
        del ours["VideoCrafterLongVideo"], expected["VideoCrafterLongVideo"]
    assert ours == expected


def test_everything_is_explained(comfy):
    for name, info in described(comfy).items():
        assert info["description"], name
        assert info["category"].startswith("VideoCrafter"), name
        assert info["display_name"].startswith("VideoCrafter "), name
        assert all(info["output_tooltips"]), name
        for widget, spec in _inputs(info):
            assert len(spec[1].get("tooltip", "")) > 10, f"{name}.{widget}"


def test_ids_are_literals_that_scanners_can_read(comfy):
    """All but those of controls, which are the titles of their records."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "nodes").glob("*.py"))
    controls = {node.__name__ for node in comfy.module("nodes.controls").NODES}
    assert set(re.findall(r'node_id="(\w+)"', source)) | controls == set(comfy.ours)
    assert all(re.fullmatch(r"VideoCrafter[A-Z]\w+", name) for name in controls)


@pytest.mark.parametrize("name", ["VideoCrafterKSampler", "VideoCrafterSampler"])
def test_our_own_choices_come_first(comfy, name):
    choices = comfy.classes[name].INPUT_TYPES()["required"]
    key = "sampler_name" if name.endswith("KSampler") else "sampler"
    assert choices[key][1]["options"][0] == "ddim_exact"


def test_older_hosts_get_only_what_they_know(comfy):
    compat = comfy.module("nodes.host.compat")

    def old(name):
        return name

    def new(name, search_aliases=None):
        return name

    assert compat.known(old, search_aliases=["a"]) == {}
    assert compat.known(new, search_aliases=["a"], other=1) == {"search_aliases": ["a"]}
    assert compat.known(lambda **anything: None, other=1) == {"other": 1}
