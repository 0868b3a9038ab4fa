"""Old and new hosts: keywords that only newer ComfyUI knows are passed only there."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import comfy.model_management
from comfy_api.latest import io


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
