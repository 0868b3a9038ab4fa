"""The device and the type to compute in, by the names that users give, checked against this machine."""

from __future__ import annotations

import torch

from .checkpoint import AUTO, DTYPES
from .errors import UserError


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU if there is one. Raises UserError for one that does not exist here."""
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
    """The type of the UNet's weights: "auto" is fp16 on a GPU, and fp32 on a CPU, which is slow in fp16."""
    if name == AUTO:
        return torch.float32 if device.type == "cpu" else torch.float16
    return DTYPES[name]
