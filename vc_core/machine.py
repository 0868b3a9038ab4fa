"""Where to compute, and in which type: the names that people give, checked against what this machine has."""

from __future__ import annotations

import torch

from .checkpoint import AUTO, DTYPES
from .errors import UserError


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes a GPU if there is one. Raises UserError when it is not there."""
    there = [kind for kind, found in (("cuda", torch.cuda.is_available()), ("mps", _has_mps())) if found] + ["cpu"]
    if name == AUTO:
        return torch.device(there[0])
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"There is no device {name!r}. Allowed here: auto, {', '.join(there)}.") from error
    if device.type not in there:
        raise UserError(f"The device {name!r} cannot be used on this machine. Allowed here: auto, {', '.join(there)}.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"There is no device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices.")
    return device


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type of the UNet's weights: "auto" halves them on a GPU and keeps fp32 on a CPU, which is slow in halves."""
    if name == AUTO:
        return torch.float32 if device.type == "cpu" else torch.float16
    return DTYPES[name]
