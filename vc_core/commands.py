"""The options of the two commands that make videos, for the command line and for the lines of a batch."""

from __future__ import annotations

import argparse
from pathlib import Path

from .dragging import add_drag_options
from .job import STRENGTH
from .options import add_picture_options, add_video_options, strength

TEXT, IMAGE = "text-to-video", "image-to-video"


def add_text_to_video(parser: argparse.ArgumentParser) -> None:
    """The options of text-to-video."""
    add_video_options(parser)
    start = parser.add_argument_group("to start from a video instead of noise")
    start.add_argument("--video", type=Path, default=None, help="its first frames are used, cropped to the size")
    _add_strength(start)
    add_drag_options(parser)
    parser.set_defaults(
        picture=None,
        end_picture=[],
        views=[],
        loop=False,
        fit=None,
        image_cfg=None,
        start_timestep=None,
        analytic_init=None,
    )


def add_image_to_video(parser: argparse.ArgumentParser) -> None:
    """The options of image-to-video."""
    parser.set_defaults(video=None)
    parser.add_argument("--picture", "-i", type=Path, required=True, help="the image that the video shows, of any size")
    add_video_options(parser)
    add_picture_options(parser)
    _add_strength(add_drag_options(parser))


def _add_strength(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--strength",
        type=strength,
        default=None,
        help=f"above 0 (changes little) to 1 (keeps nothing); default: {STRENGTH}",
    )
