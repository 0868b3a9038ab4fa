"""Dragging an object on the command line: its options, and the rough video that they ask for."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .control.tracks import FORMS, tracks_of
from .denoising.start import check_kept_until
from .errors import UserError
from .files import expanded
from .frames.dragging import BACKGROUNDS, KEPT_UNTIL, Drag, Reference, rough_video
from .frames.fitting import Fit
from .frames.pixels import load_image

FACTOR = 8
"""How many times larger images are than latents."""


def add_drag_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """The options of both commands that make videos."""
    group = parser.add_argument_group("to drag an object (Time-to-Move, without training)")
    group.add_argument(
        "--drag-mask",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="an image, white where the object is and as large as the image or the video; given several times, several "
        "objects",
    )
    group.add_argument(
        "--drag-track",
        default=None,
        metavar="TRACK",
        help=f"how the object moves, in pixels of the mask: {FORMS}; or the name of a file with either; one track "
        "for each mask, or one for all",
    )
    group.add_argument(
        "--drag-until",
        type=float,
        default=None,
        metavar="SHARE",
        help="the share of the noise schedule, 0 (to the end) to --strength, down to which the object is kept on its "
        f"track; lower values follow it more closely (default: {KEPT_UNTIL})",
    )
    group.add_argument(
        "--drag-background",
        choices=BACKGROUNDS,
        default=None,
        help=f"what is where the object was: the colors around it, or what is there (default: {BACKGROUNDS[0]})",
    )
    return group


def drag_of(options: argparse.Namespace) -> Drag | None:
    """The drag that the options ask for, if any. Raises UserError for options without effect, and for files and tracks
    that cannot be used."""
    if not options.drag_mask:
        _check_alone(options)
        return None
    if options.drag_track is None:
        raise UserError(f"--drag-mask needs a --drag-track. Give {FORMS}.")
    for name, used in (("--analytic-init", options.analytic_init is not None), ("--end-picture", _many_ends(options))):
        if used:
            raise UserError(f"--drag-mask is not supported with {name}: both say where sampling starts. Leave one out.")
    masks = [load_image(path).mean(dim=-1) for path in options.drag_mask]
    sizes = sorted({tuple(mask.shape) for mask in masks})
    if len(sizes) > 1:
        raise UserError(f"The masks have the sizes {sizes} (height, width). Give masks of one size.")
    return Drag(
        masks=torch.stack(masks),
        tracks=tracks_of(_text(options.drag_track)),
        background=options.drag_background or BACKGROUNDS[0],
    )


def _check_alone(options: argparse.Namespace) -> None:
    """Raises UserError for an option of a drag without its mask."""
    for name in ("track", "until", "background"):
        if getattr(options, f"drag_{name}") is not None:
            raise UserError(f"--drag-{name} needs a --drag-mask. Leave it out, or give the mask of the object.")


@dataclass(frozen=True, eq=False, kw_only=True)
class Start:
    """The video that a run starts from, f h w 3, if any; what is generated (1) of its latents, f h w, None for all; and
    the share of the noise schedule down to which the rest is kept."""

    clip: Tensor | None
    mask: Tensor | None = None
    kept_until: float = 0.0


def start_of(
    options: argparse.Namespace, image: Tensor | None, clip: Tensor | None, shape: tuple[int, ...], strength: float
) -> Start:
    """Where a run with latents b c f h w, at 8 times their size, starts: from the rough video of a drag, or from the
    clip. image: the first frame's, of any size; clip: the video to start from, at its size. Raises UserError as
    `drag_of`, and where there is neither."""
    drag = drag_of(options)
    if drag is None:
        return Start(clip=clip)
    until = KEPT_UNTIL if options.drag_until is None else float(options.drag_until)
    check_kept_until(until, strength)
    rough = _reference(drag, image, clip, shape, options.fit or "crop")
    return Start(clip=rough.frames, mask=rough.latent_mask(FACTOR), kept_until=until)


def _reference(drag: Drag, image: Tensor | None, clip: Tensor | None, shape: tuple[int, ...], fit: Fit) -> Reference:
    frames, height, width = shape[2], FACTOR * shape[3], FACTOR * shape[4]
    if clip is not None:
        return drag.fitted(height, width, fit).reference(clip, frames)
    if image is None:
        raise UserError("--drag-mask needs a --video whose first frame shows the object. Give one.")
    return rough_video(drag, [image], frames, height, width, fit)


def recipe_of_drag(options: argparse.Namespace, kept_until: float) -> dict[str, Any]:
    """What of a drag is kept in the file."""
    if not options.drag_mask:
        return {}
    return {
        "drag": {
            "masks": [path.name for path in options.drag_mask],
            "track": options.drag_track if _is_typed(options.drag_track) else Path(options.drag_track).name,
            "until": kept_until,
            "background": options.drag_background or BACKGROUNDS[0],
        }
    }


def _many_ends(options: argparse.Namespace) -> bool:
    """Whether the video runs through key frames."""
    return len(options.end_picture) > (0 if options.loop else 1)


def _is_typed(track: str) -> bool:
    """Whether this is a track, rather than the name of a file with one."""
    return "," in track or track.lstrip().startswith(("[", "{"))


def _text(given: str) -> str:
    """The track that is given, or that is in the file of this name."""
    if _is_typed(given):
        return given
    file = expanded(given)
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{given!r} is neither a track nor a text file with one. Write it as {FORMS}.") from error
