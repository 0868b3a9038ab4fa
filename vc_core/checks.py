"""What a request and a model must have in common."""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch

from .errors import UserError
from .specs import ModelSpec


def check_picture(*, given: bool, wanted: bool) -> None:
    """Raises UserError when an image-to-video model lacks a picture, or another model was given one."""
    if wanted and not given:
        raise UserError("This is an image-to-video model: give it a picture to start from.")
    if given and not wanted:
        raise UserError("This is a text-to-video model: it cannot take a picture. Use an image-to-video model.")


def check_ends(spec: ModelSpec, *, wanted: bool, loop: bool = False) -> None:
    """Raises UserError when a last picture or a loop is asked of a model that knows none, or both at once."""
    if (wanted or loop) and not spec.unet.concat_channels:
        raise UserError(
            "Loops and clips between two pictures need a model that continues pictures (best ToonCrafter for drawings, "
            f"and DynamiCrafter's 512 model for interpolation for all else); {spec.name} is none."
        )
    if wanted and loop:
        raise UserError("A loop ends with the picture that it begins with: leave out the last picture, or the loop.")


def check_side(name: str, pixels: int, multiple: int) -> None:
    """Raises UserError, naming the two nearest sizes, unless `pixels` is a positive multiple."""
    if pixels > 0 and pixels % multiple == 0:
        return
    below = max(multiple, pixels // multiple * multiple)
    above = below + multiple
    raise UserError(
        f"{name} is {pixels} pixels; it should be a multiple of {multiple}. The nearest are {below} and {above}."
    )


COMPILERS = ("g++", "clang++", "c++", "cl")


def check_compiler(device: torch.device) -> None:
    """Raises UserError where torch.compile has nothing to compile with: a C++ compiler on a CPU, Triton on a GPU."""
    if device.type != "cpu":
        if importlib.util.find_spec("triton") is None:
            raise UserError("Compiling for a GPU needs Triton, which is not installed. Install it, or do not compile.")
        return
    names = [os.environ.get("CXX", ""), *COMPILERS]
    if not any(shutil.which(name) for name in names if name):
        raise UserError(
            f"Compiling for a CPU needs a C++ compiler, and none of {', '.join(COMPILERS)} was found. Install one, or "
            "do not compile."
        )
