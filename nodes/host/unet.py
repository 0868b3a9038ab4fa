"""Our UNet with the interface of a ComfyUI diffusion model: frames on the batch axis, conditions as keywords."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor, nn

from ...vc_core.conditions import SINGLE, Conditioning, Evaluation
from ...vc_core.denoising.caching import SHALLOW
from ...vc_core.denoising.freenoise import with_motion_injection
from ...vc_core.denoising.guidance import Model
from ...vc_core.denoising.windows import ContextWindows, windowed
from ...vc_core.errors import UserError
from ...vc_core.network.adapter import Adapter
from ...vc_core.network.adapters.deep import KeepDeep
from ...vc_core.network.call import Deep, Pass
from ...vc_core.network.layers import to_clips, to_frames
from ...vc_core.network.memory import until_it_fits
from ...vc_core.network.unet import VideoUNet
from ...vc_core.specs import UNetSpec
from .branches import branches_of, step_of
from .deep import STEP_CACHE, StepRun, shallow_control
from .operations import weights_of
from .patches import BlockEntry, ControlResiduals, CorePatches, host_attention
from .prefetch import prefetch, release
from .replay import REPLAY, HostReplay

WINDOWS = "videocrafter_windows"
"""Set in `transformer_options` for temporal attention in windows (`specs.Windows`)."""

CONTEXT = "videocrafter_context"
"""Set in `transformer_options` for windows of whole passes (`denoising.windows.ContextWindows`)."""

HANDLER = "context_handler"
"""Where ComfyUI keeps its context windows, in `model_options`."""

ATTACHED = "videocrafter_attached"
"""What the controls of a run add to its passes (`Acting`), in `transformer_options`."""

EACH_LEVEL = "videocrafter_each_level"
"""Set in `transformer_options` where every frame has its own noise level."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Acting:
    """The adapters of the passes of a run, and whether they ask for the number of the step."""

    adapters: tuple[Adapter, ...]
    wants_step: bool


class NativeUNet(VideoUNet):
    """The names in its state dict are the published ones; everything else here follows ComfyUI's calls."""

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
        super().__init__(
            spec,
            operations=operations,
            attention=host_attention,
            device=device,
            dtype=dtype,
            weights=weights_of(operations),
        )
        self.dtype = dtype
        self.in_channels = spec.latent_channels  # core's nodes take it for the channels of a latent

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
        **conditions: Any,
    ) -> Tensor:
        """`x` holds the image's latent behind the noised one, for networks that read one."""
        clips = len(options.get("cond_or_uncond") or (0,))
        frames = x.shape[0] // clips
        options["original_shape"] = list(x.shape)
        windows: ContextWindows | None = options.get(CONTEXT)
        _check_nested(options)
        run, deep = _continued(options, clips, frames)
        keep = (KeepDeep(SHALLOW),) if run is not None and deep is None else ()
        call = {"x": x, "timesteps": timesteps, "context": context}
        adapters = _host_adapters(control if deep is None else shallow_control(control), options, self, call)
        # All fields are given, because a compiler cannot trace the defaults.
        settings = Pass(SINGLE, options.get(WINDOWS), (*keep, *adapters), deep)
        when = timesteps.view(clips, frames) if options.get(EACH_LEVEL) else timesteps[::frames]
        latents = to_clips(x, frames).split([self.spec.latent_channels, self.spec.concat_channels], dim=1)
        concat = latents[1] if self.spec.concat_channels else None
        conditioning = _conditioning(context, when, frames, concat, **conditions)
        model: Model = partial(self._pass, settings, options)
        if windows is not None:
            _check_windows(control, frames, windows)
            model = windowed(model, windows)
        evaluation = _evaluation(options, steps=windows is not None or conditioning.early_text is not None)
        out = with_motion_injection(model)(latents[0], when, conditioning, evaluation)
        if run is not None:
            _keep(run, keep)
        return to_frames(out)

    def _pass(
        self,
        settings: Pass,
        options: dict[str, Any],
        x: Tensor,
        when: Tensor,
        conditioning: Conditioning,
        evaluation: Evaluation = SINGLE,
        /,
    ) -> Tensor:
        """A pass, replayed or working on less where memory runs out; ComfyUI's own error where it still does not
        fit."""
        run = replace(settings, evaluation=evaluation)
        replay: HostReplay | None = None if torch.compiler.is_compiling() else options.get(REPLAY)
        replayed = None if replay is None else replay.attempt(self, options, (x, when, conditioning, run))
        if replayed is not None:
            return replayed

        def attempt() -> Tensor:
            entry = BlockEntry(options, prefetch(self._blocks(settings.deep), x.device, options))
            out = VideoUNet.forward(self, x, when, conditioning, replace(run, adapters=(entry, *settings.adapters)))
            entry.fetch()
            return out

        def fewer() -> bool:
            release()
            return self.budget.halve()

        if torch.compiler.is_compiling() or any(isinstance(each, ControlResiduals) for each in settings.adapters):
            return attempt()  # residuals of a ControlNet are used up by a pass that fails
        return until_it_fits(attempt, fewer, None)

    def _blocks(self, deep: Deep | None) -> list[nn.Module]:
        """The blocks that a pass runs, in order."""
        if deep is None:
            return [*self.input_blocks, self.middle_block, *self.output_blocks]
        return [*self.input_blocks[: deep.shallow], *self.output_blocks[-deep.shallow :]]


def _continued(options: dict[str, Any], clips: int, frames: int) -> tuple[StepRun | None, Deep | None]:
    """The run whose deep features this pass may continue, and those features where it does. A pass of other frames
    continues none."""
    windows: ContextWindows | None = options.get(CONTEXT)
    split = options.get(EACH_LEVEL) or (windows is not None and frames > windows.size)
    run: StepRun | None = None if split else options.get(STEP_CACHE)
    features = None if run is None else run.features(options, clips)
    return run, None if features is None else Deep(SHALLOW, features)


def _keep(run: StepRun, keep: tuple[KeepDeep, ...]) -> None:
    """Gives the deep features of a pass to its run."""
    for each in keep:
        if each.result is not None:
            run.keep(each.result)


def _evaluation(options: dict[str, Any], *, steps: bool) -> Evaluation:
    """Which evaluation of the network this is, with the number of the step where `steps` or a control asks for it, and
    for controls with the frames of ComfyUI's own windows."""
    evaluation, acting = Evaluation(branches=branches_of(options)), _acting(options)
    if acting is not None:
        index = getattr(options.get("context_window"), "index_list", None)
        evaluation = replace(evaluation, window=None if index is None else tuple(index))
        steps = steps or acting.wants_step
    if not steps:
        return evaluation
    step, count = step_of(options)
    return replace(evaluation, step=step, steps=count)


def _host_adapters(
    control: Any, options: dict[str, Any], network: VideoUNet, call: dict[str, Tensor]
) -> tuple[Adapter, ...]:
    """What controls and ComfyUI do inside of a pass."""
    acting = _acting(options)
    patches = CorePatches(options, width=network.spec.model_channels, call=call)
    host: tuple[Adapter, ...] = (ControlResiduals(control), patches) if control else (patches,)
    return host if acting is None else (*acting.adapters, *host)


def _acting(options: dict[str, Any]) -> Acting | None:
    """What the controls of a run add to its passes, if it has any."""
    found: Acting | None = options.get(ATTACHED)
    return found


def _conditioning(
    context: Tensor,
    when: Tensor,
    frames: int,
    concat: Tensor | None,
    *,
    motion: tuple[float, float] | None = None,
    **given: Any,
) -> Conditioning:
    """What ComfyUI gives to the network, for clips. `motion` is the motion guidance and the last timestep at which it
    applies."""

    def row(name: str) -> Tensor | None:
        value = given.get(name)
        return None if value is None else torch.full((len(when),), float(value), device=context.device)

    image, early_text = given.get("image"), given.get("early_text")
    return Conditioning(
        text=_of_clips(context, frames, given.get("text_per_frame", False)),
        early_text=None if early_text is None else early_text[::frames],
        image=None if image is None else _of_clips(image, frames, given.get("image_per_frame", False)),
        fps=row("fps"),
        concat=concat,
        guidance=row("guidance"),
        motion=None if motion is None else torch.where(when >= motion[1], motion[0], 0.0).float(),
    )


def _check_nested(options: dict[str, Any]) -> None:
    """For nodes that cannot see each other's windows, and samplers that do not look."""
    if options.get("context_window") is not None and (options.get(WINDOWS) or options.get(CONTEXT)):
        raise UserError(
            "The model has both ComfyUI's context windows and windows of VideoCrafter (VideoCrafter FreeNoise, or "
            "long_video of VideoCrafter KSampler). Use one of the two: leave the other node out."
        )


def _check_windows(control: Any, frames: int, windows: ContextWindows) -> None:
    if control and frames > windows.size:
        raise UserError(
            "ControlNet is not supported with windows of whole passes. Use ComfyUI's context windows (VideoCrafter "
            "Context Windows), or long_video freenoise."
        )


def rows_at_once(x: Tensor, options: dict[str, Any]) -> int:
    """How many of the frames (b f) c h w the network sees in one pass: all, or a window of each clip."""
    windows: ContextWindows | None = options.get(CONTEXT)
    clips = len(options.get("cond_or_uncond") or (0,))
    return len(x) if windows is None else min(len(x), clips * windows.size)


def _of_clips(tokens: Tensor, frames: int, per_frame: bool) -> Tensor:
    """(b f) n d -> b n d, or b f n d where the frames of a clip have tokens of their own"""
    return tokens.unflatten(0, (-1, frames)) if per_frame else tokens[::frames]
