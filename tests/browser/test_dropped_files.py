"""What the combine node writes, in the real page: it plays there, and dropped on the canvas it opens its workflow.

Runs where the package `playwright` and a Chromium are installed, as `test_canvas.py`.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from video.clips import ramps

from browser.canvas import browser_file, opened
from vc_core.video import Options, available_formats, write

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("playwright") is None or browser_file() is None,
    reason="needs a browser: `pip install playwright`, and a Chromium in the path or named in VC_CHROMIUM",
)

COMBINE = "VideoCrafterVideoCombine"
FORMATS = [
    name
    for name in ("mp4 h264", "mov h264", "mkv h264", "webm vp9", "gif", "webp", "apng", "png")
    if name in available_formats()
]
"""One format of each container."""
CLIP, FRAMES, WIDTH, HEIGHT = "ramps.mp4", 6, 94, 66

BUILD = """([combine, formats, clip]) => {
    app.graph.clear();
    const add = (type, x, y) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, y];
        app.graph.add(node);
        return node;
    };
    const set = (node, name, value) => { node.widgets.find(widget => widget.name === name).value = value; };
    const [video, parts] = [add('LoadVideo', 0, 0), add('GetVideoComponents', 350, 0)];
    set(video, 'file', clip);
    video.connect(0, parts, 0);
    formats.forEach((format, i) => {
        const node = add(combine, 700 + 450 * (i % 4), 900 * Math.floor(i / 4));
        parts.connect(0, node, node.findInputSlot('images'));
        set(node, 'format', format);
        set(node, 'filename_prefix', 'dropped/' + format);
    });
}"""

SHOWN = """combine => app.graph._nodes.filter(node => node.type === combine).map(node => {
    const video = node.videoContainer?.querySelector('video');
    const picture = node.imgs?.[0];
    if (video?.videoWidth) return ['video', video.videoWidth, video.videoHeight, video.duration, video.error?.message];
    return picture?.naturalWidth ? ['picture', picture.naturalWidth, picture.naturalHeight] : null;
})"""
PLAYED = """() => [...document.querySelectorAll('video')].map(player => {
    player.muted = true;
    if (player.paused) player.play();
    return player.played.length > 0;
}).every(played => played)"""


@pytest.fixture(scope="module")
def canvas(base, server):
    write(base.input / CLIP, ramps(FRAMES), fps=12, overwrite=True)
    with opened(server.url) as page:
        yield page


@pytest.fixture(scope="module")
def made(canvas, base, tmp_path_factory):
    """The graph as saved, what the page shows after its run, and the file of each format."""
    canvas.page.evaluate(BUILD, [COMBINE, FORMATS, CLIP])
    graph = canvas.look()["graph"]
    canvas.fit()
    ended = canvas.run()
    assert ended["end"] == "execution_success", ended["detail"]
    _wait_until_shown(canvas)
    canvas.shot(Path(os.environ.get("VC_SHOTS") or tmp_path_factory.mktemp("shots")) / "combine.png")
    shown = dict(zip(FORMATS, canvas.page.evaluate(SHOWN, COMBINE), strict=True))
    files = {name: max((base.output / "dropped").glob(f"{name}_0*")) for name in FORMATS}
    return graph, shown, {name: min(file.iterdir()) if file.is_dir() else file for name, file in files.items()}


def _wait_until_shown(canvas):
    """A node shows what it made when it is drawn; a busy page draws late, and perhaps before the node is in sight."""
    for _ in range(10):
        if all(canvas.page.evaluate(SHOWN, COMBINE)):
            return
        canvas.fit()
    raise AssertionError(canvas.page.evaluate(SHOWN, COMBINE))


def wiring(graph):
    """Types and values of the nodes, and what is connected with what."""
    nodes = [(node["id"], node["type"], node.get("widgets_values") or []) for node in graph["nodes"]]
    return sorted(nodes, key=lambda node: node[0]), sorted(link[1:] for link in graph["links"])


def test_every_format_plays_in_the_page(canvas, made):
    """Browsers play mp4, webm, webp and apng; of the others the node shows a small preview."""
    _, shown, _ = made
    for name in FORMATS:
        picture, video = ["picture", WIDTH, HEIGHT], ["video", WIDTH, HEIGHT, pytest.approx(FRAMES / 8, abs=0.1), None]
        assert shown[name] == (picture if name in ("webp", "apng") else video), name
    canvas.page.wait_for_function(PLAYED)


@pytest.mark.parametrize("name", FORMATS)
def test_a_dropped_file_opens_its_workflow(canvas, made, name):
    graph, _, files = made
    canvas.drop(files[name])
    seen = canvas.look()
    assert wiring(seen["graph"]) == wiring(graph)
    assert seen["missing"] == []
    assert seen["dialogs"] == []


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "png"])
def test_a_file_made_without_a_page_opens_its_prompt(canvas, tmp_path, name):
    """Prompts that came over HTTP have no workflow; the page lays out the nodes automatically."""
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 40, "batch_size": 3, "color": 255}},
        "7": {"class_type": COMBINE, "inputs": {"images": ["1", 0], "fps": 5.5, "format": name}},
    }
    path = tmp_path / f"clip{available_formats()[name].suffix}"
    canvas.drop(write(path, ramps(2), fps=8, options=Options(format=name), metadata={"prompt": prompt}).path)
    graph = canvas.look()["graph"]
    assert sorted(node["type"] for node in graph["nodes"]) == ["EmptyImage", COMBINE]
    assert len(graph["links"]) == 1
    (combine,) = (node for node in graph["nodes"] if node["type"] == COMBINE)
    assert combine["widgets_values"][:2] == [5.5, name]
