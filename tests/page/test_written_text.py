"""The text of Video Combine in the page: under the node it belongs to, and there again when its workflow comes back.

The page's side of it runs in Node.js, with as much of a page around it as it asks for.
"""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from comfyui.base import ROOT

SCRIPT = ROOT / "web" / "written_text.js"
pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")

APP = """
export const app = {registerExtension(extension) { app.extension = extension; }};
globalThis.document = {createElement: () => ({style: {}})};
"""
PAGE = """
import { app } from "../../scripts/app.js";
import "./written_text.js";

class Node {
    constructor(id, type) { Object.assign(this, {id, type, widgets: []}); }
    addDOMWidget(name, type, element, options) {
        const widget = {name, type, element, options};
        this.widgets.push(widget);
        return widget;
    }
}
class Combine extends Node {
    constructor(id) { super(id, "VideoCrafterVideoCombine"); }
    onExecuted(output) { this.video = output.images; }
}
class Other extends Node {
    constructor(id) { super(id, "EmptyImage"); }
}
const graph = nodes => ({getNodeById: id => nodes.find(node => String(node.id) === String(id))});
const [combine, inside, other] = [new Combine(8), new Combine(3), new Other(6)];
app.rootGraph = {...graph([combine, other]), subgraphs: new Map([["ab-cd", graph([inside])]])};
for (const kind of [Combine, Other]) app.extension.beforeRegisterNodeDef(kind, {name: new kind(0).type});

const texts = node => node.widgets.map(widget => widget.element.textContent);
const seen = [];
combine.onExecuted({images: [1], text: ["first"]});
seen.push(texts(combine), combine.video, combine.widgets[0].serialize, combine.widgets[0].options.serialize);
combine.onExecuted({images: [2], text: ["second", "line"]});
seen.push(texts(combine));
combine.widgets.length = 0; // another workflow was opened, and this one comes back
app.extension.onNodeOutputsUpdated({
    8: {text: ["again"]}, "ab-cd:3": {text: ["within"]}, 6: {text: ["not ours"]}, 99: {text: ["not here"]},
});
seen.push(texts(combine), texts(inside), texts(other), "onExecuted" in other);
console.log(JSON.stringify(seen));
"""


def test_the_text_stands_under_its_node_alone(tmp_path):
    folder = tmp_path / "extensions" / "pack"
    folder.mkdir(parents=True)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "scripts" / "app.js").write_text(APP)
    (folder / "page.js").write_text(PAGE)
    shutil.copy(SCRIPT, folder)
    done = subprocess.run(["node", folder / "page.js"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [
        ["first"], [1], False, False, ["second\nline"], ["again"], ["within"], [], False,
    ]  # fmt: skip
