"""ComfyUI's own context windows, with what suits VideoCrafter: frames on the first axis, no frame beside the window."""

from __future__ import annotations

from typing import Any

import comfy.context_windows

from ...vc_core.errors import UserError
from ...vc_core.specs import Windows
from .compat import known
from .long import with_reordered_noise

SCHEDULES = ("standard_static", "standard_uniform", "looped_uniform", "batched")
FUSE_METHODS = ("pyramid", "relative", "flat", "overlap-linear")
"""ComfyUI's names, the ones to take by default first."""
FRAMES_AXIS = 0


def with_context_windows(
    model: Any, *, length: int, overlap: int, schedule: str, fuse_method: str, freenoise: bool
) -> Any:
    """A MODEL that runs on windows of `length` frames, their results fused. With `freenoise`, later windows begin from
    the noise of earlier ones in another order, whichever sampler asks for it.

    ComfyUI's "causal window fix" shows a window one frame more, in front: a network of 16 frames would get 17. It stays
    off.
    """
    host = comfy.context_windows
    handler = host.IndexListContextHandler(
        context_schedule=host.get_matching_context_schedule(_checked(schedule, SCHEDULES, "schedule")),
        fuse_method=host.get_matching_fuse_method(_checked(fuse_method, FUSE_METHODS, "fuse method")),
        context_length=length,
        context_overlap=overlap,
        dim=FRAMES_AXIS,
        **known(host.IndexListContextHandler.__init__, causal_window_fix=False),
    )
    model = with_reordered_noise(model, Windows(size=length, stride=length - overlap)) if freenoise else model.clone()
    model.model_options["context_handler"] = handler
    host.create_prepare_sampling_wrapper(model)
    return model


def _checked(name: str, names: tuple[str, ...], what: str) -> str:
    if name not in names:
        raise UserError(f"There is no {what} {name!r} of context windows; choose one of {', '.join(names)}.")
    return name
