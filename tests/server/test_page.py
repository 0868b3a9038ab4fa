"""What the page asks the server for: templates, thumbnails, blueprints, help, translations."""

from __future__ import annotations

import json

import requests
import stand_ins

from comfyui.base import PACK, ROOT
from comfyui.limits import skip_without
from comfyui.server import Server

BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))


def test_templates_list_our_workflows_with_thumbnails(server: Server):
    listed = server.get("/workflow_templates")[PACK]
    assert sorted(listed) == [file.stem for file in stand_ins.FILES]
    for name in listed:
        assert server.get(f"/api/workflow_templates/{PACK}/{name}.json") == stand_ins.load(name)
        picture = requests.get(f"{server.url}/api/workflow_templates/{PACK}/{name}.jpg", timeout=60)
        assert picture.status_code == 200, name
        assert picture.headers["Content-Type"] == "image/jpeg"


def test_blueprints_are_offered(server: Server):
    skip_without("blueprints")
    ours = {key: item for key, item in server.get("/global_subgraphs").items() if PACK in item["info"]["node_pack"]}
    assert sorted(item["name"] for item in ours.values()) == [file.stem for file in BLUEPRINTS]
    assert len(ours) >= 2
    for key, item in ours.items():
        data = json.loads(server.get(f"/global_subgraphs/{key}")["data"])
        assert data == json.loads((ROOT / "subgraphs" / f"{item['name']}.json").read_text(encoding="utf-8"))


def test_every_node_has_its_help_page(server: Server):
    for name in [name for name in server.object_info() if name.startswith("VideoCrafter")]:
        page = requests.get(f"{server.url}/extensions/{PACK}/docs/{name}.md", timeout=60)
        assert page.status_code == 200, name
        assert page.content == (ROOT / "web" / "docs" / f"{name}.md").read_bytes()


def test_translations_reach_the_page(server: Server):
    translations = server.get("/i18n")
    ours = {name for name in server.object_info() if name.startswith("VideoCrafter")}
    for language in ("en", "zh", "ja"):
        assert ours <= set(translations[language]["nodeDefs"]), language
