"""What a session at the page is made of: many runs, Cancel, previews, pictures of every kind."""

from __future__ import annotations

import asyncio
import io
import json

import aiohttp
import numpy as np
import pytest
from PIL import Image

from comfyui.limits import skip_without
from comfyui.server import Event, Run, Server

RUNS = 20
ALLOWED_GROWTH = 32 * 2**20
"""Bytes over the second half of the runs. A leak of one small model, or of the activations of one run, in each would be
several times as much."""
STEPS = 100
"""So many that Cancel, which takes its way over HTTP, arrives before the last one on a fast machine too."""
TRIES = 3
"""A machine busy with other things may still deliver it late."""


def pictures(server: Server, run):
    assert run.status == "success", run.error
    return [np.asarray(Image.open(io.BytesIO(server.view(file)))) for file in run.files]


def test_memory_is_stable_over_many_runs(server: Server, text_prompt, image_prompt):
    """Read where nothing is kept: the server itself collects garbage every ten seconds, wherever a run then stands."""
    Image.new("RGB", (40, 24), "red").save(server.base.input / "stable.png")
    resident = []
    for index in range(1, RUNS + 1):
        options = {"seed": index, "steps": 2, "frames": 3}
        run = server.run(image_prompt("stable.png", **options) if index % 2 else text_prompt(**options))
        assert run.status == "success", run.error
        assert "5" not in run.cached
        if index in (RUNS // 2, RUNS):
            _forget(server)
            resident.append(server.rss())
    middle, end = resident
    assert end - middle < ALLOWED_GROWTH, [size // 2**20 for size in resident]


@pytest.mark.parametrize("sampler", ["ddim_exact", "dpmpp_2m_sde"])
def test_a_run_after_cancel_equals_an_uninterrupted_one(server: Server, text_prompt, sampler):
    scheduler = "uniform" if sampler == "ddim_exact" else "normal"
    settings = {"size": (64, 64), "frames": 16, "sampler_name": sampler, "scheduler": scheduler}
    prompt = text_prompt(seed=2**53 + 11, steps=STEPS, **settings)
    whole = pictures(server, server.run(prompt))
    stopped = _cancelled(server, prompt, at=1)
    assert stopped.progress["5"][-1][0] < STEPS
    again = server.run(prompt)
    assert "5" not in again.cached
    for ours, theirs in zip(pictures(server, again), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("way", "steps", "frames", "at"), [("windows", STEPS, 60, 1), ("continue", STEPS, 60, 1), ("fifo", 2, 200, 3)]
)
def test_cancel_stops_windows_clips_and_queue(server: Server, text_prompt, way, steps, frames, at):
    """The queue is stopped on its way, after the first clip's two steps."""
    stopped = _cancelled(
        server, text_prompt(seed=2**53 + 12, steps=steps, size=(64, 64), frames=frames, eta=0.0, long_video=way), at
    )
    done, total = stopped.progress["5"][-1]
    assert at <= done < total
    assert len(pictures(server, server.run(text_prompt(seed=4, steps=2)))) == 5


def _cancelled(server: Server, prompt: dict, at: int) -> Run:
    """The run of a prompt that was stopped on its way, once its sampler had made `at` steps."""

    def cancel(event: Event) -> None:
        if event.type == "progress" and event.data["node"] == "5" and event.data["value"] >= at:
            server.interrupt()

    for _ in range(TRIES):
        _forget(server)
        run = server.run(prompt, on_event=cancel)
        if run.status == "interrupted" and run.progress["5"][-1][0] < run.progress["5"][-1][1]:
            return run
    pytest.fail(f"Cancel came after the last step in {TRIES} runs")


def _forget(server: Server) -> None:
    """Nothing is kept of earlier runs; a prompt of something else waits until that has happened."""
    server.post("/free", {"unload_models": True, "free_memory": True})
    blank = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}
    shown = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    assert server.run({"1": blank, "2": shown}).status == "success"


def test_previews_are_frames_of_the_clip_one_after_another(server: Server, text_prompt):
    skip_without("previews of the small models")
    run = server.run(text_prompt(seed=3, steps=10, size=(64, 64), frames=7, scheduler="trailing"))
    assert run.status == "success", run.error
    assert {preview.node for preview in run.previews} == {"5"}
    shown = [np.asarray(Image.open(io.BytesIO(preview.data)).convert("RGB")) for preview in run.previews]
    assert len(shown) >= 10
    assert all(picture.shape == shown[0].shape for picture in shown)
    assert sum(not np.array_equal(a, b) for a, b in zip(shown[1:], shown, strict=False)) >= len(shown) // 2
    assert max(value for value, _ in run.progress["5"]) == 10


def test_images_of_every_kind_make_a_video(server: Server, image_prompt):
    rng = np.random.default_rng(3)
    colours = rng.integers(0, 255, (24, 40, 3), np.uint8)
    kinds = {
        "alpha": Image.fromarray(np.concatenate([colours, colours[..., :1]], axis=-1), "RGBA"),
        "grey": Image.fromarray(colours[..., 0], "L"),
        "palette": Image.fromarray(colours).quantize(7),
        "one_pixel_wide": Image.fromarray(colours[:, :1]),
        "one_pixel_high": Image.fromarray(colours[:1]),
        "deep": Image.fromarray(colours[..., 0].astype(np.uint16) * 257),
    }
    for name, picture in kinds.items():
        uploaded = io.BytesIO()
        picture.save(uploaded, "PNG")
        file = server.upload(uploaded.getvalue(), f"{name}.png")
        frames = pictures(server, server.run(image_prompt(file, steps=2, frames=2)))
        assert [frame.shape for frame in frames] == [(24, 40, 3)] * 2, name
        assert all(frame.std() > 1 for frame in frames), name


def test_what_combine_says_reaches_the_page_that_asked_alone(server: Server):
    """It is part of the node's output, so it is in the history too; another open page hears of the queue's length."""
    settings = {"fps": 8.0, "format": "gif", "quality": 80, "filename_prefix": "said", "save_output": True}
    settings |= {"ping_pong": False, "loop_count": 0, "fade_frames": 0, "rate_multiplier": 1, "odd_size": "pad"}
    settings |= {"dither": "none", "audio_length": "keep"}
    prompt = {
        "4": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 32, "batch_size": 5, "color": 255}},
        "3": {"class_type": "VideoCrafterVideoCombine", "inputs": {"images": ["4", 0], **settings}},
    }
    run, others = asyncio.run(_run_beside_another_page(server, prompt))
    assert run.status == "success", run.error
    (line,) = run.outputs["3"]["text"]
    assert "5 frames of 32x32" in line
    assert all(isinstance(message, str) for message in others), "progress texts and previews are bytes"
    assert {json.loads(message)["type"] for message in others} <= {"status", "feature_flags"}


async def _run_beside_another_page(server, prompt):
    """A run, and all that a second page was sent meanwhile."""
    heard = []
    async with (
        aiohttp.ClientSession(server.url) as session,
        session.ws_connect("/ws?clientId=another") as other,
    ):
        run = await asyncio.to_thread(server.run, prompt)
        while not heard or heard[-1] is not None:
            try:
                heard.append((await other.receive(timeout=1)).data)
            except TimeoutError:
                heard.append(None)
    return run, heard[:-1]
