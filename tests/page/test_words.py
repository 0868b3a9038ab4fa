"""Texts in the frontend: tooltips, translations and help pages match the nodes.

`locales/en` is generated from the nodes. After a change of their texts, regenerate it with

    VC_WRITE_LOCALES=1 python run.py test tests/page/test_words.py

and update the other languages accordingly.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest

from comfyui.base import ROOT

LOCALES = ROOT / "locales"
ENGLISH = LOCALES / "en" / "nodeDefs.json"
HELP = ROOT / "web" / "docs"
TRANSLATIONS = ("zh", "ja")
OF_THIS_MACHINE = {("VideoCrafterVideoCombine", "format"), ("VideoCrafterVideoCombine", "quality")}
"""Tooltips that depend on the installed libraries and so cannot be stored in a file."""
KNOWN_CATEGORIES = {"loaders", "conditioning", "sampling", "video"}
"""Categories translated by ComfyUI."""
MARKUP = re.compile(r"[{}@$|]")
"""Characters with a special meaning in the frontend's translation library."""
ASIAN = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")


NUMBER = re.compile(r"\d+(?:\.\d+)?")
METHODS = ("T2V-Turbo", "DynamiCrafter", "ToonCrafter", "FreeNoise", "FreeInit", "DeepCache", "FasterCache")


@pytest.fixture(scope="module")
def nodes(comfy):
    """Node id -> the node's definition as sent to the frontend."""
    found = {}
    for name, node in sorted(comfy.ours.items()):
        info = node.GET_NODE_INFO_V1()
        found[name] = info if isinstance(info, dict) else dataclasses.asdict(info)
    return found


def inputs_of(info):
    return {name: spec for group in ("required", "optional") for name, spec in info["input"].get(group, {}).items()}


def choices_of(info, key):
    """The choices of an input, and those of the node's others that are written like ddim_exact; the page shows them as
    they are in every language."""
    listed = {}
    for name, spec in inputs_of(info).items():
        options = spec[0] if isinstance(spec[0], list) else spec[1].get("options", [])
        listed[name] = {choice for choice in options if isinstance(choice, str)}
    return listed[key] | {choice for choices in listed.values() for choice in choices if "_" in choice}


def named(text, words):
    """Those words that occur in the text."""
    return {word for word in words if re.search(rf"(?<![\w.]){re.escape(word)}(?!\w|\.\w)", text, re.ASCII)}


def english(nodes):
    """What `locales/en/nodeDefs.json` should hold."""
    return {name: _english(name, info) for name, info in nodes.items()}


def _english(name, info):
    inputs = {}
    for key, spec in inputs_of(info).items():
        inputs[key] = {"name": spec[1].get("display_name") or key}
        if (name, key) not in OF_THIS_MACHINE:
            inputs[key]["tooltip"] = spec[1]["tooltip"]
    outputs = {
        str(index): {"name": label, "tooltip": tooltip}
        for index, (label, tooltip) in enumerate(zip(info["output_name"], info["output_tooltips"], strict=True))
    }
    said = {"display_name": info["display_name"], "description": info["description"]}
    return {**said, "inputs": inputs, "outputs": outputs}


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def messages(value, where=""):
    """(where, text) of every text in a translation."""
    if isinstance(value, str):
        yield where, value
    else:
        for key, item in value.items():
            yield from messages(item, f"{where}/{key}")


def test_every_input_and_output_has_a_tooltip(nodes):
    for name, info in nodes.items():
        assert info["description"], name
        for key, spec in inputs_of(info).items():
            assert len(spec[1].get("tooltip", "")) > 10, f"{name}.{key}"
        assert all(info["output_tooltips"]), name


def test_every_node_has_search_aliases(comfy):
    for name, node in comfy.ours.items():
        words = node.GET_SCHEMA().search_aliases
        assert len(set(words)) == len(words) >= 2, name
        assert all(word == word.lower() for word in words), name


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_own_categories_are_translated(nodes, language):
    ours = {info["category"].split("/")[-1] for info in nodes.values()}
    translated = read(LOCALES / language / "main.json")["nodeCategories"]
    assert set(translated) == ours - KNOWN_CATEGORIES
    assert all(ASIAN.search(text) for text in translated.values())


def test_english_is_what_the_nodes_say(nodes):
    if os.environ.get("VC_WRITE_LOCALES"):
        ENGLISH.parent.mkdir(parents=True, exist_ok=True)
        ENGLISH.write_text(json.dumps(english(nodes), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read(ENGLISH) == english(nodes), "a text has changed: regenerate locales/en and update the other languages"


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_translations_are_of_these_nodes_and_inputs(nodes, language):
    translated = read(LOCALES / language / "nodeDefs.json")
    assert translated.keys() == nodes.keys()
    for name, texts in translated.items():
        assert texts["display_name"].startswith("VideoCrafter ")
        assert ASIAN.search(texts["description"]), name
        assert texts["inputs"].keys() == inputs_of(nodes[name]).keys(), name
        assert texts["outputs"].keys() == {str(index) for index in range(len(nodes[name]["output"]))}, name
        for kind in ("inputs", "outputs"):
            for key, said in texts[kind].items():
                assert ASIAN.search(said["tooltip"]), f"{name}.{key}"
                assert said.get("name", "-"), f"{name}.{key}"


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_translated_tooltips_say_the_same(nodes, language):
    """The numbers, methods and choices that a tooltip names in English also occur in its translation."""
    translated = read(LOCALES / language / "nodeDefs.json")
    for name, info in nodes.items():
        for key, spec in inputs_of(info).items():
            if (name, key) not in OF_THIS_MACHINE:
                tooltip, translation = spec[1]["tooltip"], translated[name]["inputs"][key]["tooltip"]
                words = choices_of(info, key) | set(METHODS)
                assert named(tooltip, words) <= named(translation, words), f"{name}.{key}"
                assert set(NUMBER.findall(tooltip)) <= set(NUMBER.findall(translation)), f"{name}.{key}"


@pytest.mark.parametrize("language", ["en", *TRANSLATIONS])
def test_no_text_contains_markup(language):
    for path in (LOCALES / language).glob("*.json"):
        for where, text in messages(read(path)):
            assert not MARKUP.search(text), f"{path.name}{where}: {text}"


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_display_names_are_unique(language):
    names = [texts["display_name"] for texts in read(LOCALES / language / "nodeDefs.json").values()]
    assert len(set(names)) == len(names)


def test_every_node_has_a_help_page_about_all_its_inputs(nodes):
    assert {path.stem for path in HELP.glob("*.md")} == nodes.keys()
    for name, info in nodes.items():
        page = (HELP / f"{name}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {info['display_name']}\n")
        inputs = page.split("\n## Input", 1)[-1].split("\n## ", 1)[0]
        for key in inputs_of(info):
            assert re.search(rf"^[-|].*\b{key}\b", inputs, re.MULTILINE), f"{name}: nothing about {key}"
            tooltip = "" if (name, key) in OF_THIS_MACHINE else inputs_of(info)[key][1]["tooltip"]
            choices = named(tooltip, choices_of(info, key))
            assert choices <= named(inputs, choices), f"{name}.{key}"
        for section in ("## Input", "## Output", "## Troubleshooting"):
            assert section in page, f"{name}: no section {section!r}"
