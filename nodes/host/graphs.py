"""CUDA graphs in ComfyUI, for the length of one run of any sampler; see `replay`."""

from __future__ import annotations

from typing import Any

import comfy.model_patcher
import comfy.patcher_extension
from torch import Tensor

from ...vc_core.network.replay import recorder_for
from ...vc_core.pipeline import WORTH_RECORDING
from .long import check_own
from .replay import REPLAY, HostReplay

SWITCH = "videocrafter_cuda_graphs"
"""Set to False in `transformer_options` where passes should run one launch at a time."""

WRAPPER = "videocrafter_replay"


def with_graphs(patcher: Any) -> Any:
    """The MODEL, whose longer runs are recorded and replayed where its weights allow it, in all sampler nodes."""
    patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, WRAPPER, _replayed)
    return patcher


def with_switch(model: Any, wanted: bool) -> Any:
    """A MODEL whose passes may be recorded or not. Raises UserError for models that are not VideoCrafter's."""
    check_own(model)
    model = model.clone()
    model.model_options.setdefault("transformer_options", {})[SWITCH] = wanted
    return model


def _replayed(
    executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *rest: Any, **more: Any
) -> Any:
    """A run of ComfyUI whose passes find a `HostReplay`, and may be as large as memory allows whatever an earlier run
    has found."""
    guider = executor.class_obj
    patcher, before = guider.model_patcher, guider.model_options
    patcher.model.diffusion_model.budget.restart()
    wanted = before.get("transformer_options", {}).get(SWITCH, True) and len(sigmas) > WORTH_RECORDING
    recorder = recorder_for(patcher.load_device) if wanted else None
    if recorder is None:
        return executor(noise, latent, sampler, sigmas, *rest, **more)
    replay = HostReplay(patcher.model.diffusion_model, patcher.load_device, recorder)
    guider.model_options = comfy.model_patcher.create_model_options_clone(before)
    guider.model_options.setdefault("transformer_options", {})[REPLAY] = replay
    try:
        return executor(noise, latent, sampler, sigmas, *rest, **more)
    finally:
        guider.model_options = before
        replay.release()
