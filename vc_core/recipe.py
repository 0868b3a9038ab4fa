"""How a video was made, for the metadata of its file: every setting as JSON under `videocrafter`, and the main ones as
a `comment` for people. Neither is a workflow, and ComfyUI does not load it as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from .control.options import described
from .pipeline import Request
from .specs import ModelSpec


def recipe(spec: ModelSpec, prompt: str, request: Request, **more: Any) -> dict[str, Any]:
    """All settings of a run, with the model's defaults for those that the request leaves open. `more` is added to them:
    the names of files, for example."""
    settings = request.settle(spec)
    sampling, guidance = settings.sampling, settings.sampling.guidance
    spacing = sampling.spacing or ("lcm" if sampling.sampler == "lcm" else "uniform")
    settled = replace(
        request,
        width=settings.width,
        height=settings.height,
        frames=settings.frames,
        fps=settings.fps,
        cfg=guidance.scale if settings.guidance is None else settings.guidance,
        guidance_rescale=guidance.rescale,
        motion=settings.motion,
        sampling=replace(sampling, spacing=spacing),
    )
    found = asdict(replace(settled, controls=()))
    controls = [described(control) for control in request.controls]
    found = {**found, "controls": controls} if controls else {k: v for k, v in found.items() if k != "controls"}
    return {"model": spec.name, "prompt": prompt, **found, **more}


def tags(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe as the metadata of a file."""
    return {"comment": comment(recipe), "videocrafter": dict(recipe)}


def comment(recipe: Mapping[str, Any]) -> str:
    """The prompts, then the seed and the main settings in one line, as text that every container can hold."""
    sampling = recipe["sampling"]
    lines = [recipe["prompt"], *(f"Then: {prompt}" for prompt in recipe["then"])]
    if recipe["negative"]:
        lines.append(f"Negative prompt: {recipe['negative']}")
    lines.append(
        f"Seed: {recipe['seed']}, model: {recipe['model']}, size: {recipe['width']}x{recipe['height']}, frames: "
        f"{recipe['frames']}, steps: {sampling['steps']}, sampler: {sampling['sampler']}, spacing: "
        f"{sampling['spacing']}, eta: {sampling['eta']:g}, cfg: {recipe['cfg']:g}, fps condition: {recipe['fps']:g}"
    )
    return "\n".join(lines).encode("utf-8", "replace").decode()
