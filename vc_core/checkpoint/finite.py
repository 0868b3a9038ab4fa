"""TENSORS -> whether all of their values are numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UserError


def check_finite(tensor: Tensor, name: str, dtype: torch.dtype | None = None) -> None:
    """Raise UserError when a value is NaN or infinite, naming the tensor. `dtype` is the type that it was, or will be,
    cast to, if any: the values must be finite in that type."""
    if tensor.numel() == 0 or not tensor.is_floating_point() or tensor.is_meta:
        return
    values = tensor.float() if tensor.element_size() == 1 else tensor
    extremes = torch.stack(torch.aminmax(values)).to(dtype or tensor.dtype).float()
    if bool(torch.isfinite(extremes).all()):
        return
    cure = "" if dtype in (None, torch.float32) else ", or load it as fp32 or bf16: some numbers are too large for fp16"
    raise UserError(f"A weight is not a finite number ({name}). The file is damaged: download it again{cure}.")
