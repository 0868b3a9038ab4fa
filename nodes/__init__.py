"""The nodes. Each is thin: it checks its inputs, calls one thing of `vc_core` or `host`, and gives the result back."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import (
    analytic,
    caching,
    checkpoint,
    combine,
    conditioning,
    controls,
    dragging,
    evaluate,
    frames,
    ksampler,
    long,
    pictures,
    renamed,
    sampler,
    scheduler,
    views,
    windows,
)
from .host import replacing


class VideoCrafterExtension(ComfyExtension):
    """What ComfyUI asks for when it loads the pack."""

    async def on_load(self) -> None:
        """Called before the nodes are asked for, by ComfyUI versions that know renamed nodes."""
        await replacing.register(renamed.RENAMED)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        modules = (
            checkpoint,
            conditioning,
            pictures,
            views,
            ksampler,
            sampler,
            scheduler,
            long,
            windows,
            caching,
            frames,
            combine,
            analytic,
            controls,
            dragging,
            evaluate,
        )
        return [node for module in modules for node in module.NODES]


async def comfy_entrypoint() -> VideoCrafterExtension:
    """ComfyUI's entry point."""
    return VideoCrafterExtension()
