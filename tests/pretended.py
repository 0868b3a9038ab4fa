"""Devices for machines without them: shapes, types and devices are those of a run on one, values are not computed.

It shows what a CPU cannot: an operation over tensors of two devices, of two types that do not go together, or that the
device does not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

ANSWERS: dict[torch.dtype, Any] = {torch.bool: True, torch.int64: 1}
"""What a value is when it is asked for, as a truth or a number; any other type gives 500, a timestep that exists."""


class PretendedCuda(FakeTensorMode):  # type: ignore[misc]
    """Within it `cuda` can be named as a device. What happens on the CPU alone is computed as ever."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = tree_leaves((args, kwargs or {}))
        devices = [leaf.type for leaf in given if isinstance(leaf, torch.device)]
        if "cuda" not in devices and not any(isinstance(leaf, FakeTensor) for leaf in given):
            return func(*args, **kwargs or {})
        if func is torch.ops.aten._local_scalar_dense.default:
            return ANSWERS.get(args[0].dtype, 500.0)
        if func is torch.ops.aten.equal.default:
            return True
        args, kwargs = tree_map_only(Tensor, self._without_values, (args, kwargs or {}))
        made = super().__torch_dispatch__(func, types, args, kwargs)
        self.check(func, [each for each in tree_leaves((args, kwargs, made)) if isinstance(each, Tensor)])
        return made

    def check(self, func: Any, tensors: Sequence[Tensor]) -> None:
        """Raises for an operation, or for tensors that it takes or gives, that the device does not have."""

    def _without_values(self, tensor: Tensor) -> FakeTensor:
        fake: FakeTensor = tensor if isinstance(tensor, FakeTensor) else self.from_tensor(tensor, static_shapes=True)
        fake.constant = None
        return fake


class PretendedMps(PretendedCuda):
    """Apple's GPU, by what it lacks: no float64, nor some operations, those of older versions of PyTorch included. Its
    name here is `cuda`, since PyTorch for other systems cannot even pretend a device of its own name.

    frequencies: whether there are the complex numbers of Fourier transforms, as from macOS 14 on.
    """

    refused = (torch.float64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2)
    missing = (
        "_upsample_bicubic2d_aa",
        "_upsample_bilinear2d_aa",
        "adaptive_avg_pool3d",
        "avg_pool3d",
        "grid_sampler_3d",
        "histc",
        "linalg_eig",
        "linalg_eigh",
        "linalg_lstsq",
        "linalg_qr",
        "linalg_svd",
        "max_pool3d",
        "upsample_nearest3d",
        "upsample_trilinear3d",
    )

    def __init__(self, *, frequencies: bool = True) -> None:
        super().__init__()
        self.frequencies = frequencies

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.ops.aten._to_copy.default and getattr(given.get("device"), "type", "") == "cuda":
            args = (args[0].to(given.pop("dtype", None) or args[0].dtype),)  # converted before it is moved, as there
        return super().__torch_dispatch__(func, types, args, given)

    def check(self, func: Any, tensors: Sequence[Tensor]) -> None:
        here = [each for each in tensors if each.device.type == "cuda"]
        name = func.name().partition("::")[2].partition(".")[0]
        if here and name.startswith(self.missing):
            raise NotImplementedError(f"{name} is not implemented for the MPS device")
        for tensor in here:
            if tensor.dtype in self.refused or (tensor.is_complex() and not self.frequencies):
                raise TypeError(f"{name}: MPS does not support {tensor.dtype}")
