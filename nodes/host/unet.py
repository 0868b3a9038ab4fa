"""Our UNet in the clothes of a ComfyUI diffusion model: frames on the batch axis, conditions as keywords."""

from __future__ import annotations

from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor

from ...vc_core.network.layers import to_clips, to_frames
from ...vc_core.network.unet import VideoUNet
from ...vc_core.specs import UNetSpec
from .deep import STEP_CACHE, WITHOUT_TIME, StepRun, shallow_control
from .patches import PatchHooks, host_attention

WINDOWS = "videocrafter_windows"
"""Set in `transformer_options` for temporal attention in windows (`specs.Windows`)."""


class NativeUNet(VideoUNet):
    """The names in its state dict are the published ones; everything else here is ComfyUI's way of calling."""

    def __init__(
        self,
        spec: UNetSpec,
        *,
        operations: Any,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **_: Any,
    ) -> None:
        """`_` takes the facts about the network that core nodes read from ComfyUI's `unet_config`."""
        super().__init__(spec, operations=operations, attention=host_attention, device=device, dtype=dtype)
        self.dtype = dtype

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **conditions: Any,
    ) -> Tensor:
        """(b f) c h w -> (b f) c h w. `timesteps` and `context` come repeated for each frame."""
        options = {} if transformer_options is None else transformer_options
        kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(
            self._run, self, comfy.patcher_extension.get_all_wrappers(kind, options)
        )
        # The options stay the last positional argument: that is where caching wrappers look for them.
        out: Tensor = executor.execute(x, timesteps, context, control, options, **conditions)
        return out

    def _run(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        control: Any,
        options: dict[str, Any],
        *,
        image: Tensor | None = None,
        fps: float | None = None,
        guidance: float | None = None,
        motion: tuple[float, float] | None = None,
        text_per_frame: bool = False,
        image_per_frame: bool = False,
        **_: Any,
    ) -> Tensor:
        """`x` carries the picture's latent behind the noised one, for networks that read one. `motion` is the motion
        guidance and the timestep from which on it counts."""
        clips = len(options.get("cond_or_uncond") or (0,))
        frames = x.shape[0] // clips
        options["original_shape"] = list(x.shape)
        call = {"x": x, "timesteps": timesteps, "context": context}
        run: StepRun | None = options.get(STEP_CACHE)
        deep = None if run is None else run.deep(options, clips)
        if deep is not None and deep.features is not None:
            control, run = shallow_control(control), None
        hooks = PatchHooks(options, control, width=self.spec.model_channels, call=call)
        when = timesteps[::frames]
        latents = to_clips(x, frames).split([self.spec.latent_channels, self.spec.concat_channels], dim=1)

        def row(value: float | None) -> Tensor | None:
            return None if value is None else torch.full((clips,), float(value), device=x.device)

        out = super().forward(
            latents[0],
            when,
            _of_clips(context, frames, text_per_frame),
            None if image is None else _of_clips(image, frames, image_per_frame),
            row(fps),
            hooks=hooks,
            temporal=not options.get(WITHOUT_TIME, False),
            windows=options.get(WINDOWS),
            concat=latents[1] if self.spec.concat_channels else None,
            guidance=row(guidance),
            motion=None if motion is None else torch.where(when >= motion[1], motion[0], 0.0).float(),
            deep=deep,
        )
        if run is not None and deep is not None and deep.features is not None:
            run.keep(deep.features)
        return to_frames(out)


def _of_clips(tokens: Tensor, frames: int, per_frame: bool) -> Tensor:
    """(b f) n d -> b n d, or b f n d where the frames of a clip have tokens of their own"""
    return tokens.unflatten(0, (-1, frames)) if per_frame else tokens[::frames]
