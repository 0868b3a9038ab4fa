"""The workflows in the API format, and `submit`, which posts them to a real ComfyUI server."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import stand_ins
from command_line.running import run

from comfyui.limits import skip_without
from comfyui.server import Server
from comfyui.workflow import to_prompt
from vc_core.batch.reading import Row
from vc_core.errors import UserError
from vc_core.submit import following
from vc_core.submit.filling import Workflow
from vc_core.submit.server import Server as Client

API = stand_ins.FOLDER / "api"


@pytest.fixture(scope="module")
def info(server: Server) -> dict[str, Any]:
    return server.get("/object_info")


@pytest.mark.parametrize("file", stand_ins.FILES, ids=lambda file: file.stem)
def test_the_file_in_the_api_format_is_what_the_page_would_post(info: dict[str, Any], files: None, file: Path) -> None:
    """VC_WRITE_API=1 writes it. Core's nodes may have other inputs in another release of ComfyUI."""
    workflow = stand_ins.load(file.stem)
    if any(stand_ins.nodes_of(workflow, "FrameInterpolate")):
        skip_without("FrameInterpolate")
    prompt = to_prompt(workflow, info)
    twin = API / file.name
    if os.environ.get("VC_WRITE_API"):
        API.mkdir(exist_ok=True)
        twin.write_text(json.dumps(prompt, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    written = json.loads(twin.read_text(encoding="utf-8"))
    assert _shared(written, prompt) == _shared(prompt, written), "write it with VC_WRITE_API=1"


def test_every_workflow_has_a_file_in_the_api_format() -> None:
    assert {file.name for file in API.iterdir()} == {file.name for file in stand_ins.FILES}
    assert sum(file.stat().st_size for file in API.iterdir()) <= 200 * 2**10


def _shared(prompt: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Without the inputs of core's nodes that the other prompt lacks."""
    kept = {}
    for name, node in prompt.items():
        inputs = node["inputs"]
        if name in other and not node["class_type"].startswith("VideoCrafter"):
            inputs = {key: value for key, value in inputs.items() if key in other[name]["inputs"]}
        kept[name] = {**node, "inputs": inputs}
    return kept


@pytest.fixture
def small(server: Server, files: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workflow of few steps, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    prompt = stand_ins.cut_down(to_prompt(stand_ins.load(stand_ins.START), server.get("/object_info")))
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(prompt), encoding="utf-8")
    return path


def entries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]


def test_lines_are_made_once_and_fetched_once(
    server: Server, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lines.csv").write_text(
        "Prompt.text,seed,VideoCrafterKSampler.steps\na red square,1..2,2\na blue circle,3,\n", encoding="utf-8"
    )
    command = ("submit", "lines.csv", "--server", server.url, "--set", f"workflow={small}")
    before = len(server.get("/history"))
    assert run(*command) == 0, capsys.readouterr().err
    found = entries(tmp_path / "lines")
    assert [(entry["line"], entry["seed"]) for entry in found] == [(2, 1), (2, 2), (3, 3)]
    for entry in found:
        video = stand_ins.decode((tmp_path / "lines" / entry["file"]).read_bytes())
        prompt = json.loads(video.tags["prompt"])
        texts = [node["inputs"]["text"] for node in prompt.values() if node["class_type"] == "CLIPTextEncode"]
        assert entry["given"]["prompt.text"] in texts
        (sampler,) = (node["inputs"] for node in prompt.values() if node["class_type"] == "VideoCrafterKSampler")
        assert sampler["seed"] == entry["seed"]
    (tmp_path / "lines" / found[1]["file"]).unlink()
    assert run(*command) == 0
    assert "2 of 3 videos are done already." in capsys.readouterr().out
    assert len(entries(tmp_path / "lines")) == 3
    assert len(server.get("/history")) == before + 3, "a result that the server still has is fetched, not made again"


BAD = {
    "prompt.texts,seed\na,1\n": "The workflow has no widget 'prompt.texts'. Did you mean prompt.text",
    "text,seed\na,1\n": "2 nodes have a widget 'text'. Name one of them: Prompt.text, Negative prompt.text",
    "prompt,seed\na,x\n": "seed is 'x'; it should be a whole number",
    "prompt,steps\na,0\n": "steps is 0; the widget allows 1 to",
    "prompt,sampler_name\na,ddim_exakt\n": "sampler_name is 'ddim_exakt'. Allowed: ddim_exact",
    "prompt,workflow\na,none.json\n": "The workflow 'none.json' cannot be read",
    "prompt,seed\na,1\na,1\n": "This is the same run as that of line 2",
}


def test_bad_lines_are_reported_before_anything_is_posted(
    server: Server, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = server.get("/history")
    for text, message in BAD.items():
        (tmp_path / "lines.csv").write_text(text, encoding="utf-8")
        assert run("submit", "lines.csv", "--server", server.url, "--set", f"workflow={small}") == 2
        said = capsys.readouterr().err
        assert f"lines.csv, line {text.count(chr(10))}: {message}" in said
    assert server.get("/history") == before
    assert not (tmp_path / "lines").exists()


def test_a_server_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lines.csv").write_text("prompt\na\n", encoding="utf-8")
    given = ("--patience", "0", "--set", "workflow=w.json")
    assert run("submit", tmp_path / "lines.csv", "--server", "http://127.0.0.1:9", *given) == 2
    assert "The server http://127.0.0.1:9 does not answer" in capsys.readouterr().err
    assert run("submit", tmp_path / "lines.csv", "--server", "localhost", *given) == 2
    assert "is not the address of a server" in capsys.readouterr().err


NODES = {
    "Load": {"input": {"required": {"image": [["a.png"], {"image_upload": True}], "on": ["BOOLEAN", {}]}}},
    "Scale": {"input": {"required": {"image": ["IMAGE"], "by": ["FLOAT", {"min": 0.5, "max": 2}], "mode": ["X"]}}},
}
PROMPT = {
    "1": {"class_type": "Load", "inputs": {"image": "a.png", "on": False}, "_meta": {"title": "First image"}},
    "2": {"class_type": "Scale", "inputs": {"image": ["1", 0], "by": 1.0, "mode": "fast"}},
}


def test_widgets_are_found_by_title_class_and_id_and_typed(tmp_path: Path) -> None:
    workflow = Workflow(PROMPT, NODES)
    (tmp_path / "b.png").write_bytes(b"png")
    filled = workflow.fill({"first_image.image": str(tmp_path / "b.png"), "load.on": "yes", "2.by": "1.5"})
    (uploaded,) = filled.uploads
    assert filled.uploads[uploaded] == tmp_path / "b.png"
    assert filled.prompt["1"]["inputs"] == {"image": uploaded, "on": True}
    assert filled.prompt["2"]["inputs"] == {"image": ["1", 0], "by": 1.5, "mode": "fast"}
    assert workflow.fill({"image": "a.png"}).uploads == {}
    assert PROMPT["1"]["inputs"]["image"] == "a.png"
    for values, message in (
        ({"image": "c.png"}, "neither a file here nor one in the server's input folder"),
        ({"by": 3}, "by is 3.0; the widget allows 0.5 to 2"),
        ({"on": "maybe"}, "it should be true or false"),
    ):
        with pytest.raises(UserError, match=message):
            workflow.fill(values)


class Forgetful(Client):
    """A server that restarts while it has the first prompt, and then makes everything at once."""

    def __init__(self) -> None:
        self.posts: list[str] = []

    def queued(self) -> set[str]:
        return set(self.posts[:1]) if len(self.posts) == 1 else set()

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        done = {"status": {"status_str": "success"}, "outputs": {"9": {"images": [{"filename": "a.mp4"}]}}}
        return done if prompt_id in self.posts[1:] else None

    def post(self, prompt: Any, prompt_id: str) -> str:
        self.posts.append(prompt_id)
        return prompt_id

    def fetch(self, file: Any, path: Path) -> None:
        path.write_bytes(b"video")


def test_lines_that_the_server_forgot_are_posted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PAUSE", 0)
    filled = Workflow(PROMPT, NODES).fill({})
    row = Row(1, {"prompt": "a"})
    lines = [following.Line(row.line, f"key{i}", row.values, "w", filled, f"{i}") for i in range(2)]
    server, manifest = Forgetful(), following.Manifest(tmp_path)
    following.Follower(server, manifest, True).run(lines)
    assert len(server.posts) == 3
    assert len(set(server.posts)) == 2
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["0.mp4", "1.mp4"]
    assert all(manifest.has(line.key) for line in lines)
