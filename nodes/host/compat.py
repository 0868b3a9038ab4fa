"""Compatibility with older and newer ComfyUI: arguments and calls that only some versions support."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.patcher_extension
import comfy.utils
from comfy_api.latest import io
from torch import Tensor


def known(target: Callable[..., Any], /, **keywords: Any) -> dict[str, Any]:
    """Those of `keywords` that `target` accepts.

    Use: `io.Schema(node_id="...", **known(io.Schema, search_aliases=[...]))`.
    """
    parameters = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return keywords
    return {name: value for name, value in keywords.items() if name in parameters}


def remember_types(module: Any) -> None:
    """Records the original dtypes of a module's weights in newer ComfyUI, before weight streaming changes them."""
    archive = getattr(comfy.model_management, "archive_model_dtypes", None)
    if archive is not None:
        archive(module)


def aliases(*names: str) -> dict[str, Any]:
    """Further search terms for a node (ComfyUI 0.11 and later)."""
    return known(io.Schema, search_aliases=list(names))


def advanced(kind: Callable[..., Any]) -> dict[str, Any]:
    """Marks an input as advanced (ComfyUI 0.10 and later); `kind` is its class, such as `io.Int.Input`."""
    return known(kind, advanced=True)


def choice(name: str, options: Mapping[str, Sequence[Any]], *, tooltip: str) -> Any:
    """A combo input that shows the inputs of the option that is chosen; before ComfyUI had such combos, a plain one."""
    dynamic = getattr(io, "DynamicCombo", None)
    if dynamic is None:
        return io.Combo.Input(name, options=list(options), tooltip=tooltip)
    found = [dynamic.Option(key, list(inputs)) for key, inputs in options.items()]
    return dynamic.Input(name, options=found, tooltip=tooltip)


def either(widget: Any, *types: str) -> Any:
    """An input with a widget that also takes connections of other types; before ComfyUI had such inputs, the widget."""
    kind = getattr(io, "MultiType", None)
    return widget if kind is None else kind.Input(widget, [io.Custom(name) for name in types])


def is_dynamic(patcher: Any) -> bool:
    """Whether the patcher moves and casts each weight when its layer runs (dynamic VRAM, ComfyUI 0.30 and later)."""
    ask: Callable[[], bool] | None = getattr(patcher, "is_dynamic", None)
    return ask is not None and ask()


def keep_tables(patcher: Any) -> Any:
    """Makes every `model_sampling` of a MODEL keep its own tables, and applies patches to the tables of its network.
    Returns the patcher.

    A dynamic patcher backs up the buffers of a model by name and restores them when it is loaded again: into the wrong
    object, if a node has replaced `model_sampling` in between. And it patches the parameters of layers alone, not those
    of modules with tables of relative positions or with gates, which it does back up and restore.
    """

    def forget(loaded: Any, *_: Any) -> None:
        for name in [name for name in loaded.backup_buffers if name.startswith("model_sampling.")]:
            del loaded.backup_buffers[name]

    def patch(loaded: Any, *_: Any) -> None:
        for key, patches in loaded.patches.items():
            owner, _, _ = key.rpartition(".")
            if not hasattr(comfy.utils.get_attr(loaded.model, owner), "comfy_cast_weights"):
                own = comfy.utils.get_attr(loaded.model, key)
                changed = comfy.lora.calculate_weight(patches, own.detach().clone(), key)
                comfy.utils.set_attr_param(loaded.model, key, changed)

    if is_dynamic(patcher):
        for change in (forget, patch):
            patcher.add_callback(comfy.patcher_extension.CallbacksMP.ON_LOAD, change)
    return patcher


def fill(module: Any, tensors: dict[str, Tensor], patcher: Any) -> tuple[list[str], list[str]]:
    """Assigns the tensors to the module of a patcher without a second copy. Returns the missing and the unexpected
    names.

    A dynamic patcher keeps the dtype of the file and casts on the GPU. Otherwise the tensors are cast to the module's
    own dtypes, and copied if ComfyUI has built the module on the GPU.
    """
    assign = is_dynamic(patcher)
    if not assign:
        own = module.state_dict()
        assign = all(tensor.device.type == "cpu" for tensor in own.values())
        if assign:
            tensors = {name: tensor.to(own[name].dtype) if name in own else tensor for name, tensor in tensors.items()}
    missing, unexpected = module.load_state_dict(tensors, strict=False, assign=assign)
    return list(missing), list(unexpected)
