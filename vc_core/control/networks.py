"""The networks of controls that have weights: from the file that a control names, or from the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from os import fspath
from pathlib import Path

import torch
from torch import nn

from ..checkpoint import open_checkpoint
from ..checkpoint.building import Checkpoint
from ..checkpoint.parts import PARTS
from ..errors import UserError
from .attachment import no_image_encoder
from .control import Control, WeightedControl

IMAGE_ENCODER = "image_encoder"


class Networks:
    """The networks of the controls of one model, each read once. added: those in the model's own file, by part."""

    def __init__(self, added: Mapping[str, nn.Module], device: torch.device, dtype: torch.dtype) -> None:
        self.added, self.device, self.dtype = added, device, dtype
        self.read: dict[tuple[str, Path], nn.Module] = {}

    def __call__(self, control: Control) -> nn.Module | None:
        """The network of a control; None for one without weights. Raises UserError where there is no file with it."""
        if control.part is None:
            return None
        if not named_file(control):
            if control.part not in self.added:
                raise UserError(no_weights(control))
            return self.added[control.part]
        key = (control.part, Path(named_file(control)))
        if key not in self.read:
            opened = open_part(control)
            self.read[key] = opened.build(control.part, device=self.device, dtype=self.dtype)
        return self.read[key]


def named_file(control: Control) -> str:
    """The file that a control names for its weights; empty where it names none."""
    return fspath(control.file) if isinstance(control, WeightedControl) else ""


def open_part(control: Control) -> Checkpoint:
    """The file of a control's weights, opened. Raises UserError for a file without them."""
    assert control.part is not None
    opened = open_checkpoint(named_file(control))
    opened.require(control.part)
    return opened


def check_weights(control: Control, parts: tuple[str, ...]) -> None:
    """Raises UserError where a control's weights are neither in its file nor among the model's `parts`, before they are
    read, and where it needs an image encoder that is not among them."""
    if "image" in control.encoders and IMAGE_ENCODER not in parts:
        raise UserError(no_image_encoder(control.title))
    if control.part is None:
        return
    if named_file(control):
        open_part(control).check(control.part)
    elif control.part not in parts:
        raise UserError(no_weights(control))


def no_weights(control: Control) -> str:
    """What to say where a model's file lacks the weights of a control."""
    assert control.part is not None
    return (
        f"{control.title} needs weights of its own, and the model's file has none ({PARTS[control.part].title}). Give "
        "the file that holds them."
    )
