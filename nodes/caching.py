"""Patches that make nearly the same video with fewer operations."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..vc_core.denoising.caching import QUALITIES
from .host.caching import with_guidance_cache, with_step_cache
from .host.compat import aliases
from .host.graphs import with_switch

CATEGORY = "VideoCrafter/speed"


class VideoCrafterStepCache(io.ComfyNode):
    """A patch that runs the deep layers of the network in some of the steps only."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterStepCache",
            display_name="VideoCrafter Step Cache",
            category=CATEGORY,
            description="Nearly the same video in less time: the deep layers of the network run in some of the steps "
            "only, and in the others their earlier results are extrapolated (as in DeepCache). For runs of 20 or more "
            "steps, with every sampler; works together with VideoCrafter Guidance Cache.",
            inputs=[
                io.Model.Input("model", tooltip="The video model."),
                io.Combo.Input(
                    "quality",
                    options=list(QUALITIES),
                    default="high",
                    tooltip="How close the video is to the exact one. Of 50 steps, high runs the deep layers in "
                    "every second one, balanced in every fourth and fast in every sixth; runs of fewer steps save "
                    "less.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with the cache, for any sampler.")],
            **aliases("videocrafter", "deepcache", "speed up", "faster", "cache"),
        )

    @classmethod
    def execute(cls, model: Any, quality: str = "high") -> io.NodeOutput:
        return io.NodeOutput(with_step_cache(model, quality))


class VideoCrafterGuidanceCache(io.ComfyNode):
    """A patch that skips most passes of the negative prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterGuidanceCache",
            display_name="VideoCrafter Guidance Cache",
            category=CATEGORY,
            description="Nearly the same video in less time: after the first part of the run most passes of the "
            "negative prompt are skipped, and its difference to the positive one is extrapolated (as in FasterCache). "
            "For runs of 20 or more steps with a cfg other than 1, with every sampler; works together with "
            "VideoCrafter Step Cache.",
            inputs=[
                io.Model.Input("model", tooltip="The video model."),
                io.Combo.Input(
                    "quality",
                    options=list(QUALITIES),
                    default="high",
                    tooltip="How close the video is to the exact one. After the first fifth of 50 steps, high "
                    "computes the negative prompt in every fourth one and balanced in every eighth; fast begins after "
                    "the first tenth.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with the cache, for any sampler.")],
            **aliases("videocrafter", "fastercache", "speed up", "faster", "negative prompt", "cfg cache"),
        )

    @classmethod
    def execute(cls, model: Any, quality: str = "high") -> io.NodeOutput:
        return io.NodeOutput(with_guidance_cache(model, quality))


class VideoCrafterCUDAGraphs(io.ComfyNode):
    """Switches the replay of passes as CUDA graphs on or off."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterCUDAGraphs",
            display_name="VideoCrafter CUDA Graphs",
            category=CATEGORY,
            description="Switches CUDA graphs on or off for a model. They need an NVIDIA GPU and a ComfyUI that was "
            "started with --disable-cuda-malloc, and are on there without this node: runs of 8 or more steps record a "
            "pass of the network once and then start it as a whole, which is faster and gives the same video. Switch "
            "them off to save the memory that a recorded pass keeps during the run.",
            inputs=[
                io.Model.Input("model", tooltip="The video model."),
                io.Boolean.Input(
                    "enabled",
                    default=False,
                    tooltip="On: passes are recorded if ComfyUI was started with --disable-cuda-malloc, all weights "
                    "are on the GPU and twice the memory of a pass is free. Off: every operation of a pass is "
                    "launched separately.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with this setting, for any sampler.")],
            **aliases("videocrafter", "cuda graph", "speed up", "faster", "launches", "vram"),
        )

    @classmethod
    def execute(cls, model: Any, enabled: bool = False) -> io.NodeOutput:
        return io.NodeOutput(with_switch(model, enabled))


NODES: list[type[io.ComfyNode]] = [VideoCrafterStepCache, VideoCrafterGuidanceCache, VideoCrafterCUDAGraphs]
"""The nodes of this module."""
