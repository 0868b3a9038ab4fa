"""Every workflow in the real page: dropped on the canvas, run, and its video played.

Runs where the package `playwright` and a Chromium are installed; `VC_CHROMIUM` names the browser's file. Screenshots
go into the folder of `VC_SHOTS`, or into pytest's own.
"""

from __future__ import annotations

import importlib.util
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import stand_ins

from browser.canvas import browser_file, opened
from comfyui.base import PACK, ROOT

needs_browser = pytest.mark.skipif(
    importlib.util.find_spec("playwright") is None or browser_file() is None,
    reason="needs a browser: `pip install playwright`, and a Chromium in the path or named in VC_CHROMIUM",
)
pytestmark = needs_browser


@pytest.fixture(scope="module")
def canvas(base, server):
    stand_ins.put(base)
    with opened(server.url) as page:
        yield page


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    named = os.environ.get("VC_SHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("shots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _cut_down(canvas, name):
    for kind in ("VideoCrafterKSampler", "KSampler"):
        canvas.set(kind, "steps", stand_ins.STEPS)
    if name.endswith("_small"):
        return
    sizes = {"width": stand_ins.WIDTH, "height": stand_ins.HEIGHT}
    for widget, value in {**sizes, "frames": stand_ins.FRAMES}.items():
        canvas.set("VideoCrafterEmptyLatent", widget, value)
    for scaling in stand_ins.nodes_of(stand_ins.load(name), "ImageScale"):
        times = scaling["widgets_values"][1] // 512
        for widget, value in sizes.items():
            canvas.set("ImageScale", widget, times * value)
    canvas.set("ImageFromBatch", "length", stand_ins.FRAMES)


def _values(graph):
    """Node -> its widgets' values; a page writes those of a node without widgets as an empty list or not at all."""
    return {node["id"]: node.get("widgets_values") or [] for node in graph["nodes"]}


@pytest.mark.parametrize("name", [file.stem for file in stand_ins.FILES])
def test_workflow_is_dropped_runs_and_plays(canvas, shots, name):
    workflow = stand_ins.load(name)
    canvas.drop(stand_ins.FOLDER / f"{name}.json")
    seen = canvas.look()
    assert seen["missing"] == []
    assert seen["invalid"] == []
    assert seen["overlaps"] == seen["outside"] == []
    assert seen["dialogs"] == []
    assert _values(seen["graph"]) == _values(workflow)
    assert len(seen["graph"]["links"]) == len(workflow["links"])

    _cut_down(canvas, name)
    ended = canvas.run()
    assert ended["end"] == "execution_success", ended["detail"].get("exception_message")
    assert ended["previews"] > 0
    (video,) = canvas.play()
    canvas.shot(shots / f"{name}.png")
    assert video["error"] is None
    assert video["width"] >= stand_ins.WIDTH
    assert video["at"] == video["seconds"] > 0, "it plays to its end"


def test_nodes_have_room_in_the_modern_look(canvas, shots):
    canvas.modern(True)
    try:
        for file in stand_ins.FILES:
            canvas.drop(file)
            canvas.shot(shots / f"{file.stem}_modern.png")
            seen = canvas.look()
            assert seen["overlaps"] == seen["outside"] == [], file.stem
    finally:
        canvas.modern(False)


def test_a_video_dropped_on_the_canvas_restores_its_workflow(canvas, server, tmp_path):
    workflow = stand_ins.load("text_to_video_small")
    prompt = stand_ins.cut_down(server.to_prompt(workflow))
    with ThreadPoolExecutor(1) as pool:  # the page has this thread's event loop
        run = pool.submit(server.run, prompt, workflow=workflow).result()
    (tmp_path / "made.mp4").write_bytes(server.view(run.files[0]))
    canvas.drop(tmp_path / "made.mp4")
    types = sorted(node["type"] for node in canvas.look()["graph"]["nodes"])
    assert types == sorted(node["type"] for node in workflow["nodes"])


def test_blueprints_unfold_and_run(canvas, server, tmp_path):
    for file in sorted((ROOT / "subgraphs").glob("*.json")):
        blueprint = json.loads(file.read_text(encoding="utf-8"))
        (tmp_path / "blueprint.json").write_text(json.dumps(blueprint), encoding="utf-8")
        canvas.drop(tmp_path / "blueprint.json")
        seen = canvas.look()
        assert seen["missing"] == []
        assert seen["dialogs"] == []
        (node,) = seen["graph"]["nodes"]
        prompt = canvas.page.evaluate("async () => (await app.graphToPrompt()).output")
        kinds = {inner["class_type"] for inner in prompt.values()}
        assert {"VideoCrafterCheckpointLoader", "VideoCrafterKSampler", "VideoCrafterDecode", "CreateVideo"} <= kinds
        assert node.get("title", file.stem) == file.stem, "the page leaves out a title that is the name of the type"


def test_help_page_opens(canvas):
    page = canvas.page
    page.evaluate(
        """() => { app.graph.clear(); const node = LiteGraph.createNode('VideoCrafterKSampler');
        node.pos = [300, 200]; app.graph.add(node); app.canvas.selectNode(node); }"""
    )
    text = page.evaluate(f"async () => (await fetch('/extensions/{PACK}/docs/VideoCrafterKSampler.md')).text()")
    assert text.startswith("# VideoCrafter KSampler")
