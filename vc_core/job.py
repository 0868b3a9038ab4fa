"""The job of a command that makes a video: what its options ask for, checked before the weights are read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

from torch import Tensor

from . import bundled
from .checkpoint import Checkpoint, open_checkpoint
from .checkpoint.lora import lora_spec
from .checkpoint.statistics import read_statistics
from .checks import check_ends, check_picture, check_views
from .control.options import controls_of
from .control.running import check_controls, scene_of
from .denoising import AnalyticInit, NoiseSchedule
from .dragging import Start, recipe_of_drag, start_of
from .errors import UserError
from .frames.pixels import load_image
from .long import Method
from .long.method import Feature, Use
from .long.video import applied, check_method
from .options import check_used, is_row, long_of, prompt_of, request_of
from .pipeline import Request
from .recipe import recipe
from .request import Settings
from .specs import ModelSpec
from .video import check_target, format_of, frame_rate
from .video.clips import load_clip, load_views

NEEDED: tuple[str, ...] = ("unet", "autoencoder", "text_encoder")
STRENGTH = 0.6


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """A video whose options fit the model and each other.

    parameters: of the network. images: the first frame's, then those that the video comes to. given: the request as the
    options state it; request: with what the method adds. start, source: what the video starts from instead of noise.
    views: f h w 3 in 0..1, rendered views for a model that follows them. warnings: what will probably not turn out as
    wished.
    """

    spec: ModelSpec
    parameters: int
    images: Sequence[Tensor | None]
    method: Method
    given: Request
    request: Request
    start: Start
    source: AnalyticInit | None
    views: Tensor | None
    save_fps: Fraction
    warnings: tuple[str, ...] = ()


def checked(options: argparse.Namespace, opened: Checkpoint | None = None) -> Job:
    """Everything that can be known without the weights. Raises UserError where it does not fit together. opened: the
    model's file, if it is open already."""
    image = _first_image(options)
    checkpoint = open_checkpoint(options.model, preset=options.preset) if opened is None else opened
    for part in NEEDED:
        checkpoint.require(part)
    spec = lora_spec(checkpoint.spec, options.lora)
    encoder = {"image_encoder", "image_tokens"} <= set(checkpoint.parts)
    check_picture(spec, given=image is not None, encoder=encoder)
    check_ends(spec, wanted=bool(options.end_picture), loop=options.loop and not options.end_picture)
    check_used(options, spec)
    options.prompt = prompt_of(options.prompt, spec)
    ends = [load_image(path) for path in options.end_picture]
    method, given = _chosen(options, spec, checkpoint.parts)
    request = applied(method, given, spec)
    settings = request.settle(spec)
    unchanged = spec is checkpoint.spec
    schedule = checkpoint.schedule() if unchanged else NoiseSchedule.from_spec(spec.diffusion)
    settings.sampling.levels(schedule.until(request.start))
    views = _views(options, spec, settings)
    source, clip = _source(options, settings.shape(spec)), _clip(options, settings)
    start = start_of(options, image, clip, settings.shape(spec), _strength(options))
    save_fps = frame_rate(spec.defaults.save_fps if options.save_fps is None else options.save_fps)
    return Job(
        spec=spec,
        parameters=sum(tensor.numel() for tensor in checkpoint.detection.contents.parts["unet"].values()),
        images=(image, *ends),
        method=method,
        given=given,
        request=request,
        start=start,
        source=source,
        views=views,
        save_fps=save_fps,
        warnings=_warnings(options, spec, None if method.name != "off" or ends else settings.frames),
    )


def _first_image(options: argparse.Namespace) -> Tensor | None:
    return None if options.picture is None else load_image(options.picture)


def _strength(options: argparse.Namespace) -> float:
    """The share of the steps of a run that starts from a video."""
    return options.strength or STRENGTH


def _clip(options: argparse.Namespace, settings: Settings) -> Tensor | None:
    """The video to start from, at the size of the new one."""
    if options.video is None:
        return None
    return load_clip(options.video, frames=settings.frames, width=settings.width, height=settings.height)


def _views(options: argparse.Namespace, spec: ModelSpec, settings: Settings) -> Tensor | None:
    """The rendered views to follow. Raises UserError where they do not fit the model or the clip."""
    views = load_views(options.views) if options.views else None
    check_views(spec, None if views is None else len(views), settings.frames)
    return views


def check_output(options: argparse.Namespace) -> None:
    form = format_of(options.output)
    check_target(options.output, overwrite=options.overwrite, folder=form.kind == "png")


def resolve_names(options: argparse.Namespace) -> None:
    """Puts the bundled files in the place of their short name."""
    continues = bool(options.end_picture) or options.loop or options.fit is not None
    small = bundled.model_for(picture=options.picture is not None, continues=continues)
    options.model = [bundled.resolved(path, small) for path in options.model]
    options.lora = [(bundled.resolved(path, bundled.TURBO_LORA), share) for path, share in options.lora]


def _source(options: argparse.Namespace, shape: tuple[int, ...]) -> AnalyticInit | None:
    if options.analytic_init is None:
        return None
    source = read_statistics(options.analytic_init)
    source.check(shape)
    return source


def _chosen(options: argparse.Namespace, spec: ModelSpec, parts: tuple[str, ...]) -> tuple[Method, Request]:
    """The long-video method and the request. Raises UserError where the method or the controls do not support the other
    options. parts: those in the model's file."""
    method, request = long_of(options), request_of(options, spec)
    controls = controls_of(options, request.settle(spec))
    if controls:
        request = replace(request, controls=controls)
        request = replace(request_of(options, request.controlled(spec)), seed=request.seed, controls=controls)
    settings = request.settle(spec)
    count = len(settings.sampling.levels(NoiseSchedule.from_spec(spec.diffusion).until(request.start)))
    scene = scene_of(spec, applied(method, request, spec), settings, (options.prompt, *request.then), count - 1)
    check_controls(request, scene, _uses(options), parts)
    if is_row(options) and options.analytic_init is not None:
        raise UserError("--analytic-init is not supported with a row of key frames. Give one --end-picture.")
    check_method(method, request, spec, _uses(options), "--long")
    return method, request


def recipe_of(options: argparse.Namespace, job: Job, **more: Any) -> dict[str, Any]:
    """How the video was made, kept in its file: all settings, and the names of the files that went in."""
    rows = {"end_pictures": options.end_picture, "views": options.views}
    given = {"picture": options.picture, "video": options.video, "analytic_init": options.analytic_init}
    return recipe(
        job.spec,
        options.prompt,
        job.request,
        files=[file.name for file in options.model],
        preset=options.preset,
        loras=[[file.name, share] for file, share in options.lora],
        **{name: file.name for name, file in given.items() if file is not None},
        **({"strength": _strength(options)} if options.video is not None or options.drag_mask else {}),
        **recipe_of_drag(options, job.start.kept_until),
        long={"method": job.method.name, **asdict(job.method)},
        **{name: [file.name for file in files] for name, files in rows.items() if files},
        **more,
    )


def _warnings(options: argparse.Namespace, spec: ModelSpec, whole: int | None) -> tuple[str, ...]:
    """What will probably not turn out as wished. whole: frames of a video that is sampled as one clip."""
    found = [bundled.warning(spec.name, prompt) for prompt in (options.prompt, *options.then)]
    if whole is not None and whole > spec.defaults.frames:
        found.append(
            f"All {whole} frames are made as one clip, though the model was trained on {spec.defaults.frames}; --long "
            "freenoise keeps them one scene."
        )
    return tuple(filter(None, found))


def _uses(options: argparse.Namespace) -> dict[Feature, Use]:
    """What a long-video method may not support, by its option."""
    row, start = is_row(options), options.video is not None or bool(options.drag_mask)
    given = {
        Feature.SOURCE: ("--drag-mask" if options.video is None else "--video", start),
        Feature.MASK: ("--drag-mask", bool(options.drag_mask)),
        Feature.KEY_FRAMES: ("--end-picture", row),
        Feature.END_IMAGE: ("--end-picture", bool(options.end_picture) and not row),
        Feature.LOOP: ("--loop", options.loop and not row),
        Feature.ANALYTIC_INIT: ("--analytic-init", options.analytic_init is not None),
        Feature.IMAGE_SCALE: ("--image-cfg", options.image_cfg is not None),
    }
    return {feature: Use(given=name, cure=f"Leave {name} out") for feature, (name, used) in given.items() if used}
