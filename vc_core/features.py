"""What a video may use besides its model, for methods and controls that do not support all of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from torch import Tensor

from .denoising import AnalyticInit, Source
from .errors import UserError
from .specs import ModelSpec, Windows

if TYPE_CHECKING:
    from .control import Control
    from .request import Request


class Feature(Enum):
    """What a video may use besides its model."""

    SOURCE = "a video to start from"
    MASK = "a noise mask"
    END_IMAGE = "an end image"
    LOOP = "a loop"
    KEY_FRAMES = "key frames"
    ANALYTIC_INIT = "statistics of the first noise"
    CONTINUING_MODEL = "a model that continues an image"
    MOTION_MODEL = "a model with motion guidance"
    IMAGE_SCALE = "a guidance scale for the image"
    CACHE = "a cache"
    FRAME_TEXTS = "a text for each frame"
    CONTROL = "ControlNet"
    FREELONG = "FreeLong"
    REUSED_NOISE = "noise that is reused over time"
    NOISE_ROUNDS = "a control that samples in rounds"
    TIMED_CONTROL = "a control with a value for each frame"
    FIRST_STEPS = "a control of the first steps"


@dataclass(frozen=True, kw_only=True)
class Use:
    """A feature in the words of the front end, for messages: what was given, and how to do without."""

    given: str
    cure: str


def uses_of_request(request: Request) -> dict[Feature, Use]:
    """What a method or a control may not support of a request."""
    uses = {}
    if request.image_cfg is not None:
        given = f"A guidance scale for the image ({request.image_cfg:g})"
        uses[Feature.IMAGE_SCALE] = Use(given=given, cure="Leave it out")
    cache = request.step_cache or request.guidance_cache
    if cache is not None:
        uses[Feature.CACHE] = Use(given=f"The cache {cache}", cure="Leave the cache off")
    if request.loop:
        uses[Feature.LOOP] = Use(given="A loop", cure="Leave it out")
    windows, reordered = request.windows, request.reordered
    return {**uses, **uses_of_windows(windows, reordered, request.frames), **uses_of_controls(request.controls)}


def uses_of_windows(windows: Windows | None, reordered: Windows | None, frames: int | None) -> dict[Feature, Use]:
    """What a control may not support of the windows inside a network, and of those that reorder the first noise.
    frames: of the clip; None for the model's default."""
    uses = {}
    if windows is not None and windows.spectral:
        uses[Feature.FREELONG] = Use(given="FreeLong", cure="Choose another method for long videos")
    if reordered is not None and frames is not None and frames > reordered.size:
        given, cure = "Noise that is reused over time (FreeNoise)", "Choose another method for long videos"
        uses[Feature.REUSED_NOISE] = Use(given=given, cure=cure)
    return uses


def uses_of_controls(controls: Iterable[Control]) -> dict[Feature, Use]:
    """What a method may not support of the controls of a run."""
    controls = tuple(controls)
    found = {
        Feature.TIMED_CONTROL: [control.title for control in controls if control.is_timed],
        Feature.NOISE_ROUNDS: [control.title for control in controls if control.rounds_of_noise],
        Feature.FIRST_STEPS: [control.title for control in controls if control.wants_step],
    }
    cure = "Leave the control out"
    return {feature: Use(given=" and ".join(titles), cure=cure) for feature, titles in found.items() if titles}


def uses_of_model(spec: ModelSpec) -> dict[Feature, Use]:
    """What a method or a control may not support of a model."""
    uses = {}
    if spec.continues_images:
        given = f"{spec.name}, which continues an image,"
        uses[Feature.CONTINUING_MODEL] = Use(given=given, cure="Choose another model")
    if spec.embeds_motion:
        given = f"{spec.name}, which has motion guidance,"
        uses[Feature.MOTION_MODEL] = Use(given=given, cure="Choose another model")
    return uses


def uses_of_start(source: Source | AnalyticInit | None, end_image: Tensor | None) -> dict[Feature, Use]:
    """What a method or a control may not support of what a video starts from and leads to."""
    uses = {}
    if isinstance(source, AnalyticInit):
        uses[Feature.ANALYTIC_INIT] = Use(given="Statistics of the first noise", cure="Leave them out")
    elif source is not None:
        uses[Feature.SOURCE] = Use(given="A video to start from", cure="Leave it out")
    if end_image is not None:
        uses[Feature.END_IMAGE] = Use(given="An end image", cure="Leave it out")
    return uses


def refuse_uses(what: str, conflicts: Mapping[Feature, str], uses: Mapping[Feature, Use], cure: str) -> None:
    """Raises UserError for a feature in use that `what` does not support. conflicts: the reasons."""
    for feature, use in uses.items():
        if feature in conflicts:
            raise UserError(f"{use.given} is not supported with {what}: {conflicts[feature]}. {use.cure}, or {cure}.")
