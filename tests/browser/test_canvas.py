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
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
PICTURES = """([size, count]) => [...document.images].filter(picture => picture.naturalWidth >= size).length >= count"""

AROUND = """picture => {
    const [node] = app.graph._nodes;
    const add = (type, x) => {
        const made = LiteGraph.createNode(type);
        made.pos = [x, node.pos[1]];
        app.graph.add(made);
        return made;
    };
    node.connect(0, add('SaveVideo', node.pos[0] + node.size[0] + 50), 0);
    const slot = node.inputs.findIndex(input => input.name === 'image');
    if (slot < 0) return;
    const load = add('LoadImage', node.pos[0] - 400);
    load.widgets.find(widget => widget.name === 'image').value = picture;
    load.connect(0, node, slot);
}"""
"""What a blueprint needs around it to run."""


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


def _cut_down(canvas):
    """The same small values that the tests without a page take, typed into the widgets."""
    prompt = canvas.prompt()
    for node, smaller in stand_ins.cut_down(prompt).items():
        for name, value in smaller["inputs"].items():
            if value != prompt[node]["inputs"][name]:
                canvas.set(node, name, value)


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
    assert seen["overlaps"] == seen["outside"] == seen["clipped"] == []
    assert seen["dialogs"] == []
    assert _values(seen["graph"]) == _values(workflow)
    assert len(seen["graph"]["links"]) == len(workflow["links"])

    _cut_down(canvas)
    video = _played(canvas, shots / f"{name}.png")
    frames, width, height, rate = stand_ins.MADE[name]
    assert (video["width"], video["height"]) == (width, height)
    assert video["seconds"] == pytest.approx(float(frames / rate), abs=0.1)
    assert video["at"] == video["seconds"], "it plays to its end"


def test_nodes_have_room_in_the_modern_look(canvas, shots):
    canvas.modern(True)
    try:
        for file in stand_ins.FILES:
            canvas.drop(file)
            canvas.shot(shots / f"{file.stem}_modern.png")
            seen = canvas.look()
            assert seen["overlaps"] == seen["outside"] == seen["clipped"] == [], file.stem
    finally:
        canvas.modern(False)


def test_expert_inputs_are_folded_in_the_modern_look(canvas):
    canvas.modern(True)
    try:
        canvas.drop(stand_ins.FOLDER / f"{stand_ins.START}.json")
        canvas.fit()
        canvas.reads("Show advanced inputs", "long_video")
        assert "guidance_rescale" not in canvas.text()
    finally:
        canvas.modern(False)


def test_a_video_dropped_on_the_canvas_restores_its_workflow(canvas, server, tmp_path):
    workflow = stand_ins.load(stand_ins.START)
    prompt = stand_ins.cut_down(server.to_prompt(workflow))
    with ThreadPoolExecutor(1) as pool:  # the page has this thread's event loop
        run = pool.submit(server.run, prompt, workflow=workflow).result()
    (tmp_path / "made.mp4").write_bytes(server.view(run.files[0]))
    canvas.drop(tmp_path / "made.mp4")
    types = sorted(node["type"] for node in canvas.look()["graph"]["nodes"])
    assert types == sorted(node["type"] for node in workflow["nodes"])


def _played(canvas, shot):
    """Run, with previews meanwhile; then the video that plays in the page."""
    ended = canvas.run()
    assert ended["end"] == "execution_success", ended["detail"].get("exception_message")
    assert ended["previews"] > 0
    (video,) = canvas.play()
    canvas.shot(shot)
    assert video["error"] is None
    return video


@pytest.mark.parametrize("file", BLUEPRINTS, ids=lambda file: file.stem)
def test_blueprint_unfolds_and_runs(canvas, shots, file):
    """As a person uses one: a picture into it where it asks for one, a node that saves behind it, Run."""
    shot = file.stem.split(" (")[0].lower().replace(" ", "_")
    canvas.drop(file)
    seen = canvas.look()
    assert seen["missing"] == seen["invalid"] == seen["dialogs"] == []
    (node,) = seen["graph"]["nodes"]
    assert node.get("title", file.stem) == file.stem, "the page leaves out a title that is the name of the type"
    canvas.inside(file.stem)
    canvas.shot(shots / f"blueprint_{shot}_inside.png")
    inside = canvas.look()
    canvas.inside("")
    assert inside["missing"] == inside["invalid"] == inside["overlaps"] == inside["outside"] == []

    canvas.page.evaluate(AROUND, "example.png")
    small = {"width": stand_ins.WIDTH, "height": stand_ins.HEIGHT, "frames": stand_ins.FRAMES, "steps": stand_ins.STEPS}
    for name, value in small.items():
        canvas.set(str(node["id"]), name, value)
    video = _played(canvas, shots / f"blueprint_{shot}.png")
    assert (video["width"], video["height"]) == (stand_ins.WIDTH, stand_ins.HEIGHT)
    assert video["at"] == video["seconds"] == pytest.approx(stand_ins.FRAMES / 8, abs=0.2)


SAID = """words => app.graph._nodes.some(node => node.type === 'VideoCrafterVideoCombine'
    && (node.widgets ?? []).some(widget => widget.element?.textContent?.includes(words)))"""


def test_the_text_is_there_again_when_a_workflow_comes_back(canvas, shots):
    """Below its own node, and below no other in between."""
    canvas.drop(stand_ins.FILES[0])
    _cut_down(canvas)
    assert canvas.run()["end"] == "execution_success"
    canvas.page.wait_for_function(SAID, arg="16 frames of 64x64")
    canvas.picture(shots / "page_text.png")
    canvas.command("Comfy.NewBlankWorkflow")
    canvas.page.wait_for_function("() => app.graph._nodes.length === 0")
    canvas.command("Workspace.PreviousOpenedWorkflow")
    canvas.page.wait_for_function(SAID, arg="16 frames of 64x64")


def test_templates_are_offered_with_their_pictures(canvas, shots):
    canvas.command("Comfy.BrowseTemplates")
    canvas.page.get_by_text(PACK, exact=True).first.click()
    canvas.page.wait_for_function(PICTURES, arg=[THUMBNAIL, 4])
    names = [file.stem for file in stand_ins.FILES if file.stem in canvas.text()]
    canvas.picture(shots / "page_templates.png")
    canvas.close()
    assert len(names) >= 4, "the page draws those in sight"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("videocrafter", "VideoCrafter KSampler"),
        ("i2v", "VideoCrafter Image Conditioning"),
        ("animate", "VideoCrafter Image to Video"),
        ("save video", "VideoCrafter Video Combine"),
        ("prompt travel", "VideoCrafter Prompts Over Time"),
        ("text to video", "Text to Video (VideoCrafter)"),
    ],
)
def test_search_finds_the_nodes(canvas, shots, words, found):
    canvas.search(words)
    canvas.reads(found)
    canvas.picture(shots / f"page_search_{words.replace(' ', '_')}.png")
    canvas.close()


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_the_page_speaks_other_languages(canvas, shots, language):
    texts = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    sampler = texts["VideoCrafterKSampler"]
    canvas.speak(language)
    try:
        canvas.search("videocrafter")
        canvas.reads(sampler["display_name"])
        canvas.close()
        canvas.modern(True)
        canvas.add("VideoCrafterKSampler")
        canvas.fit()
        canvas.picture(shots / f"page_{language}.png")
        canvas.reads(sampler["inputs"]["long_video"]["name"])
    finally:
        canvas.modern(False)
        canvas.speak("en")


@pytest.mark.parametrize("modern", [False, True])
@pytest.mark.parametrize("view", [[0, -200, 1], [0, 0, 0.5]], ids=["scrolled", "zoomed out"])
def test_help_page_opens(canvas, shots, modern, view):
    """Also where an earlier graph left the view at a place in which a new node's toolbar cannot be clicked."""
    canvas.modern(modern)
    try:
        canvas.look_from(*view)
        canvas.add("VideoCrafterKSampler")
        assert "Troubleshooting" not in canvas.text()
        canvas.page.locator('[data-testid="info-button"]').first.click()
        canvas.reads("the authors' exact sampler and timestep spacing", "Troubleshooting")
        canvas.picture(shots / "page_help.png")
    finally:
        canvas.setting("Comfy.RightSidePanel.IsOpen", False)
        canvas.modern(False)


def test_an_error_is_shown_in_the_page(canvas, shots):
    canvas.drop(stand_ins.FOLDER / f"{stand_ins.START}.json")
    canvas.set("VideoCrafterKSampler", "steps", 27)
    assert canvas.run()["end"] == "execution_error"
    canvas.page.get_by_text("View details").first.click()
    canvas.reads(
        "VideoCrafter KSampler",
        "videocrafter.UserError: 27 steps cannot be spaced uniformly",
        "Use 26 or 28 steps, or trailing spacing, which works with any count.",
    )
    canvas.picture(shots / "page_error.png")
