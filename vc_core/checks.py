"""What a request and a model must have in common."""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch
from torch import Tensor

from .errors import UserError
from .specs import ModelSpec


def check_picture(spec: ModelSpec, *, given: bool, encoder: bool) -> None:
    """Raises UserError when an image-to-video model lacks a picture or its image encoder, or when another model was
    given a picture. `encoder` says whether both parts that read pictures are there."""
    wanted = spec.unet.image_attention or bool(spec.unet.concat_channels)
    if wanted and not given:
        raise UserError("This is an image-to-video model: give it a picture to start from (image-to-video --picture).")
    if given and not wanted:
        raise UserError("This is a text-to-video model: it cannot take a picture. Use an image-to-video model.")
    if spec.unet.image_attention and not encoder:
        raise UserError(
            "This is an image-to-video model whose image encoder is missing. Give the file that holds it as well; of "
            "a split model it is the one whose name ends in _image."
        )


def check_ends(spec: ModelSpec, *, wanted: bool, loop: bool = False) -> None:
    """Raises UserError when a last picture or a loop is asked of a model that knows none, or both at once."""
    if (wanted or loop) and not spec.unet.concat_channels:
        raise UserError(
            "Loops and clips between two pictures need a model that continues pictures (best ToonCrafter for drawings, "
            f"and DynamiCrafter's 512 model for interpolation for all else); {spec.name} is none."
        )
    if wanted and loop:
        raise UserError("A loop ends with the picture that it begins with: leave out the last picture, or the loop.")


def check_settings(spec: ModelSpec, *, image_cfg: float | None, motion: float | None) -> None:
    """Raises UserError for a setting that a model does not have."""
    if image_cfg is not None and not spec.unet.image_attention:
        raise UserError("A guidance scale for the picture was given, but this model makes videos from text alone.")
    if motion is not None and not spec.unet.motion_width:
        raise UserError(
            f"A motion guidance of {motion:g} was given, but {spec.name} has none (T2V-Turbo v2 has). Leave it out."
        )


def checked_pixels(pixels: Tensor) -> Tensor:
    """What an autoencoder decoded, any shape. Raises UserError where it holds NaN or infinite values."""
    if not bool(pixels.isfinite().all()):
        raise UserError(
            "The autoencoder (VAE) gave NaN or infinite values, which would be black frames. Run the model in fp32 "
            "(--dtype fp32), and check its file."
        )
    return pixels


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
