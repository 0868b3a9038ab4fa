"""VideoCrafter's own samplers for ComfyUI's custom-sampling nodes."""

from __future__ import annotations

from comfy_api.latest import io

from ..vc_core.errors import UserError
from .host import sampling
from .host.compat import aliases
from .spacing import CATEGORY, EXACT, OWN_SAMPLERS, check_eta


class VideoCrafterSampler(io.ComfyNode):
    """A sampler of ours for SamplerCustom and its kind."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VideoCrafterSampler",
            display_name="VideoCrafter Sampler",
            category=CATEGORY,
            description="VideoCrafter's own samplers for ComfyUI's custom-sampling nodes. Their fresh noise comes "
            "from the seed on the CPU, so a seed gives the same clip on every machine.",
            inputs=[
                io.Combo.Input(
                    "sampler",
                    options=list(OWN_SAMPLERS),
                    default=EXACT,
                    tooltip="ddim_exact is the authors' sampler, number for number (with VideoCrafter Scheduler, "
                    "uniform), lcm_exact that of T2V-Turbo (with the spacing lcm). dpmpp_2m and euler reach the same "
                    "quality in about half the steps; euler_ancestral and dpmpp_2m_sde add fresh noise in each step.",
                ),
                io.Float.Input(
                    "eta",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="0 to 1, fresh noise added in each step: 1 as the authors, 0 none. euler and dpmpp_2m "
                    "ignore it.",
                ),
            ],
            outputs=[io.Sampler.Output(tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
            **aliases("videocrafter", "custom sampler", "ddim", "lcm turbo", "few steps"),
        )

    @classmethod
    def execute(cls, sampler: str = EXACT, eta: float = 1.0) -> io.NodeOutput:
        check_eta(eta)
        if sampler not in OWN_SAMPLERS:
            raise UserError(f"There is no sampler {sampler!r}; choose one of {', '.join(OWN_SAMPLERS)}.")
        return io.NodeOutput(sampling.CoreSampler(OWN_SAMPLERS[sampler], eta))


NODES: list[type[io.ComfyNode]] = [VideoCrafterSampler]
