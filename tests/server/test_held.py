"""What a server holds after runs, counted once nothing is kept of them: nothing more after the tenth than the first."""

from __future__ import annotations

import pytest

from comfyui.probe import Held, Probe
from comfyui.server import Event, Server

OBJECTS = 400
"""More objects of Python than this for each run would be a leak; ComfyUI's history takes some 100."""
CONTROLS = ("VideoCrafterStepCache",)
LONG = ("windows", "freelong")
ENDS = {"plain": ("success",), "errors": ("error",), "interrupted": ("interrupted", "success")}
"""How runs end; Cancel may come after the last step."""


@pytest.fixture
def probe(server: Server) -> Probe:
    return Probe(server)


def held(server: Server, probe: Probe, prompts: list[dict], kind: str) -> Held:
    """What the server holds after these runs; interrupted ones are so at their first step."""

    def cancel(event: Event) -> None:
        if kind == "interrupted" and event.type == "progress" and event.data["value"] == 1:
            server.interrupt()

    for prompt in prompts:
        run = server.run(prompt, on_event=cancel)
        assert run.status in ENDS[kind], run.error
    return probe()


def with_node(server: Server, prompt: dict, kind: str) -> dict:
    """The prompt with a node of this kind, with its defaults, between model and sampler."""
    required = server.object_info()[kind]["input"]["required"]
    inputs = {name: spec[1]["default"] for name, spec in required.items() if "default" in spec[1]}
    prompt["8"] = {"class_type": kind, "inputs": {**inputs, "model": ["1", 0]}}
    prompt["5"]["inputs"]["model"] = ["8", 0]
    return prompt


def assert_no_more(after: Held, before: Held, runs: int) -> None:
    assert (after.tensors, after.modules) == (before.tensors, before.modules)
    assert after.tensor_bytes == before.tensor_bytes
    assert after.handles <= before.handles
    assert after.threads <= before.threads + 1, "ComfyUI's pools start threads when they are needed"
    assert after.objects - before.objects < OBJECTS * runs


@pytest.mark.parametrize("kind", ["plain", "errors", "interrupted"])
def test_nothing_is_left_of_runs(server: Server, text_prompt, probe: Probe, kind: str) -> None:
    """Of controls, caches and methods for long videos; of runs that end with an error, and of interrupted ones."""

    def prompts(seed: int) -> list[dict]:
        options = {"seed": seed, "steps": 4, "frames": 18, "size": (24, 16), "eta": 0.0}
        if kind == "errors":
            return [text_prompt(seed=seed + each, steps=27) for each in range(3)]
        changed = [with_node(server, text_prompt(**options), each) for each in CONTROLS]
        return [*changed, *(text_prompt(**options, long_video=each) for each in LONG)]

    before = held(server, probe, prompts(1), kind)
    after = held(server, probe, prompts(2), kind)
    assert_no_more(after, before, runs=3)
