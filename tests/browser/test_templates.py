"""Templates as a person opens them: text can be read without zooming, and the result is in sight."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import stand_ins

from browser.canvas import browser_file, opened
from comfyui.base import PACK

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("playwright") is None or browser_file() is None,
    reason="needs a browser: `pip install playwright`, and a Chromium in the path or named in VC_CHROMIUM",
)

WINDOW = {"width": 1600, "height": 1000}
AS_SHIPPED = {"Comfy_Minimap_Visible": True, "LiteGraph_Canvas_MinFontSizeForLOD": 8}
"""The page's own settings, in the place of those that the other tests take."""
RESULTS = ("VideoCrafterVideoCombine", "SaveVideo")
SMALLEST_TEXT = 9.0
"""Pixels of the screen, of the names and values of widgets: 14 units of the canvas."""

SIGHT = """results => {
    const {ds} = app.canvas;
    const onScreen = node => {
        const [x, y, width, height] = node.getBounding(new Float32Array(4));
        const [left, top] = [(x + ds.offset[0]) * ds.scale, (y + ds.offset[1]) * ds.scale];
        return [left, top, left + width * ds.scale, top + height * ds.scale];
    };
    const part = selector => {
        const box = document.querySelector(selector)?.getBoundingClientRect();
        return box && [box.left, box.top, box.right, box.bottom];
    };
    const nodes = app.graph._nodes;
    const shares = [0.02, 0.25, 0.5, 0.75, 0.98];
    const free = (x, y) => document.elementFromPoint(x, y)?.closest('#graph-canvas, .dom-widget');
    const covered = node => {
        const [left, top, right, bottom] = onScreen(node);
        return !shares.every(x => shares.every(y => free(left + x * (right - left), top + y * (bottom - top))));
    };
    const wide = node => {
        const {ctx} = app.canvas;
        ctx.save();
        ctx.font = node.titleFontStyle;
        const {width} = ctx.measureText(node.getTitle());
        ctx.restore();
        return width > node.size[0] - 2 * LiteGraph.NODE_TITLE_HEIGHT;
    };
    return {
        covered: nodes.filter(covered).map(node => node.getTitle()),
        cut: nodes.filter(wide).map(node => node.getTitle()),
        text: LiteGraph.NODE_TEXT_SIZE * ds.scale,
        blank: app.canvas.low_quality,
        window: part('#graph-canvas'),
        minimap: part('.minimap-main-container'),
        menu: part('[data-testid="queue-button"]'),
        nodes: nodes.map(onScreen),
        note: onScreen(nodes.find(node => node.type === 'MarkdownNote')),
        results: nodes.filter(node => results.includes(node.type)).map(onScreen),
    };
}"""


@pytest.fixture(scope="module")
def canvas(base, server):
    stand_ins.put(base)
    with opened(server.url, WINDOW, **AS_SHIPPED) as page:
        yield page


def _open(canvas, name):
    """Clicks on it in the template browser, as a person does."""
    canvas.command("Comfy.BrowseTemplates")
    canvas.page.get_by_text(PACK, exact=True).first.click()
    canvas.page.get_by_placeholder("Search").last.fill(name)
    canvas.settle()
    canvas.page.get_by_role("heading", name=name, exact=True).first.click()
    canvas.page.wait_for_function(
        "id => app.graph._nodes.some(node => Number(node.id) === id)", arg=stand_ins.load(name)["nodes"][0]["id"]
    )
    canvas.settle()


def _overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _inside(inner, outer):
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


@pytest.mark.parametrize("name", [file.stem for file in stand_ins.FILES])
def test_template_can_be_read_when_it_is_opened(canvas, tmp_path, name):
    _open(canvas, name)
    seen = canvas.page.evaluate(SIGHT, RESULTS)
    folder = Path(os.environ.get("VC_SHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    canvas.page.screenshot(path=str(folder / f"opened {name}.png"))
    assert not seen["blank"], "the page draws boxes instead of text"
    assert seen["text"] >= SMALLEST_TEXT
    assert all(_inside(node, seen["window"]) for node in seen["nodes"])
    assert seen["covered"] == [], "a menu or a panel lies on them"
    assert seen["cut"] == [], "titles that the page shortens"
    (result,) = seen["results"]
    assert seen["minimap"], "the page shows its minimap, as it does for everyone"
    assert not _overlap(result, seen["minimap"])
    assert seen["note"][:2] == [min(node[0] for node in seen["nodes"]), pytest.approx(min(n[1] for n in seen["nodes"]))]


def test_app_mode_offers_the_inputs_of_the_first_template(canvas):
    canvas.drop(stand_ins.FOLDER / f"{stand_ins.START}.json")
    canvas.command("Comfy.ToggleLinear")
    try:
        canvas.reads("App Mode", "seed", "steps", "Number of runs")
        assert "cfg" not in canvas.text().split(), "only what was chosen"
    finally:
        canvas.command("Comfy.ToggleLinear")
