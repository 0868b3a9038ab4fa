"""VideoCrafter's own step spacings for ComfyUI's custom-sampling nodes."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host import sampling
from .host.compat import aliases
from .spacing import CATEGORY, DENOISE, SPACING, SPACINGS, STEPS, check_denoise, spaced


class VideoCrafterScheduler(io.ComfyNode):
    """The steps' noise levels for SamplerCustom and its kind."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterScheduler",
            display_name="VideoCrafter Scheduler",
            category=CATEGORY,
            description="The noise levels of VideoCrafter's own step spacings, for ComfyUI's custom-sampling nodes.",
            inputs=[
                io.Model.Input("model", tooltip="The video model; its noise schedule is read from it."),
                io.Combo.Input("spacing", options=list(SPACINGS), default="uniform", tooltip=f"{SPACING}."),
                io.Int.Input("steps", default=50, min=1, max=1000, tooltip=STEPS),
                io.Float.Input("denoise", default=1.0, min=0.01, max=1.0, step=0.01, tooltip=DENOISE),
            ],
            outputs=[io.Sigmas.Output(tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
            **aliases("videocrafter", "sigmas", "timesteps", "spacing", "lcm turbo", "few steps"),
        )

    @classmethod
    def execute(cls, model: Any, spacing: str = "uniform", steps: int = 50, denoise: float = 1.0) -> io.NodeOutput:
        check_denoise(denoise)
        return io.NodeOutput(spaced(sampling.schedule_of(model), spacing, steps, denoise))


NODES: list[type[io.ComfyNode]] = [VideoCrafterScheduler]
