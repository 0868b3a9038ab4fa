"""A page that goes away while its prompt runs."""

from __future__ import annotations

import asyncio
import io
import uuid
from typing import Any

import aiohttp
import numpy as np
import pytest
from PIL import Image

from comfyui.limits import skip_without
from comfyui.server import Server

STEPS = 25


@pytest.mark.parametrize(("cut", "returns"), [(False, False), (True, True)], ids=["closed", "cut off, and returns"])
def test_a_run_ends_without_its_page(server: Server, text_prompt, cut: bool, returns: bool) -> None:
    """Previews are on. The frames are those of a run that a page watched."""
    skip_without("previews of the small models")
    settings = {"seed": 2**40 + 2 * returns + cut, "steps": STEPS, "size": (24, 16), "frames": 4}
    found, last = asyncio.run(_leave(server, text_prompt(**settings), returns, cut))
    assert found["status"]["status_str"] == "success", found["status"]
    assert last == ("executing" if returns else None), "the page that returns sees the rest of the run"
    server.post("/free", {"free_memory": True})
    server.run(text_prompt(steps=1, frames=1))  # after it, nothing is kept
    watched = server.run(text_prompt(**settings))
    assert "5" not in watched.cached
    np.testing.assert_array_equal(_frames(server, found["outputs"]), _frames(server, watched.outputs))


async def _leave(server: Server, prompt: dict, returns: bool, cut: bool) -> tuple[dict[str, Any], str | None]:
    """Posts a prompt, and is away from its first preview on. Gives what the history has of the run, and the last
    message that a page which returned received."""
    client = uuid.uuid4().hex
    async with aiohttp.ClientSession(server.url) as session:
        page = await session.ws_connect(f"/ws?clientId={client}")
        await page.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        async with session.post("/prompt", json={"prompt": prompt, "client_id": client}) as answer:
            number = (await answer.json())["prompt_id"]
        while (await page.receive(timeout=60)).type != aiohttp.WSMsgType.BINARY:
            pass
        if cut:
            page._response.connection.transport.abort()
        else:
            await page.close()
        assert not await _history(session, number), "it was away before the end"
        last = await _rest(session, client, number) if returns else None
        while not (found := await _history(session, number)):
            await asyncio.sleep(0.05)
        return found, last


async def _rest(session: aiohttp.ClientSession, client: str, number: str) -> str:
    """The type of the message that says that the prompt of this number is done."""
    async with session.ws_connect(f"/ws?clientId={client}") as page:
        while True:
            message = await page.receive(timeout=60)
            if message.type == aiohttp.WSMsgType.TEXT:
                said = message.json()
                if said["data"].get("prompt_id") == number and said["data"].get("node", "") is None:
                    return said["type"]


async def _history(session: aiohttp.ClientSession, number: str) -> dict[str, Any]:
    async with session.get(f"/history/{number}") as answer:
        return (await answer.json()).get(number) or {}


def _frames(server: Server, outputs: dict[str, Any]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(server.view(file)))) for file in outputs["7"]["images"]])
