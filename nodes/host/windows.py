"""ComfyUI's own context windows with the settings for VideoCrafter: frames on the first axis, no frame outside of the
window."""

from __future__ import annotations

import copy
from typing import Any

import comfy.context_windows
from torch import Tensor

from ...vc_core.denoising.windows import ContextWindows
from ...vc_core.errors import UserError
from ...vc_core.specs import Windows
from .compat import known
from .long import check_not_nested, with_reordered_noise
from .unet import HANDLER

SHIFTED = "shifted"
"""Our own schedule, that of vc_core."""
BATCHED = "batched"
SCHEDULES = ("standard_static", "standard_uniform", "looped_uniform", BATCHED, SHIFTED)
FUSE_METHODS = ("pyramid", "relative", "flat", "overlap-linear")
"""ComfyUI's names and our schedule; defaults first."""
FLAT, LINEAR = FUSE_METHODS[2:]
FRAMES_AXIS = 0


class WindowsOfFrames(comfy.context_windows.IndexListContextHandler):
    """ComfyUI's windows, in which a ControlNet also gets the hints of the window's own frames."""

    def set_step(self, timestep: Tensor, model_options: dict[str, Any]) -> None:
        """ComfyUI's entry: finds the step of these sigmas. They are equal for all frames; older hosts expect one."""
        super().set_step(timestep[:1], model_options)

    def get_resized_cond(self, cond_in: Any, x_in: Tensor, window: Any, device: Any = None) -> Any:
        """ComfyUI's entry: the conditions of a window."""
        out = super().get_resized_cond(cond_in, x_in, window, device)
        for condition in out or ():
            if condition.get("control") is not None:
                condition["control"] = _of_window(condition["control"], window, frames=x_in.shape[FRAMES_AXIS])
        return out


def _of_window(control: Any, window: Any, frames: int) -> Any:
    """A copy of the ControlNet, one for all conditions of the window, that has the hints of its frames."""
    made: dict[int, Any] = vars(window).setdefault("videocrafter_controls", {})
    if id(control) in made:
        return made[id(control)]
    own = made[id(control)] = copy.copy(control)
    hints = getattr(control, "cond_hint_original", None)
    if hints is not None and hints.shape[0] == frames:
        own.cond_hint_original, own.cond_hint = window.get_tensor(hints), None
    if control.previous_controlnet is not None:
        own.previous_controlnet = _of_window(control.previous_controlnet, window, frames)
    return own


def with_context_windows(
    model: Any, *, length: int, overlap: int, schedule: str, fuse_method: str, freenoise: bool
) -> Any:
    """A MODEL that runs on windows of `length` frames, their results fused. With `freenoise`, later windows begin from
    the noise of earlier ones in another order, whichever sampler asks for it.

    ComfyUI's "causal window fix" shows a window one frame more, in front: a network of 16 frames would get 17. It stays
    off.
    """
    host = comfy.context_windows
    check_not_nested(model, "VideoCrafter Context Windows", but=HANDLER)
    noise = Windows(size=length, stride=length - overlap)
    if _checked(schedule, SCHEDULES, "schedule") == SHIFTED:
        windows = ContextWindows(size=length, stride=length, order="shifted")
        layout, overlap, noise = _shifted(windows), max(1, length // 4), windows.noise or noise
    else:
        layout = host.get_matching_context_schedule(schedule)
    fuse = _checked(fuse_method, FUSE_METHODS, "fuse method")
    if fuse == LINEAR and (overlap == 0 or schedule == BATCHED):
        fuse = FLAT  # there is nothing to fade over, which ComfyUI's function does not support
    handler = WindowsOfFrames(
        context_schedule=layout,
        fuse_method=host.get_matching_fuse_method(fuse),
        context_length=length,
        context_overlap=overlap,
        dim=FRAMES_AXIS,
        **known(WindowsOfFrames, causal_window_fix=False),
    )
    model = with_reordered_noise(model, noise) if freenoise else model.clone()
    model.model_options[HANDLER] = handler
    host.create_prepare_sampling_wrapper(model)
    return model


def _shifted(windows: ContextWindows) -> Any:
    """ComfyUI's schedule of these windows, which lays them out in each step."""

    def layout(frames: int, handler: Any, model_options: dict[str, Any]) -> list[list[int]]:
        step: int = handler._step
        return windows.frames_of(frames, step, len(model_options["transformer_options"]["sample_sigmas"]) - 2 - step)

    return comfy.context_windows.ContextSchedule(SHIFTED, layout)


def _checked(name: str, names: tuple[str, ...], what: str) -> str:
    if name not in names:
        raise UserError(f"There is no {what} {name!r} of context windows; choose one of {', '.join(names)}.")
    return name
