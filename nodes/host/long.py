"""Long clips in the host: FreeNoise's windows reach the network as an option, its noise through a wrapper."""

from __future__ import annotations

from typing import Any

import comfy.patcher_extension
from torch import Tensor

from ...vc_core.denoising import Noise
from ...vc_core.denoising.freenoise import rescheduled
from ...vc_core.denoising.windows import ContextWindows
from ...vc_core.errors import UserError
from ...vc_core.network.layers import to_clips, to_frames
from ...vc_core.specs import Windows
from .unet import CONTEXT, HANDLER, WINDOWS

REUSED = "videocrafter_reused_noise"
"""Where a patched model keeps, among the `transformer_options`, the windows that reorder the first noise."""
WRAPPER = "videocrafter_freenoise"


def with_freenoise(model: Any, windows: Windows, *, reuse: bool) -> Any:
    """A MODEL whose temporal attention runs in windows; with `reuse`, later frames begin from the noise of earlier ones
    in another order, whichever sampler asks for it. Raises UserError for models that are not VideoCrafter's."""
    check_own(model)
    check_not_nested(model, "VideoCrafter FreeNoise", but=WINDOWS)
    model = with_reordered_noise(model, windows if reuse else None)
    model.model_options["transformer_options"][WINDOWS] = windows
    return model


def with_passes_in_windows(model: Any, windows: ContextWindows) -> Any:
    """A MODEL whose passes run on one window of a long clip after the other, as vc_core's do."""
    check_own(model)
    model = with_reordered_noise(model, windows.noise)
    model.model_options["transformer_options"][CONTEXT] = windows
    return model


def with_windows(model: Any, windows: Windows | ContextWindows | None) -> Any:
    """A MODEL that runs in the windows of a long-video method; itself for a method without any."""
    if isinstance(windows, Windows):
        return with_freenoise(model, windows, reuse=True)
    return model if windows is None else with_passes_in_windows(model, windows)


def with_reordered_noise(model: Any, windows: Windows | None) -> Any:
    """A copy of the MODEL whose runs begin with reordered noise; None takes that back."""
    model = model.clone()
    model.model_options.setdefault("transformer_options", {})[REUSED] = windows
    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    if hasattr(model, "remove_wrappers_with_key"):
        model.remove_wrappers_with_key(kind, WRAPPER)
    if windows is not None:
        model.add_wrapper_with_key(kind, WRAPPER, _reordering(windows))
    return model


def check_own(model: Any) -> None:
    """Raises UserError for models that are not VideoCrafter's."""
    if getattr(model.model, "spec", None) is None:
        raise UserError(
            "The model input is not a VideoCrafter model. Connect the one from VideoCrafter's checkpoint loader."
        )


def check_not_nested(model: Any, what: str, *, but: str = "") -> None:
    """Raises UserError for a MODEL that runs in windows already, where `what` would put others into them or around
    them. `but` is the kind of windows that it takes the place of."""
    options = model.model_options
    found = {
        WINDOWS: ("VideoCrafter FreeNoise", options.get("transformer_options", {}).get(WINDOWS)),
        HANDLER: ("a Context Windows node", options.get(HANDLER)),
    }
    for kind, (node, windows) in found.items():
        if windows is not None and kind != but:
            raise UserError(
                f"The model already has the windows of {node}, and {what} would be a second kind of windows inside or "
                f"around them. Use one of the two: leave {node} out, or {what}."
            )


def reused(model_options: dict[str, Any]) -> Windows | None:
    """The windows that have reordered the first noise of this run, if any."""
    found: Windows | None = model_options.get("transformer_options", {}).get(REUSED)
    return found


def skip_orders(stream: Noise, windows: Windows | None, frames: int) -> None:
    """Takes from the stream what reordering has drawn, so that the noise of the steps is what vc_core draws."""
    if windows is not None:
        for _ in range(windows.size, frames, windows.stride):
            stream.draw((windows.stride,))


def _reordering(windows: Windows) -> Any:
    def outer_sample(executor: Any, noise: Tensor, *arguments: Any, **keywords: Any) -> Any:
        seed = keywords.get("seed", arguments[SEED] if len(arguments) > SEED else None)
        return executor(_reordered(noise, windows, seed or 0), *arguments, **keywords)

    return outer_sample


SEED = 6
"""The place of the seed behind the noise in what ComfyUI hands to a run."""


def _reordered(noise: Tensor, windows: Windows, seed: int) -> Tensor:
    if noise.ndim != 4 or noise.shape[0] <= windows.size:
        return noise
    clip = to_clips(noise, noise.shape[0])
    stream = Noise(seed)
    stream.draw(clip.shape)
    return to_frames(rescheduled(clip, windows, stream))
