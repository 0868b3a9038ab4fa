"""ComfyUI's page in a headless browser: drop a workflow, look at the graph, press Run, watch the video."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE = 300_000
"""Milliseconds that the page may take for anything: a busy machine is slow to draw."""
SIZE = {"width": 2200, "height": 1100}
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Locale": "en",
    "Comfy.Release.Status": "skipped",
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.Persist": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.RightSidePanel.IsOpen": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
}
TYPES = {
    ".json": "application/json",
    ".mp4": "video/mp4",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".webm": "video/webm",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".png": "image/png",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

UP = """() => !!(window.app && app.graph && app.canvas && app.extensionManager && app.vueAppReady !== false
    && LiteGraph.registered_node_types.KSampler)"""

DROP = """([data, name, type]) => {
    app.graph.clear();
    const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, {type}));
    const target = document.querySelector('#graph-canvas') ?? document.querySelector('canvas');
    const about = {dataTransfer: transfer, bubbles: true, cancelable: true, clientX: 800, clientY: 500};
    target.dispatchEvent(new DragEvent('dragover', about));
    target.dispatchEvent(new DragEvent('drop', about));
}"""

LOOK = """() => {
    const seen = {missing: [], invalid: [], overlaps: [], outside: [], dialogs: []};
    const texts = [...document.querySelectorAll('.comfy-markdown .tiptap, .comfy-markdown-content')];
    seen.clipped = texts.filter(text => text.scrollHeight > text.clientHeight + 1).map(text => text.innerText);
    const box = node => { const b = new Float32Array(4); node.getBounding(b); return b; };
    const graph = app.canvas.graph ?? app.graph;
    const nodes = graph._nodes;
    for (const node of nodes) {
        const known = node.type in LiteGraph.registered_node_types || !!node.subgraph;
        if (!known || node.has_errors) seen.missing.push(node.type);
        for (const widget of node.widgets ?? []) {
            let values = widget.options?.values;
            if (typeof values === 'function') values = values(widget, node);
            if (widget.type === 'combo' && Array.isArray(values) && !values.includes(widget.value))
                seen.invalid.push([node.type, widget.name, widget.value]);
        }
    }
    for (let i = 0; i < nodes.length; i++) for (let j = i + 1; j < nodes.length; j++) {
        const [a, b] = [box(nodes[i]), box(nodes[j])];
        if (a[0] < b[0] + b[2] && b[0] < a[0] + a[2] && a[1] < b[1] + b[3] && b[1] < a[1] + a[3])
            seen.overlaps.push([nodes[i].type, nodes[j].type]);
    }
    const groups = graph._groups.map(group => [...group.pos, ...group.size]);
    for (const node of nodes) {
        const b = box(node), from = g => b[0] >= g[0] && b[1] >= g[1];
        const touched = groups.filter(g => b[0] < g[0] + g[2] && g[0] < b[0] + b[2] && b[1] < g[1] + g[3]
            && g[1] < b[1] + b[3]);
        if (!touched.every(g => from(g) && b[0] + b[2] <= g[0] + g[2] && b[1] + b[3] <= g[1] + g[3]))
            seen.outside.push(node.type);
    }
    seen.dialogs = [...document.querySelectorAll('.p-dialog')].map(d => d.innerText.slice(0, 300));
    seen.graph = app.graph.serialize();
    return seen;
}"""

SET = """([which, name, value]) => {
    for (const node of app.graph._nodes.filter(node => node.type === which || String(node.id) === which))
        for (const widget of (node.widgets ?? []).filter(widget => widget.name === name)) widget.value = value;
}"""

PROMPT = "async () => (await app.graphToPrompt()).output"

READS = "texts => texts.every(text => document.body.innerText.replace(/\\s+/g, ' ').includes(text))"

SETTLED = """patience => new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error('the page does not come to rest')), patience);
    const state = () => [
        document.body.innerText,
        JSON.stringify((app.canvas.graph ?? app.graph).serialize()),
        [...app.canvas.ds.offset, app.canvas.ds.scale],
        [...document.images].filter(picture => !picture.complete).length,
        document.getAnimations().filter(animation => animation.effect?.getComputedTiming().endTime < 5000).length,
    ].join();
    let [last, same] = [null, 0];
    const look = () => {
        const now = state();
        same = now === last ? same + 1 : 0;
        last = now;
        if (same >= 5) resolve();
        else requestAnimationFrame(() => setTimeout(look, 100));
    };
    look();
})"""
"""Until the page's text, graph, view, pictures and short animations stay as they are over several drawn frames: a busy
machine draws them late."""

ADD = """kind => {
    app.graph.clear();
    const node = LiteGraph.createNode(kind);
    node.pos = [300, 200];
    app.graph.add(node);
    app.canvas.selectNode(node);
}"""

VIEW = """([x, y, scale]) => {
    Object.assign(app.canvas.ds, {offset: [x, y], scale});
    app.canvas.setDirty(true, true);
}"""

OPEN = """title => {
    const node = app.graph._nodes.find(node => node.subgraph && node.title === title);
    if (node) app.canvas.openSubgraph(node.subgraph, node);
    else app.canvas.setGraph(app.graph);
}"""

WATCH = """() => {
    window.watched = {end: null, previews: 0, detail: null};
    for (const type of ['execution_success', 'execution_error', 'execution_interrupted'])
        app.api.addEventListener(type, event => { watched.end = type; watched.detail = event.detail; });
    for (const type of ['b_preview', 'b_preview_with_metadata'])
        app.api.addEventListener(type, () => { watched.previews += 1; });
}"""

MADE = "[...document.querySelectorAll('video')].filter(video => !video.currentSrc.includes('type=input'))"
"""The players of what a run has made; that of a loader shows a file of the input folder."""

SHOWN = f"() => {{ const made = {MADE}; return made.length > 0 && made.every(video => video.readyState > 1); }}"

PLAY = f"""() => Promise.all({MADE}.map(async video => {{
    const found = {{width: video.videoWidth, height: video.videoHeight, seconds: video.duration}};
    video.muted = true;
    video.loop = false;
    video.currentTime = 0;
    await video.play();
    await new Promise(resolve => {{ video.onended = video.onpause = resolve; }});
    return {{...found, at: video.currentTime, error: video.error?.message ?? null}};
}}))"""


def browser_file() -> str | None:
    """The browser to use: `VC_CHROMIUM`, or the first that is installed."""
    named = os.environ.get("VC_CHROMIUM")
    return named or next((found for name in BROWSERS if (found := shutil.which(name))), None)


class Canvas:
    """One open page."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def drop(self, file: Path) -> None:
        """Drops a file on the canvas, as a person does, and waits until its nodes are there."""
        data = base64.b64encode(file.read_bytes()).decode()
        self.page.evaluate(DROP, [data, file.name, TYPES[file.suffix]])
        self.page.wait_for_function("() => app.graph._nodes.length > 0")
        self.settle()

    def settle(self) -> None:
        """Waits until nothing in the page changes any more."""
        self.page.evaluate(SETTLED, PATIENCE)

    def look(self) -> dict[str, Any]:
        """What is on the canvas: missing nodes, invalid choices, nodes that overlap or stick out of a group, notes that
        are longer than their node, dialogs, the graph as saved."""
        seen: dict[str, Any] = self.page.evaluate(LOOK)
        return seen

    def modern(self, on: bool) -> None:
        """Switches between Nodes 2.0 and the classic look."""
        self.setting("Comfy.VueNodes.Enabled", on)

    def speak(self, language: str) -> None:
        """Switches the page's language (en, zh, ja) and reloads it."""
        self.setting("Comfy.Locale", language)
        self.load()

    def setting(self, name: str, value: Any) -> None:
        """Changes one of the page's settings."""
        self.page.evaluate("([name, value]) => app.extensionManager.setting.set(name, value)", [name, value])
        self.settle()

    def load(self, url: str | None = None) -> None:
        """Opens the page, or reloads it, and waits until it can be used."""
        if url:
            self.page.goto(url, wait_until="load")
        else:
            self.page.reload(wait_until="load")
        self.page.wait_for_function(UP)
        self.settle()

    def set(self, which: str, name: str, value: Any) -> None:
        """Gives a widget of one node (its id), or of every node of one type, another value."""
        self.page.evaluate(SET, [which, name, value])

    def prompt(self) -> dict[str, Any]:
        """What Run would post: node id -> class_type and inputs."""
        prompt: dict[str, Any] = self.page.evaluate(PROMPT)
        return prompt

    def run(self) -> dict[str, Any]:
        """Presses Run and waits for the end: how it ended, what the server said, how many previews came."""
        self.page.evaluate(WATCH)
        self.page.locator('[data-testid="queue-button"]').first.click()
        self.page.mouse.move(SIZE["width"] / 2, SIZE["height"] - 20)  # no tooltip hangs below the button
        self.page.wait_for_function("() => watched.end !== null")
        ended: dict[str, Any] = self.page.evaluate("() => watched")
        return ended

    def play(self) -> list[dict[str, Any]]:
        """Plays to their ends the videos that a run has made: their sizes, lengths, where they stopped."""
        self.page.wait_for_function(SHOWN)
        played: list[dict[str, Any]] = self.page.evaluate(PLAY)
        return played

    def look_from(self, x: float, y: float, scale: float) -> None:
        """Moves the view: how far the canvas is shifted, in its own units, and how large it is drawn."""
        self.page.evaluate(VIEW, [x, y, scale])
        self.settle()

    def fit(self) -> None:
        """Shows the whole graph; nodes that are out of sight do not show what they made."""
        self.command("Comfy.Canvas.FitView")

    def command(self, name: str) -> None:
        """Runs one of the page's commands, such as `Comfy.BrowseTemplates`."""
        self.page.evaluate("name => app.extensionManager.command.execute(name)", name)
        self.settle()

    def add(self, kind: str) -> None:
        """A graph of one new node, selected and in view: its toolbar hangs above it, and may not lie below a menu."""
        self.page.evaluate(ADD, kind)
        self.settle()
        self.fit()

    def search(self, words: str) -> None:
        """Opens the node search and types into it."""
        self.command("Workspace.SearchBox.Toggle")
        self.page.wait_for_function("() => document.activeElement?.tagName === 'INPUT'")
        self.page.keyboard.type(words)
        self.settle()

    def close(self) -> None:
        """Closes the dialog that is open."""
        self.page.keyboard.press("Escape")
        self.settle()

    def reads(self, *texts: str) -> None:
        """Waits until all these texts are visible in the page; how its lines break does not matter."""
        self.page.wait_for_function(READS, arg=list(texts))

    def text(self) -> str:
        """Everything that can be read in the page beside the canvas."""
        return str(self.page.evaluate("() => document.body.innerText"))

    def inside(self, title: str) -> None:
        """Opens the subgraph of the node with this title; an empty title goes back to the whole graph."""
        self.page.evaluate(OPEN, title)
        self.settle()

    def shot(self, file: Path) -> Path:
        """A picture of the whole graph."""
        self.fit()
        return self.picture(file)

    def picture(self, file: Path) -> Path:
        """A picture of the page as it is."""
        self.settle()
        self.page.screenshot(path=str(file))
        return file


@contextmanager
def opened(url: str, size: Mapping[str, int] = SIZE, **settings: Any) -> Iterator[Canvas]:
    """The page of the server at `url`, in a window of this size; nothing outside this machine is asked for.

    `settings` are changes of `SETTINGS`, with an underscore for a dot.
    """
    import requests
    from playwright.sync_api import sync_playwright

    changed = {name.replace("_", "."): value for name, value in settings.items()}
    requests.post(f"{url}/settings", data=json.dumps({**SETTINGS, **changed}), timeout=60)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=browser_file(), args=arguments)
        page = browser.new_page(viewport=size)
        page.set_default_timeout(PATIENCE)
        page.route(re.compile(r"^https?://(?!127\.0\.0\.1)"), lambda route: route.abort())
        canvas = Canvas(page)
        canvas.load(url)
        yield canvas
        browser.close()
