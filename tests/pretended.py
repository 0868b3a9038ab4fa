"""A CUDA device for machines without one: shapes, types and devices are those of a run on it, values are not computed.

It shows what a CPU cannot: an operation over tensors of two devices, or of two types that do not go together.
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
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _without_values(self, tensor: Tensor) -> FakeTensor:
        fake: FakeTensor = tensor if isinstance(tensor, FakeTensor) else self.from_tensor(tensor, static_shapes=True)
        fake.constant = None
        return fake
