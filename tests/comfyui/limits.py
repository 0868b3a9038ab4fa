"""What ComfyUI has got since the oldest release that the pack runs on, and which test cannot run without it.

A test calls `skip_without("...")`; the host is asked by its source, before it is imported, so that tests of a server
can ask as well. `docs/compatibility.md` has a row for each limit.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from .base import comfy_path


class Limit(NamedTuple):
    """`sign` is in `file`, a path below ComfyUI's folder, of hosts that can."""

    file: str
    sign: str


LIMITS = {
    "core's context windows over our frames": Limit("comfy/context_windows.py", "timestep[0]"),
    "EasyCache on a batch": Limit("comfy_extras/nodes_easycache.py", "batch_slice"),
    "previews of the small models": Limit("comfy/latent_formats.py", "latent_rgb_factors_reshape"),
    "fresh noise of a seed of its own on the CPU": Limit("comfy/k_diffusion/sampling.py", "seed += 1"),
    "passes on several GPUs": Limit("comfy/model_patcher.py", "deepclone_multigpu"),
    "choices checked before the run": Limit("execution.py", "io.Combo.io_type"),
    "FrameInterpolate": Limit("comfy_extras/nodes_frame_interpolation.py", "FrameInterpolate"),
    "blueprints": Limit("app/subgraph_manager.py", "global_subgraphs"),
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
