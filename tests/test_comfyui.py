"""The tests' own ComfyUI: what the other tests lean on must hold by itself."""

from __future__ import annotations

import sys

import pytest

import vc_core.specs
from comfyui.inprocess import Comfy
from comfyui.server import Event, Server
from comfyui.workflow import WorkflowError, to_prompt, widget_names

_INFO = {
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"control_after_generate": True}],
                "steps": ["INT", {}],
                "codec": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {"key": "auto", "inputs": {}},
                            {"key": "h264", "inputs": {"required": {"crf": ["FLOAT", {}]}}},
                        ]
                    },
                ],
            },
            "optional": {"name": [["a", "b"], {}]},
        },
        "input_order": {"required": ["model", "seed", "steps", "codec"], "optional": ["name"]},
    },
    "Loader": {"input": {"required": {"image": [["a.png"], {"image_upload": True}]}}},
    "Patch": {"input": {"required": {"model": ["MODEL"], "image": ["IMAGE"]}}},
}


def _workflow(values, *, mode=0):
    sampler = {"id": 3, "type": "Sampler", "mode": 0, "inputs": [{"name": "model", "type": "MODEL", "link": 7}]}
    patch_inputs = [{"name": "image", "type": "IMAGE", "link": 9}, {"name": "model", "type": "MODEL", "link": 8}]
    return {
        "nodes": [
            {"id": 1, "type": "Loader", "mode": 0, "widgets_values": ["a.png", "image"]},
            {"id": 2, "type": "Patch", "mode": mode, "inputs": patch_inputs},
            {**sampler, "widgets_values": values},
            {"id": 4, "type": "MarkdownNote", "widgets_values": ["read me"]},
        ],
        "links": [[7, 2, 0, 3, 0, "MODEL"], [8, 1, 1, 2, 0, "MODEL"], [9, 1, 0, 2, 1, "IMAGE"]],
    }


def test_a_workflow_becomes_the_prompt_of_the_page():
    prompt = to_prompt(_workflow([11, "randomize", 5, "h264", 19.0, "b"]), _INFO)
    assert prompt["1"]["inputs"] == {"image": "a.png"}
    assert prompt["3"]["inputs"] == {
        "seed": 11,
        "steps": 5,
        "codec": "h264",
        "codec.crf": 19.0,
        "name": "b",
        "model": ["2", 0],
    }
    assert set(prompt) == {"1", "2", "3"}
    assert widget_names(_INFO["Sampler"], {"codec": "h264"}) == ["seed", "steps", "codec", "codec.crf", "name"]


def test_a_bypassed_node_passes_on_the_input_of_the_same_type():
    prompt = to_prompt(_workflow([11, "fixed", 5, "auto", "b"], mode=4), _INFO)
    assert prompt["3"]["inputs"]["model"] == ["1", 1]
    assert "2" not in prompt


@pytest.mark.parametrize("values", [[11, "fixed", 5, "auto"], [11, "fixed", 5, "auto", "b", 3]])
def test_values_that_do_not_fit_the_widgets_are_refused(values):
    with pytest.raises(WorkflowError, match=r"node 3 \(Sampler\)"):
        to_prompt(_workflow(values), _INFO)


SAVED = [{"name": name, "widget": {"name": name}, "link": None} for name in ("seed", "steps", "codec", "gone")]
"""The widgets of a Sampler of another release."""


@pytest.mark.parametrize(
    ("codec", "gone", "read"),
    [(["auto"], [8], {"codec": "auto", "name": 8}), (["auto"], [], {"codec": "auto", "name": "a"}),
     (["h264", 19.0, "b"], [8], {"codec": "h264", "codec.crf": 19.0, "name": "b"})],
)  # fmt: skip
def test_nodes_of_another_release_are_read_as_the_page_reads_them(codec, gone, read):
    """In order: what is left over belongs to widgets that the node does not have, what is missing has its default."""
    workflow = _workflow([11, "fixed", 5, *codec, *gone])
    workflow["nodes"][2]["inputs"] += SAVED
    inputs = to_prompt(workflow, _INFO)["3"]["inputs"]
    assert inputs == {"seed": 11, "steps": 5, **read, "model": ["2", 0]}
    workflow["nodes"][2]["widgets_values"] += [1, 2, 3]
    with pytest.raises(WorkflowError, match="too many"):
        to_prompt(workflow, _INFO)


def test_pack_is_loaded_as_comfyui_loads_it(comfy: Comfy):
    assert comfy.pack.__name__.endswith("videocrafter")
    assert not hasattr(comfy.pack, "NODE_CLASS_MAPPINGS")
    assert comfy.module("vc_core.specs") is vc_core.specs
    assert comfy.module("vc_core.specs").__spec__.name == "vc_core.specs"
    assert sys.modules["nodes"].NODE_CLASS_MAPPINGS is comfy.classes


def test_core_nodes_of_both_kinds_run_in_process(comfy: Comfy):
    latent = comfy.call("EmptyLatentImage", width=24, height=40, batch_size=3).values[0]["samples"]
    assert tuple(latent.shape) == (3, 4, 5, 3)
    sigmas = comfy.call("KarrasScheduler", steps=7).values[0]
    assert tuple(sigmas.shape) == (8,)


def test_server_runs_a_prompt_and_shows_its_files(server: Server):
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 24, "height": 16, "batch_size": 2, "color": 255}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "harness"}},
    }
    seen: list[Event] = []
    run = server.run(prompt, workflow={"nodes": []}, on_event=seen.append)
    assert run.status == "success", run.error
    assert len(run.files) == 2
    assert server.view(run.files[0]).startswith(b"\x89PNG")
    assert server.history(run.prompt_id)["status"]["completed"]
    assert [event.type for event in seen] == [event.type for event in run.events]
    assert server.rss() > 100 * 2**20


def test_server_takes_uploads_and_refuses_bad_prompts(server: Server):
    run = server.run({"1": {"class_type": "SaveImage", "inputs": {}}})
    assert run.status == "refused"
    assert run.error is not None
    assert "node_errors" in run.error
    name = server.upload(b"not a picture", "harness.png")
    assert (server.base.input / name).read_bytes() == b"not a picture"


def test_pack_came_up_in_the_server(server: Server):
    assert any(name.startswith("VideoCrafter") for name in server.object_info()), server.log[-4000:]
