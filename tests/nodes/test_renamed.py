"""A node that gets another id: workflows saved with the earlier one keep working where ComfyUI can replace nodes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from comfyui.limits import skip_without

pytestmark = pytest.mark.weightless

OLD = "VideoCrafterLatentOfEarlier"


def entry(comfy):
    return comfy.module("nodes.host.replacing").Replacement(
        old_id=OLD,
        new_id="VideoCrafterEmptyLatent",
        widgets=("wide", "high", "length"),
        inputs={"width": "wide", "height": "high", "frames": "length"},
        outputs={0: 1},
    )


def load(comfy, monkeypatch, *entries):
    """Loads the extension as ComfyUI does, with these entries in its table."""
    monkeypatch.setattr(comfy.module("nodes.renamed"), "RENAMED", entries)
    extension = asyncio.run(comfy.module("nodes").comfy_entrypoint())
    asyncio.run(extension.on_load())
    return extension


@pytest.fixture
def manager(comfy, monkeypatch):
    """ComfyUI's own table of replacements, as a server holds it."""
    skip_without("replacement of renamed nodes")
    import server
    from app.node_replace_manager import NodeReplaceManager

    held = NodeReplaceManager()
    monkeypatch.setattr(server.PromptServer, "instance", SimpleNamespace(node_replace_manager=held), raising=False)
    return held


def test_a_prompt_with_the_earlier_id_runs_the_present_node(comfy, manager, monkeypatch):
    load(comfy, monkeypatch, entry(comfy))
    inputs = {"wide": 64, "high": 48, "length": 7}
    prompt = {
        "1": {"class_type": OLD, "inputs": inputs, "_meta": {"title": "old"}},
        "2": {"class_type": "VideoCrafterDecode", "inputs": {"samples": ["1", 1]}, "_meta": {"title": "next"}},
    }
    manager.apply_replacements(prompt)
    assert prompt["1"]["class_type"] == "VideoCrafterEmptyLatent"
    assert prompt["1"]["inputs"] == {"width": 64, "height": 48, "frames": 7}
    assert prompt["2"]["inputs"] == {"samples": ["1", 0]}
    (samples,) = comfy.call(prompt["1"]["class_type"], **prompt["1"]["inputs"]).values
    assert samples["samples"].shape == (7, 4, 6, 8)


def test_the_page_is_given_the_widgets_of_the_earlier_node(comfy, manager, monkeypatch):
    """It reads a saved workflow's widget values by their order."""
    load(comfy, monkeypatch, entry(comfy))
    (offered,) = manager.as_dict()[OLD]
    assert offered["old_widget_ids"] == ["wide", "high", "length"]
    assert offered["new_node_id"] == "VideoCrafterEmptyLatent"


def test_a_node_that_kept_its_inputs_needs_two_names_only(comfy, manager, monkeypatch):
    replacement = comfy.module("nodes.host.replacing").Replacement(OLD, "VideoCrafterDecode")
    load(comfy, monkeypatch, replacement)
    (offered,) = manager.as_dict()[OLD]
    assert (offered["input_mapping"], offered["output_mapping"], offered["old_widget_ids"]) == (None, None, None)


@pytest.mark.parametrize("lacks", ["class", "registry"])
def test_an_older_comfyui_loads_the_pack_all_the_same(comfy, monkeypatch, lacks):
    replacing = comfy.module("nodes.host.replacing")
    if lacks == "class":
        monkeypatch.delattr(replacing.io, "NodeReplace", raising=False)
    else:
        monkeypatch.setattr(replacing, "ComfyAPI", SimpleNamespace)
    extension = load(comfy, monkeypatch, entry(comfy))
    assert asyncio.run(extension.get_node_list())


def test_what_the_table_names_is_there_and_what_it_replaces_is_not(comfy):
    for item in comfy.module("nodes.renamed").RENAMED:
        assert item.old_id.startswith("VideoCrafter")
        assert item.old_id not in comfy.classes
        assert item.new_id in comfy.ours
        assert set(item.inputs) <= {entry.id for entry in comfy.classes[item.new_id].define_schema().inputs}
