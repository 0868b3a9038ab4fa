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

THUMBNAIL = 192
"""Pixels of a thumbnail at least; pictures of the page itself are smaller."""


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


def test_blueprints_unfold_and_run(canvas, shots, tmp_path):
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
        canvas.inside(file.stem)
        canvas.shot(shots / f"blueprint_{file.stem.split(' (')[0].replace(' ', '_')}.png")
        seen = canvas.look()
        canvas.inside("")
        assert seen["overlaps"] == seen["outside"] == []


def test_templates_are_offered_with_their_pictures(canvas, shots):
    canvas.command("Comfy.BrowseTemplates")
    canvas.page.get_by_text(PACK, exact=True).first.click()
    canvas.page.wait_for_timeout(2000)
    canvas.picture(shots / "page_templates.png")
    names = [file.stem for file in stand_ins.FILES if file.stem in canvas.text()]
    widths = canvas.page.evaluate("() => [...document.querySelectorAll('img')].map(picture => picture.naturalWidth)")
    canvas.close()
    assert len(names) >= 4
    assert len([width for width in widths if width >= THUMBNAIL]) >= 4, "the page draws those in sight"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("videocrafter", "VideoCrafter KSampler"),
        ("i2v", "VideoCrafter Image Conditioning"),
        ("animate", "VideoCrafter Picture to Video"),
        ("save video", "VideoCrafter Video Combine"),
    ],
)
def test_search_finds_the_nodes(canvas, shots, words, found):
    canvas.search(words)
    text = canvas.text()
    canvas.picture(shots / f"page_search_{words.replace(' ', '_')}.png")
    canvas.close()
    assert found in text


def test_help_page_opens(canvas, shots):
    canvas.add("VideoCrafterKSampler")
    canvas.page.locator('[data-testid="info-button"]').first.click()
    canvas.page.wait_for_timeout(1500)
    canvas.picture(shots / "page_help.png")
    text = canvas.text()
    assert "the authors' exact sampler and step spacing" in " ".join(text.split())
    assert "When something is wrong" in text


def test_an_error_is_told_in_the_page(canvas, shots):
    canvas.drop(stand_ins.FOLDER / "text_to_video_small.json")
    canvas.set("VideoCrafterKSampler", "steps", 27)
    assert canvas.run()["end"] == "execution_error"
    canvas.page.get_by_text("View details").first.click()
    canvas.page.wait_for_timeout(1500)
    canvas.picture(shots / "page_error.png")
    text = " ".join(canvas.text().split())
    assert "VideoCrafter KSampler" in text
    assert "videocrafter.UserError: 27 steps cannot be spaced uniformly" in text
    assert "Take 26 or 28 steps, or trailing spacing, which works with any count." in text
