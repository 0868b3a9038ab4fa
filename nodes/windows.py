"""ComfyUI's context windows with the settings for VideoCrafter."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..vc_core.errors import UserError
from .host.compat import advanced, aliases
from .host.long import check_own
from .host.windows import FUSE_METHODS, SCHEDULES, with_context_windows
from .long import CATEGORY


class VideoCrafterContextWindows(io.ComfyNode):
    """A patch that runs a model of 16 frames on any number of them, in the memory of 16."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterContextWindows",
            display_name="VideoCrafter Context Windows",
            category=CATEGORY,
            description="Makes clips of any length in the memory of one window: in each step the model runs on "
            "overlapping windows of frames, and their results are fused. It is ComfyUI's Context Windows (Manual) with "
            "the right settings for VideoCrafter. Clips of one window or less do not change.",
            inputs=[
                io.Model.Input("model", tooltip="The video model."),
                io.Int.Input(
                    "context_length",
                    default=16,
                    min=2,
                    max=256,
                    tooltip="Frames of a window, 2 to 256. The models were trained on 16; other sizes work less "
                    "well. Memory grows with it, and not with the length of the clip.",
                ),
                io.Int.Input(
                    "context_overlap",
                    default=4,
                    min=0,
                    max=255,
                    tooltip="Frames that a window shares with the next, 0 to one less than the window. More is "
                    "smoother and slower: 8 takes 1.5 times as long as 4.",
                ),
                io.Combo.Input(
                    "context_schedule",
                    options=list(SCHEDULES),
                    default=SCHEDULES[0],
                    tooltip="How the windows are placed. standard_static: the same in each step. standard_uniform: "
                    "moved from step to step, which hides their borders. looped_uniform: windows continue from the "
                    "last frames to the first, for a clip that loops. batched: side by side, without overlap. shifted: "
                    "side by side, but moved from step to step, which hides their borders and takes little longer than "
                    "short clips; context_overlap has no effect.",
                    **advanced(io.Combo.Input),
                ),
                io.Combo.Input(
                    "fuse_method",
                    options=list(FUSE_METHODS),
                    default=FUSE_METHODS[0],
                    tooltip="How results of overlapping windows are combined. pyramid and relative: frames near a "
                    "window's middle have more weight. flat: all have the same. overlap-linear: one fades into the "
                    "next.",
                    **advanced(io.Combo.Input),
                ),
                io.Boolean.Input(
                    "freenoise",
                    default=True,
                    tooltip="Later windows begin from the noise of earlier ones in another order (FreeNoise), which "
                    "keeps object and scene the same. Off: every frame has its own noise, for more change.",
                    **advanced(io.Boolean.Input),
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model for long clips, for any sampler.")],
            **aliases("videocrafter", "long video", "infinite video", "loop", "sliding window", "low memory"),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        context_length: int = 16,
        context_overlap: int = 4,
        context_schedule: str = SCHEDULES[0],
        fuse_method: str = FUSE_METHODS[0],
        freenoise: bool = True,
    ) -> io.NodeOutput:
        check_own(model)
        if not 0 <= context_overlap < context_length:
            raise UserError(
                f"context_overlap is {context_overlap} and context_length {context_length}; the overlap should be from "
                "0 to one less than the length, usually a quarter of it."
            )
        return io.NodeOutput(
            with_context_windows(
                model,
                length=context_length,
                overlap=context_overlap,
                schedule=context_schedule,
                fuse_method=fuse_method,
                freenoise=freenoise,
            )
        )


NODES: list[type[io.ComfyNode]] = [VideoCrafterContextWindows]
