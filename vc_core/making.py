"""Making the video of a job: the model that its options name, its frames, and their file."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .denoising import AnalyticInit, Source, Step
from .errors import reason
from .job import STRENGTH, Job, recipe_of
from .long import frames, key_frames
from .long.off import Off
from .long.video import applied
from .machine import choose_device, choose_dtype
from .options import is_row
from .pipeline import VideoCrafter
from .recipe import tags
from .video import Written
from .video.writing import writing

log = logging.getLogger(__name__)

SMALL = 10**7
"""Parameters of a UNet up to which a second thread costs more on a CPU than it gains."""

OnStep = Callable[[Step], None]


def out_of_memory(error: BaseException) -> str:
    """What is said of it, and what to try."""
    said = reason(error, "out of memory")
    return f"There is not enough memory ({said}). Try --dtype fp16, smaller --width and --height, or fewer --frames."


def load_model(options: argparse.Namespace) -> VideoCrafter:
    """The model that the options name, on their device."""
    device = choose_device(options.device)
    crafter = VideoCrafter.load(
        options.model,
        preset=options.preset,
        device=device,
        dtype=choose_dtype(options.dtype, device),
        loras=options.lora,
    )
    crafter.graphs = not options.no_cuda_graphs
    if options.compile:
        crafter.compile()
    return crafter


@contextmanager
def threads_for(device: torch.device, parameters: int) -> Iterator[None]:
    """One thread for a small network on a CPU, unless OMP_NUM_THREADS asks for another number; then as before."""
    before = torch.get_num_threads()
    if device.type == "cpu" and parameters <= SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def settings_of(crafter: VideoCrafter, options: argparse.Namespace, job: Job) -> dict[str, Any]:
    """All settings of a video, as they are kept in its file."""
    return recipe_of(options, job, save_fps=float(job.save_fps), dtype=str(crafter.parts.dtype))


@contextmanager
def made(crafter: VideoCrafter, options: argparse.Namespace, job: Job, on_step: OnStep) -> Iterator[Written]:
    """The video of a job, complete, under a temporary name: it gets its own, `options.output`, when the block ends, and
    is removed if the block fails. crafter: the model that the options name. on_step: called after each step."""
    source: Source | AnalyticInit | None = job.source
    if job.start.clip is not None:
        mask = None if job.start.mask is None else job.start.mask[None, None]
        latents = crafter.encode(job.start.clip)
        source = Source(latents, options.strength or STRENGTH, mask, job.start.kept_until)
    with writing(
        options.output,
        sampled(crafter, options, job, source, on_step),
        fps=job.save_fps,
        metadata=tags(settings_of(crafter, options, job)),
        overwrite=options.overwrite,
    ) as written:
        yield written


def sampled(
    crafter: VideoCrafter,
    options: argparse.Namespace,
    job: Job,
    source: Source | AnalyticInit | None,
    on_step: OnStep,
) -> Tensor | Iterator[Tensor]:
    """The frames, of long videos one after the other while the rest is sampled."""
    picture, *ends = job.images
    request, long = job.given, job.method
    log.info("Sampling starts on %s in %s.", crafter.parts.device, crafter.parts.dtype)
    if picture is not None and is_row(options):
        row, prompts = [picture, *(end for end in ends if end is not None)], (options.prompt, *options.then)
        request = applied(long, request, crafter.parts.spec)
        return key_frames(crafter, prompts, row, request=request, closed=options.loop, on_step=on_step)
    end = ends[0] if ends else None
    if long == Off():
        return crafter.generate(
            options.prompt, picture, request=request, source=source, on_step=on_step, end_image=end, views=job.views
        )
    return frames(
        crafter, options.prompt, picture, request=request, method=long, source=source, end_image=end, on_step=on_step
    )
