"""Measures frames without another model."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..vc_core.errors import UserError
from ..vc_core.judging import METRICS, as_json, as_text, judge, metrics
from ..vc_core.judging.drawing import overview
from ..vc_core.judging.table import parameters
from .conditioning import checked_image
from .frames import CATEGORY
from .host.compat import aliases
from .host.sampling import Progress

ALL = "all"
NAME = "video"
"""What the report calls the frames."""


class VideoCrafterEvaluate(io.ComfyNode):
    """Measures flicker, motion, consistency, drift, seams and repetition."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        about = {item.name: item for item in parameters()}
        return io.Schema(
            node_id="VideoCrafterEvaluate",
            display_name="VideoCrafter Evaluate",
            category=CATEGORY,
            description="Measures a video without another model: flicker, motion, consistency, drift, seams at the "
            "borders of windows and tiles, and repetition inside of frames.",
            inputs=[
                io.Image.Input("images", tooltip="The frames of the video."),
                io.String.Input(
                    "metrics",
                    default=ALL,
                    tooltip=f"What is measured: {ALL}, or names separated by commas, of {', '.join(METRICS)}. Motion "
                    "takes most of the time.",
                ),
                io.Float.Input(
                    "fps",
                    default=about["fps"].default,
                    min=about["fps"].low,
                    max=about["fps"].high,
                    step=0.01,
                    tooltip=_sentence(about["fps"].help),
                ),
                *(_whole(about[name]) for name in ("window_stride", "tile_stride")),
                io.Image.Input("image", optional=True, tooltip=_sentence(about["image"].help)),
            ],
            outputs=[
                io.String.Output("report", display_name="report", tooltip="The figures as a table, to read."),
                io.String.Output("json", display_name="json", tooltip="The figures as JSON, also frame by frame."),
                io.Image.Output("overview", display_name="overview", tooltip="A contact sheet, and plots over time."),
            ],
            **aliases(
                "videocrafter", "measure", "metrics", "vbench", "quality", "flicker", "contact sheet", "benchmark"
            ),
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        metrics: str = ALL,
        fps: float = 8.0,
        window_stride: int = 0,
        tile_stride: int = 0,
        image: Tensor | None = None,
    ) -> io.NodeOutput:
        given: tuple[Tensor, ...] = () if image is None else (checked_image(image),)
        chosen = _chosen(metrics, fps=fps, window_stride=window_stride, tile_stride=tile_stride, image=given)
        if images.ndim != 4 or not len(images):
            raise UserError(
                f"The frames have the shape {tuple(images.shape)}; they must be (frames, height, width, channels)."
            )
        progress = Progress(len(images))
        frames = (checked_image(images[index : index + 1]) for index in range(len(images)))
        report = judge(frames, chosen, on_frame=progress.report)
        shown = overview(report, NAME)[None]
        return io.NodeOutput(as_text({NAME: report}), as_json({NAME: report}), shown)


def _chosen(names: str, **values: Any) -> Any:
    """The metrics that a text names, with their parameters."""
    listed = tuple(name.strip() for name in names.split(",") if name.strip())
    return metrics(() if listed in ((), (ALL,)) else listed, **values)


def _whole(item: Any) -> Any:
    """The widget of a whole number."""
    low, high = int(item.low), int(item.high)
    return io.Int.Input(item.name, default=item.default, min=low, max=high, tooltip=_sentence(item.help))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


NODES: list[type[io.ComfyNode]] = [VideoCrafterEvaluate]
