"""The start of DynamiCrafter-CIL: less noise to begin with, and noise with the mean and the variance of videos."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..vc_core.checkpoint.statistics import read_statistics
from .host import files
from .host.compat import aliases
from .host.start import with_start

CATEGORY = "VideoCrafter/sampling"
NONE = "none"
FOLDER = "checkpoints"


class VideoCrafterAnalyticInit(io.ComfyNode):
    """A patch that lets sampling begin with less noise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterAnalyticInit",
            display_name="VideoCrafter Analytic Init",
            category=CATEGORY,
            description="For more motion with DynamiCrafter: sampling begins with less noise than the model was "
            "trained on, and that noise can have the mean and the variance of videos (Analytic-Init of "
            "DynamiCrafter-CIL). For every sampler and scheduler, with denoise 1.",
            inputs=[
                io.Model.Input("model", tooltip="The video model."),
                io.Int.Input(
                    "start_timestep",
                    default=900,
                    min=1,
                    max=1000,
                    tooltip="1 to 1000, where sampling begins: 1000 is pure noise. The authors use 900 at 512x320; "
                    "lower values give more motion, and far lower ones lose quality. Use the scheduler trailing.",
                ),
                io.Combo.Input(
                    "statistics",
                    options=[NONE, *files.own(FOLDER)],
                    default=NONE,
                    tooltip="A file of the mean and the variance of videos from ComfyUI's models/checkpoints folder "
                    "(such as initial_noise_512.pt). The clip must have the size and the number of frames of the "
                    "file. none begins with plain noise.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with this start, for any sampler.")],
            **aliases("videocrafter", "dynamicrafter", "cil", "initial noise", "more motion", "start time"),
        )

    @classmethod
    def validate_inputs(cls, statistics: str | None = None) -> bool | str:
        return statistics == NONE or files.check(FOLDER, statistics)

    @classmethod
    def fingerprint_inputs(cls, statistics: str = NONE, **_: Any) -> str:
        return NONE if statistics == NONE else files.fingerprint(FOLDER, statistics)

    @classmethod
    def execute(cls, model: Any, start_timestep: int = 900, statistics: str = NONE) -> io.NodeOutput:
        init = None if statistics == NONE else read_statistics(files.resolve(FOLDER, statistics))
        return io.NodeOutput(with_start(model, start_timestep, init))


NODES: list[type[io.ComfyNode]] = [VideoCrafterAnalyticInit]
