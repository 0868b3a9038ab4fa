"""What can be said of the workflow files without running them: they are whole, readable, and say what they need."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pytest
import stand_ins
from packaging.version import Version
from PIL import Image

from comfyui.base import ROOT

TITLE_HEIGHT = 30
BOTTOM = 15
WIDEST, HIGHEST = 1760, 1140
"""Units of the canvas."""
NARROW, LONGEST_TITLE = 300, 24
"""In nodes below that width the page shortens titles above that number of characters."""
GROUP_FONT_SIZES = range(16, 33)
THUMBNAIL_BYTES = 60_000

BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))

each = pytest.mark.parametrize("file", stand_ins.FILES, ids=lambda file: file.stem)


def read(file: Path):
    return json.loads(file.read_text(encoding="utf-8"))


def project(field):
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.search(rf'^{field} = "(.+)"$', text, re.MULTILINE)[1]


def box(node):
    """Left, top, right, bottom of a node with its title."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_HEIGHT, x + width, y + height


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def inside(inner, outer):
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def group_box(group):
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def models(workflow):
    return [model for node in workflow["nodes"] for model in node["properties"].get("models", [])]


def node_texts(kind):
    """What the page displays of one of our nodes; empty for the nodes of others."""
    return json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8")).get(kind, {})


def renamed(kind):
    """Inputs of one of our nodes that the page displays by another name: name -> display name."""
    inputs = node_texts(kind).get("inputs", {})
    return {name: text["name"] for name, text in inputs.items() if text["name"] != name}


def notes(workflow):
    return "\n".join(node["widgets_values"][0] for node in stand_ins.nodes_of(workflow, "MarkdownNote"))


def test_every_workflow_there_should_be_is_there():
    assert {file.stem for file in stand_ins.FILES} == set(stand_ins.MADE)


def test_the_list_begins_with_what_needs_no_download():
    """The page lists file names, in the order of the file system or, when asked, of the alphabet."""
    names = [file.stem for file in stand_ins.FILES]
    assert names[0] == stand_ins.START
    small = [name.endswith(stand_ins.SMALL) for name in names]
    assert small == sorted(small, reverse=True)
    for file in stand_ins.FILES:
        assert file.stem.endswith(stand_ins.SMALL) == (not models(read(file))), file.stem


@each
def test_names_can_be_files_and_addresses_everywhere(file):
    assert re.fullmatch(r"\d\d [A-Za-z0-9 ,-]+", file.stem)


def test_no_two_workflows_share_a_node_id():
    """The page looks for a node by its number alone, also when what a run made belongs to another tab."""
    ids = [(node["id"], file.stem) for file in stand_ins.FILES for node in read(file)["nodes"]]
    number = dict(ids)
    assert [(node, name, number[node]) for node, name in ids if number[node] != name] == []


@each
def test_format_and_links_are_whole(file):
    workflow = read(file)
    assert workflow["version"] == 0.4
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"])
    assert workflow["last_node_id"] == max(nodes)
    assert workflow["last_link_id"] == max(link[0] for link in workflow["links"])
    seen = set()
    for link, origin, output, target, slot, kind in workflow["links"]:
        assert nodes[origin]["outputs"][output]["type"] == kind
        assert link in nodes[origin]["outputs"][output]["links"]
        assert nodes[target]["inputs"][slot]["link"] == link
        assert nodes[origin]["order"] < nodes[target]["order"]
        seen.add(link)
    named = [slot["link"] for node in nodes.values() for slot in node.get("inputs", []) if slot["link"] is not None]
    named_out = [link for node in nodes.values() for slot in node.get("outputs", []) for link in slot["links"]]
    assert sorted(named) == sorted(named_out) == sorted(seen)


@each
def test_every_node_says_which_pack_and_version_it_is_of(file):
    """The version is the one that the workflow was saved with, so not every release has to touch every file."""
    for node in read(file)["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        ours = node["type"].startswith("VideoCrafter")
        assert node["properties"]["cnr_id"] == (project("name") if ours else "comfy-core")
        assert re.fullmatch(r"\d+\.\d+\.\d+", node["properties"]["ver"])
        if ours:
            assert Version(node["properties"]["ver"]) <= Version(project("version"))


@each
def test_nodes_and_groups_do_not_overlap(file):
    workflow = read(file)
    for a, b in combinations(workflow["nodes"], 2):
        assert not overlap(box(a), box(b)), (a["type"], b["type"])
    groups = {group["title"]: group_box(group) for group in workflow["groups"]}
    for (a, first), (b, second) in combinations(groups.items(), 2):
        assert not overlap(first, second), (a, b)
    for node in workflow["nodes"]:
        holders = [title for title, bounds in groups.items() if inside(box(node), bounds)]
        touched = [title for title, bounds in groups.items() if overlap(box(node), bounds)]
        assert holders == touched, f"{node['type']} sticks out of a group"
        assert node["type"] == "MarkdownNote" or len(holders) == 1
    assert len(workflow["groups"]) >= 3
    assert all(group["font_size"] in GROUP_FONT_SIZES for group in workflow["groups"])


@each
def test_titles_fit_their_nodes(file):
    for node in read(file)["nodes"]:
        if node["size"][0] < NARROW:
            title = node.get("title") or node_texts(node["type"]).get("display_name", node["type"])
            assert len(title) <= LONGEST_TITLE, title


@each
def test_the_page_can_draw_text_when_it_fits_the_workflow_to_its_window(file):
    """It takes three quarters of a window of 1600 x 1000; below 0.57 of its size a graph is drawn without text."""
    workflow = read(file)
    boxes = [*(box(node) for node in workflow["nodes"]), *(group_box(group) for group in workflow["groups"])]
    left, top = (min(edges[side] for edges in boxes) for side in (0, 1))
    right, bottom = (max(edges[side] for edges in boxes) for side in (2, 3))
    assert right - left <= WIDEST
    assert bottom - top <= HIGHEST
    assert 0.75 * min(1600 / (right - left), 1000 / (bottom - top)) > 0.65
    (note,) = stand_ins.nodes_of(workflow, "MarkdownNote")
    assert box(note)[:2] == (left, top), "the note is what is read first"


@each
def test_every_prompt_of_a_small_model_names_a_background(file):
    """Where none is named, the model keeps changing its mind."""
    if file.stem.endswith(stand_ins.SMALL):
        prompts = [node for node in stand_ins.nodes_of(read(file), "CLIPTextEncode") if "rompt" in node["title"]]
        positive = [node["widgets_values"][0] for node in prompts if not node["title"].startswith("Neg")]
        assert positive
        assert all(re.search(r"on a (black|grey|navy|brown) background$", prompt) for prompt in positive)


@each
def test_files_to_fetch_are_linked_and_named(file):
    workflow = read(file)
    note = notes(workflow)
    assert note
    chosen = [
        value
        for node in workflow["nodes"]
        if node["type"] != "MarkdownNote"
        for value in node.get("widgets_values", [])
        if isinstance(value, str) and value.endswith((".ckpt", ".safetensors", ".pt", ".pth"))
        if not stand_ins.boxed_file(value).is_file()
    ]
    assert sorted(chosen) == sorted(model["name"] for model in models(workflow))
    for model in models(workflow):
        assert re.fullmatch(
            r"https://huggingface\.co/[^/]+/[^/]+/resolve/main/.+\.(ckpt|safetensors|pth?)", model["url"]
        )
        line = next(line for line in note.splitlines() if f"[{model['name']}]" in line)
        assert model["url"].replace("/resolve/", "/blob/") in line
        assert f"ComfyUI/models/{model['directory']}" in line
        assert re.search(r"\d [GM]B", line)
        if not model["url"].endswith("/" + model["name"]):
            assert f"*{model['url'].rsplit('/', 1)[1]}*" in line, "says what the file is called where it comes from"
    if not chosen:
        assert "no download" in note
    assert "`" not in note, "Nodes 2.0 draws code in a colour that cannot be read on a note"


@pytest.mark.parametrize("number", ["01", "02", "11", "14"])
def test_simple_workflows_are_apps_too(number):
    """What the page's app mode shows: inputs as node and widget, and the node whose result is shown."""
    (file,) = stand_ins.FOLDER.glob(f"{number} *.json")
    workflow = read(file)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    shown = workflow["extra"]["linearData"]
    for node, name in shown["inputs"]:
        assert name in [slot["widget"]["name"] for slot in nodes[node]["inputs"] if "widget" in slot]
    assert {"text", "seed"} <= {name for _, name in shown["inputs"]}
    assert [nodes[node]["type"] for node in shown["outputs"]] == ["VideoCrafterVideoCombine"]


def test_readme_and_workflows_name_the_same_files():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for file in stand_ins.FILES:
        for model in models(read(file)):
            if model["directory"] == "checkpoints":
                assert model["url"].replace("/resolve/", "/blob/") in readme


@each
def test_thumbnail_is_there_and_small(file):
    picture = file.with_suffix(".jpg")
    assert picture.is_file(), "a workflow has a thumbnail of the same name"
    assert picture.stat().st_size < THUMBNAIL_BYTES
    with Image.open(picture) as image:
        assert image.format == "JPEG"
        assert min(image.size) >= 192


@each
def test_thumbnail_says_whether_a_download_is_needed(file):
    """A band at its lower edge, of one colour for each; a run of a small model advertises no other model."""
    with Image.open(file.with_suffix(".jpg")) as image:
        red, green, blue = image.convert("RGB").getpixel((3, image.height - 4))
    assert (green > red) == file.stem.endswith(stand_ins.SMALL), (red, green, blue)


@each
def test_notes_call_inputs_by_the_names_that_the_page_displays(file):
    workflow = read(file)
    hidden = {name for node in workflow["nodes"] for name in renamed(node["type"])}
    assert "fps" in hidden or file.stem.startswith(("10 Core", "22 ")), (
        "those without a sampler and Video Combine of ours"
    )
    assert [name for name in hidden if f"*{name}*" in notes(workflow)] == []


@pytest.mark.parametrize("file", BLUEPRINTS, ids=lambda file: file.stem)
def test_blueprints_label_inputs_by_the_names_that_the_page_displays(file):
    """Inside, and on the node that a person sees."""
    blueprint = read(file)
    (graph,), (outer,) = blueprint["definitions"]["subgraphs"], blueprint["nodes"]
    labels = {slot["name"]: slot.get("label") for slot in outer["inputs"]}
    nodes = {node["id"]: node for node in graph["nodes"]}
    renamed_inputs = set()
    for link in graph["links"]:
        if link["origin_id"] == graph["inputNode"]["id"]:
            node, slot = nodes[link["target_id"]], graph["inputs"][link["origin_slot"]]
            display = renamed(node["type"]).get(node["inputs"][link["target_slot"]]["name"])
            if display:
                assert slot["label"] == labels[slot["name"]] == display
                renamed_inputs.add(display)
    assert renamed_inputs == {"motion_fps"}


@pytest.mark.parametrize("number", ["06", "19"])
def test_loops_leave_out_their_last_frame_when_they_are_decoded(number):
    """So they stay right with another number of frames."""
    (file,) = stand_ins.FOLDER.glob(f"{number} *.json")
    workflow = read(file)
    (decode,) = stand_ins.nodes_of(workflow, "VideoCrafterDecode")
    assert decode["widgets_values"][-1] is True
    assert not list(stand_ins.nodes_of(workflow, "ImageFromBatch"))


def test_nothing_else_lies_beside_the_workflows():
    allowed = {file.with_suffix(suffix).name for file in stand_ins.FILES for suffix in (".json", ".jpg")}
    assert {path.name for path in stand_ins.FOLDER.iterdir()} <= {*allowed, "api"}


def test_titles_promise_the_steps_that_are_set():
    """In the name, in the note's heading and in its text."""
    for file in stand_ins.FILES:
        workflow = read(file)
        for sampler in stand_ins.nodes_of(workflow, "VideoCrafterKSampler"):
            promised = re.findall(r"in (\d+) (?:steps|passes)", f"{file.stem} {notes(workflow)}")
            assert {int(count) for count in promised} <= {sampler["widgets_values"][2]}, file.stem
