"""All randomness of a run comes from one seeded CPU generator, so a seed means the same video on every device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

LARGEST_SEED = 2**64 - 1


class NoiseSource(Protocol):
    """A source of standard normal noise, draw after draw."""

    def draw(self, shape: Sequence[int], device: torch.device | str, dtype: torch.dtype) -> Tensor:
        """The next noise of this shape."""


class Noise:
    """Standard normal noise from a 64-bit seed.

    The generator is the Mersenne twister in the form whose stream numpy has frozen for good; torch's own CPU generator
    would drop the upper 32 bits of the seed. Every draw is made in float32 on the CPU and then moved.
    """

    def __init__(self, seed: int) -> None:
        """`seed`: 0 to 2^64 - 1. Raises UserError for any other."""
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
            raise UserError(f"The seed is {seed!r}; it should be a whole number from 0 to {LARGEST_SEED}.")
        self._stream = np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32])

    def draw(
        self, shape: Sequence[int], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """The next noise of this shape. What is drawn depends only on the seed and on the shapes drawn before."""
        values = self._stream.standard_normal(tuple(shape)).astype(np.float32)
        return torch.from_numpy(values).to(dtype).to(device)
