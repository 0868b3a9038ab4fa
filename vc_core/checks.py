"""Checks of a request against the model that it is for, and against the machine."""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch
from torch import Tensor

from .errors import UserError
from .specs import PRESETS, ModelSpec


def check_picture(spec: ModelSpec, *, given: bool, encoder: bool) -> None:
    """Raises UserError when an image-to-video model lacks an image or its image encoder, or when another model was
    given an image. `encoder` says whether both parts that read images are there."""
    if spec.needs_image and not given:
        raise UserError("This is an image-to-video model: give it an image to start from (image-to-video --picture).")
    if given and not spec.needs_image:
        raise UserError("This is a text-to-video model: it does not take an image. Use an image-to-video model.")
    if spec.reads_images and not encoder:
        raise UserError(
            "This is an image-to-video model whose image encoder is missing. Give the file that holds it as well; of "
            "a split model it is the one whose name ends in _image."
        )


def check_ends(spec: ModelSpec, *, wanted: bool, loop: bool = False) -> None:
    """Raises UserError when a last image or a loop is asked of a model that supports neither, or both at once."""
    if (wanted or loop) and not spec.continues_images:
        raise UserError(
            "Loops and clips between two images need a model that continues images (ToonCrafter for drawings, "
            f"DynamiCrafter 512 for interpolation for everything else); {spec.name} does not."
        )
    if wanted and loop:
        raise UserError("A loop ends with the image that it begins with: leave out the last image, or the loop.")


def check_views(spec: ModelSpec, count: int | None, frames: int) -> None:
    """Raises UserError where `count` rendered views (None: not given) do not fit the model or a clip of `frames`."""
    if count is None:
        if spec.follows_views:
            raise UserError(
                f"{spec.name} follows rendered views, one for each of {frames} frames: give them (--views), beside the "
                "original image (--picture)."
            )
        return
    if not spec.follows_views:
        names = ", ".join(name for name, known in PRESETS.items() if known.follows_views)
        raise UserError(
            f"Rendered views were given, but {spec.name} does not follow views. A file of ViewCrafter has the same "
            f"tensors as DynamiCrafter's: if this is one, choose its preset ({names}). Otherwise leave the views out."
        )
    if count != frames:
        raise UserError(
            f"{count} rendered views were given for a clip of {frames} frames: give one for each frame. {spec.name} "
            f"was trained on {spec.defaults.frames}."
        )


def check_settings(spec: ModelSpec, *, image_cfg: float | None, motion: float | None) -> None:
    """Raises UserError for a setting that a model does not have."""
    if image_cfg is not None and not spec.reads_images:
        raise UserError("A guidance scale for the image was given, but this model makes videos from text alone.")
    if motion is not None and not spec.embeds_motion:
        raise UserError(
            f"A motion guidance of {motion:g} was given, but {spec.name} has none (T2V-Turbo v2 does). Leave it out."
        )


def checked_pixels(pixels: Tensor) -> Tensor:
    """The decoded pixels of an autoencoder, any shape. Raises UserError where they hold NaN or infinite values."""
    if not bool(pixels.isfinite().all()):
        raise UserError(
            "The autoencoder (VAE) gave NaN or infinite values, which would be black frames. Run the model in fp32 "
            "(--dtype fp32), and check its file."
        )
    return pixels


LONGEST_SIDE = 65_536
"""Pixels of a side of a video."""


def check_side(name: str, pixels: int, multiple: int) -> None:
    """Raises UserError, naming the two nearest sizes, unless `pixels` is a positive multiple up to LONGEST_SIDE."""
    if pixels > LONGEST_SIDE:
        raise UserError(f"{name} is {pixels} pixels; at most {LONGEST_SIDE} are allowed.")
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
