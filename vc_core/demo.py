"""A first demonstration: one text-to-video and one image-to-video clip with the small bundled models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from . import bundled
from .denoising import Step
from .frames.pixels import load_picture, save_picture
from .frames.sheet import contact_sheet
from .pipeline import Request, VideoCrafter
from .recipe import recipe, tags
from .video import write_video

IMAGE = bundled.FOLDER / "example_picture.png"

TEXT_PROMPT = "a red square moves quickly to the left on a grey background"
IMAGE_PROMPT = "a yellow circle moves quickly to the right on a navy background"


def run_demo(folder: Path, progress: Callable[[str, Step], None] | None = None) -> list[Path]:
    """Makes both clips and a contact sheet in `folder`, which is created if needed. Returns the paths of the new files.

    progress: called with the name of the clip and the step, after each step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs: list[tuple[str, Path, str, Tensor | None]] = [
        ("text-to-video", bundled.TEXT, TEXT_PROMPT, None),
        ("image-to-video", bundled.IMAGE, IMAGE_PROMPT, load_picture(IMAGE)),
    ]
    written: list[Path] = []
    clips = []
    for name, file, prompt, image in jobs:
        crafter = VideoCrafter.load(file)

        def on_step(step: Step, name: str = name) -> None:
            if progress is not None:
                progress(name, step)

        request, spec = Request(seed=1), crafter.parts.spec
        frames = crafter.generate(prompt, image, request=request, on_step=on_step)
        clips.append(frames)
        metadata = tags(recipe(spec, prompt, request, files=[file.name]))
        written.append(
            write_video(_unused(folder / f"{name}.mp4"), frames, fps=spec.defaults.save_fps, metadata=metadata)
        )
    sheet = contact_sheet(torch.cat(clips), columns=clips[0].shape[0])
    written.append(save_picture(_unused(folder / "contact-sheet.png"), sheet))
    return written


def _unused(path: Path) -> Path:
    """`path`, or the first of `name-2`, `name-3`, ... that does not exist yet."""
    number, free = 2, path
    while free.exists():
        free = path.with_stem(f"{path.stem}-{number}")
        number += 1
    return free
