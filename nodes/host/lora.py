"""LoRA files as weight patches of ComfyUI's own kind, for a MODEL of ours.

Core's loader reads most files for this network. Ours also reads those whose tensors have no names (T2V-Turbo's), and
raises for what does not fit instead of leaving it out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.weight_adapter
import torch
from torch import Tensor

from ...vc_core.checkpoint.lora import GUIDANCE, Change, grown_spec, read_lora
from ...vc_core.denoising import NoiseSchedule
from ...vc_core.errors import UserError
from ...vc_core.specs import ModelSpec
from .model import VideoCrafterConfig, VideoCrafterModel, remember

NETWORK = "diffusion_model."


def with_lora(model: Any, path: Path, strength: float) -> Any:
    """A copy of the MODEL with the changes of the file as patches. Raises UserError for a file of another model."""
    spec = getattr(model.model, "spec", None)
    if spec is None:
        raise UserError(
            "The model input is not a VideoCrafter model. Connect the one from VideoCrafter's checkpoint loader, or "
            "use ComfyUI's LoraLoader for other models."
        )
    lora = read_lora(path, spec.unet)
    out = model.clone() if grown_spec(spec, lora.guidance_width) is spec else _grown(model, lora.guidance_width)
    patches = {NETWORK + name: _patch(name, change) for name, change in lora.changes.items()}
    taken = set(out.add_patches(patches, strength))
    missing = sorted(patches.keys() - taken)
    if missing:
        raise UserError(f"{path} changes weights that this model does not have, for example {missing[0]}.")
    return out


def _patch(name: str, change: Change) -> Any:
    """up @ down * scale in the form of ComfyUI's adapter, which multiplies by alpha over the rank."""
    rank = change.down.shape[0]
    weights = (change.up, change.down, change.scale * rank, None, None, None)
    return comfy.weight_adapter.LoRAAdapter({name}, weights)


SETTINGS = (
    "model_options",
    "object_patches",
    "weight_wrapper_patches",
    "wrappers",
    "callbacks",
    "attachments",
    "additional_models",
    "injections",
    "hook_patches",
    "forced_hooks",
)
"""The attributes that nodes set on a MODEL besides patches of its weights."""


def load_grown(init: tuple[Any, ...], width: int, disable_dynamic: bool = False) -> Any:
    """A new MODEL with a guidance embedding of this width. `init` is the `cached_patcher_init` of the one without."""
    load, arguments, *index = init
    loaded = load(*arguments, disable_dynamic=disable_dynamic)
    return _grown(loaded[index[0]] if index else loaded, width)


def _grown(model: Any, width: int) -> Any:
    """A MODEL that shares the weights, with a guidance embedding of this width that has no effect yet, and with
    everything that nodes have set on the given one."""
    old = model.model
    spec: ModelSpec = grown_spec(old.spec, width)
    config = VideoCrafterConfig(spec, NoiseSchedule.from_spec(spec.diffusion), old.latent_format)
    config.optimizations = dict(old.model_config.optimizations)
    config.set_inference_dtype(old.model_config.unet_config.get("dtype"), old.manual_cast_dtype)
    grown = VideoCrafterModel(config, device="meta")
    weights = {name: _unpatched(model, name, value) for name, value in old.diffusion_model.state_dict().items()}
    like = weights["time_embed.0.weight"]
    weights[GUIDANCE] = torch.zeros(spec.unet.model_channels, spec.unet.guidance_width, dtype=like.dtype)
    grown.diffusion_model.load_state_dict(weights, strict=True, assign=True)
    grown.diffusion_model.requires_grad_(False)
    grown.device = old.device
    grown.image_tokens, grown.checkpoint = old.image_tokens, old.checkpoint
    out = type(model)(grown, load_device=model.load_device, offload_device=model.offload_device)
    out.patches = {key: list(value) for key, value in model.patches.items()}
    out.patches_uuid = model.patches_uuid
    copied = model.clone()
    for name in SETTINGS:
        if hasattr(copied, name):
            setattr(out, name, getattr(copied, name))
    init = getattr(model, "cached_patcher_init", None)
    return out if init is None else remember(out, load_grown, (init, width))


def _unpatched(model: Any, name: str, value: Tensor) -> Tensor:
    """A weight as the file has it, also while patches are applied to it."""
    kept = model.backup.get(NETWORK + name)
    return value if kept is None else kept.weight
