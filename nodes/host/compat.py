"""Old and new hosts: keywords that only newer ComfyUI knows are passed only there."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import comfy.model_management
from comfy_api.latest import io
from torch import Tensor


def known(target: Callable[..., Any], /, **keywords: Any) -> dict[str, Any]:
    """Those of `keywords` that `target` takes, all of them where it takes any.

    Use: `io.Schema(node_id="...", **known(io.Schema, search_aliases=[...]))`.
    """
    parameters = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return keywords
    return {name: value for name, value in keywords.items() if name in parameters}


def remember_types(module: Any) -> None:
    """Tells newer hosts the types that a module's weights have by themselves, before streaming changes them."""
    archive = getattr(comfy.model_management, "archive_model_dtypes", None)
    if archive is not None:
        archive(module)


def aliases(*names: str) -> dict[str, Any]:
    """Further words under which the node search finds a node (ComfyUI 0.11 and later)."""
    return known(io.Schema, search_aliases=list(names))


def advanced(kind: Callable[..., Any]) -> dict[str, Any]:
    """Folds an input away among the advanced ones (ComfyUI 0.10 and later); `kind` is its class, as `io.Int.Input`."""
    return known(kind, advanced=True)


def fill(module: Any, tensors: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Gives the tensors themselves to the module, in the type of its own, so that there is no second copy of them; a
    module that ComfyUI has built on the GPU takes copies. The names that are missing, and those that do not belong."""
    own = module.state_dict()
    assign = all(tensor.device.type == "cpu" for tensor in own.values())
    if assign:
        tensors = {name: tensor.to(own[name].dtype) if name in own else tensor for name, tensor in tensors.items()}
    missing, unexpected = module.load_state_dict(tensors, strict=False, assign=assign)
    return list(missing), list(unexpected)
