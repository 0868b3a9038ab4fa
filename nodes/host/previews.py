"""A clip while it is made: its frames one after another, in every sampler node."""

from __future__ import annotations

import time
from typing import Any

import comfy.model_patcher
import comfy.patcher_extension
import comfy.utils
import latent_preview
from torch import Tensor

from .patches import TICK

SECONDS = 0.125
"""Frames of a preview follow each other at about eight in a second,"""
REST = 5
"""and never faster than this many times the time that one of them takes."""
WRAPPER = "videocrafter_previews"
CALLBACK = 5
"""The position of the callback among the arguments of a run."""


class Previews:
    """The frames of the newest clip on a progress bar of `steps` steps, played in a loop."""

    def __init__(self, model: Any, steps: int) -> None:
        self.bar = comfy.utils.ProgressBar(steps)
        self.previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self.done, self.steps = 0, steps
        self.clip: Tensor | None = None
        self.frame = 0
        self.due = 0.0

    def show(self, clip: Tensor, done: int, total: int) -> None:
        """A clip, f c h w, after `done` of the steps."""
        self.clip, self.done, self.steps = clip.detach(), done, total
        self.bar.update_absolute(done, total, self._next())

    def tick(self) -> None:
        """Called between blocks: shows the next frame when its time has come."""
        if self.clip is None or not self.previewer or time.monotonic() < self.due:
            return
        self.bar.update_absolute(self.done, self.steps, self._next())

    def _next(self) -> Any:
        """The next frame as ComfyUI sends preview images; None without previews."""
        if self.clip is None or not self.previewer:
            return None
        start = time.monotonic()
        shown = self.frame % self.clip.shape[0]
        self.frame += 1
        image = self.previewer.decode_latent_to_preview_image("JPEG", self.clip[shown : shown + 1])
        end = time.monotonic()
        self.due = end + max(SECONDS, REST * (end - start))
        return image


def animate(patcher: Any) -> Any:
    """The MODEL, whose previews are animated in ComfyUI's own sampler nodes as well."""
    patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, WRAPPER, _animated)
    return patcher


def _animated(executor: Any, *arguments: Any, **keywords: Any) -> Any:
    """A run of ComfyUI that shows the further frames between its steps; ComfyUI shows the first one."""
    guider = executor.class_obj
    callback = arguments[CALLBACK] if len(arguments) > CALLBACK else None
    before = guider.model_options
    if callback is None or TICK in before.get("transformer_options", {}):
        return executor(*arguments, **keywords)
    steps = len(arguments[3]) - 1
    previews = Previews(guider.model_patcher, steps)

    def with_preview(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        callback(step, denoised, x, total)
        previews.show(denoised, step + 1, total)

    guider.model_options = comfy.model_patcher.create_model_options_clone(before)
    guider.model_options["transformer_options"][TICK] = previews.tick
    try:
        return executor(*arguments[:CALLBACK], with_preview, *arguments[CALLBACK + 1 :], **keywords)
    finally:
        guider.model_options = before
