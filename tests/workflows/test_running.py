"""Every workflow on a real ComfyUI server: it fits the nodes there, and what it makes plays."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
import stand_ins

from comfyui.limits import skip_without
from comfyui.server import Server
from comfyui.workflow import to_prompt, widget_values

each = pytest.mark.parametrize("name", [file.stem for file in stand_ins.FILES])


@pytest.fixture(scope="module")
def info(server: Server, files: None):
    """What the nodes offer, now that the files are there."""
    return server.get("/object_info")


@pytest.fixture(scope="module")
def version(server: Server):
    """The release of ComfyUI, as saved workflows name it."""
    return server.get("/system_stats")["system"]["comfyui_version"]


@each
def test_workflow_fits_the_nodes_of_the_server(info, version, name):
    workflow = stand_ins.load(name)
    _skip_unless_there(workflow)
    for node in workflow["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        described = info[node["type"]]
        inputs = {**described["input"].get("required", {}), **described["input"].get("optional", {})}
        _check_slots(node, described, inputs, saved_by_this_host=node["properties"].get("ver") == version)
        for widget, value in widget_values(node, described).items():
            _check_value(node["type"], widget, value, inputs)
        required = {key for key, spec in described["input"].get("required", {}).items() if _is_socket(spec)}
        linked = {slot["name"] for slot in node.get("inputs", []) if slot["link"] is not None}
        assert required <= linked, f"{node['type']}: {required - linked} not connected"


def _skip_unless_there(workflow):
    if any(node["type"] == "FrameInterpolate" for node in workflow["nodes"]):
        skip_without("FrameInterpolate")


def _check_slots(node, described, inputs, saved_by_this_host):
    """All of them; of a core node of another release what is linked, as the page brings the rest up to date."""
    every = saved_by_this_host or node["type"].startswith("VideoCrafter")
    for slot in node.get("inputs", []):
        if not every and slot["link"] is None:
            continue
        assert slot["name"] in inputs, f"{node['type']} has no input {slot['name']}"
        kind = inputs[slot["name"]][0]
        assert slot["type"] == ("COMBO" if isinstance(kind, list) else kind)
    outputs = [(slot["type"], slot["name"]) for slot in node.get("outputs", [])]
    here = list(zip(described["output"], described["output_name"], strict=True))
    if every:
        assert outputs == here
    for place, slot in enumerate(node.get("outputs", [])):
        assert not slot["links"] or here[place][0] == slot["type"], f"{node['type']} has no output {slot['name']}"


def _is_socket(spec):
    """Whether an input has no widget; one of several types has one if the first type does."""
    widgets = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
    return isinstance(spec[0], str) and spec[0].split(",")[0] not in widgets


def _check_value(kind, widget, value, inputs):
    if widget not in inputs:
        return
    spec = inputs[widget]
    options = spec[1] if len(spec) > 1 else {}
    choices = spec[0] if isinstance(spec[0], list) else options.get("options")
    if choices and not isinstance(choices[0], dict):
        assert value in choices, f"{kind}.{widget}: {value!r} is not offered"
    if isinstance(value, int | float) and not isinstance(value, bool):
        assert options.get("min", value) <= value <= options.get("max", value), f"{kind}.{widget}: {value!r}"


@each
def test_workflow_makes_a_video_that_plays(server, info, name):
    workflow = stand_ins.load(name)
    _skip_unless_there(workflow)
    run = server.run(stand_ins.cut_down(to_prompt(workflow, info)), workflow=workflow)
    assert run.status == "success", run.error
    (shown,) = [file for file in run.files if file["filename"].endswith(".mp4")]
    assert shown["type"] == "output"
    video = stand_ins.decode(server.view(shown))
    count, width, height, rate = stand_ins.MADE[name]
    assert video.size == (count, width, height)
    assert video.rate == Fraction(rate)
    assert video.frames.std() > 1
    assert json.loads(video.tags["workflow"]) == workflow
    assert "class_type" in json.loads(video.tags["prompt"]).popitem()[1]


@pytest.mark.parametrize("way", ["freelong", "windows", "windows_fast", "continue", "fifo"])
def test_long_video_runs_in_every_way(server, info, way):
    """One workflow for all: its note names the ways of the widget, and what else to set for each."""
    prompt = to_prompt(stand_ins.load(stand_ins.LONG), info)
    (sampler,) = (node for node in prompt.values() if node["class_type"] == "VideoCrafterKSampler")
    sampler["inputs"]["long_video"] = way
    run = server.run(stand_ins.cut_down(prompt))
    assert run.status == "success", run.error
    (shown,) = [file for file in run.files if file["filename"].endswith(".mp4")]
    side = stand_ins.QUEUE_SIDE if way == "fifo" else 64
    assert stand_ins.decode(server.view(shown)).size == (stand_ins.LONG_FRAMES, side, side)
