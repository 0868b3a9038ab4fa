"""What ComfyUI has added since the oldest release that the pack runs on, and which tests need it.

A test calls `skip_without("...")`; the host is asked by its source, before it is imported, so that tests of a server
can ask as well. `docs/compatibility.md` names every limit.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from .base import comfy_path


class Limit(NamedTuple):
    """`sign` is in `file`, a path below ComfyUI's folder, of hosts that can."""

    file: str
    sign: str


NODES = {
    "ConditioningMultiply": "nodes.py",
    "CFGOverride": "comfy_extras/nodes_custom_sampler.py",
    "DualModelGuider": "comfy_extras/nodes_custom_sampler.py",
    "FluxKVCache": "comfy_extras/nodes_flux.py",
    "FrameInterpolate": "comfy_extras/nodes_frame_interpolation.py",
    "HiDreamO1PatchSeamSmoothing": "comfy_extras/nodes_hidream_o1.py",
    "LoraLoaderBypass": "comfy_extras/nodes_lora_debug.py",
    "LoraLoaderBypassModelOnly": "comfy_extras/nodes_lora_debug.py",
    "MiniMaxH3SigmaShift": "comfy_extras/nodes_minimax_h3.py",
    "ModelNoiseScale": "comfy_extras/nodes_model_advanced.py",
    "NAGuidance": "comfy_extras/nodes_nag.py",
    "ScaleROPE": "comfy_extras/nodes_rope.py",
    "SelectModelDevice": "comfy_extras/nodes_multigpu.py",
    "TemporalScoreRescaling": "comfy_extras/nodes_eps.py",
    "wanBlockSwap": "comfy_extras/nodes_nop.py",
}
"""Core nodes that the oldest release lacks -> the file in which newer ones have them."""

LIMITS = {
    "core's context windows over our frames": Limit("comfy/context_windows.py", "timestep[0]"),
    "EasyCache on a batch": Limit("comfy_extras/nodes_easycache.py", "batch_slice"),
    "previews of the small models": Limit("comfy/latent_formats.py", "latent_rgb_factors_reshape"),
    "fresh noise of a seed of its own on the CPU": Limit("comfy/k_diffusion/sampling.py", "seed += 1"),
    "passes on several GPUs": Limit("comfy/model_patcher.py", "deepclone_multigpu"),
    "choices checked before the run": Limit("execution.py", "io.Combo.io_type"),
    "blueprints": Limit("app/subgraph_manager.py", "global_subgraphs"),
    "replacement of renamed nodes": Limit("app/node_replace_manager.py", "class NodeReplaceManager"),
    **{node: Limit(file, f'"{node}"') for node, file in NODES.items()},
}


def has(name: str) -> bool:
    """Whether the host at hand can do what `LIMITS` names."""
    limit = LIMITS[name]
    file = comfy_path() / limit.file
    return file.is_file() and limit.sign in file.read_text(encoding="utf-8")


def skip_without(name: str) -> None:
    """Skips the test that runs unless the host can do this."""
    if not has(name):
        pytest.skip(f"this ComfyUI is too old for: {name}")


def skip_without_node(node: str) -> None:
    """Skips the test that runs if the host lacks a core node that not every release has."""
    if node in NODES:
        skip_without(node)
