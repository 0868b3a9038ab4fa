"""The one source of randomness."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vc_core.denoising import Noise
from vc_core.errors import UserError

SHAPE = (2, 3, 5, 7, 11)
DEVICES = [
    "cpu",
    *(["cuda"] if torch.cuda.is_available() else []),
    *(["mps"] if torch.backends.mps.is_available() else []),
]
FIRST_OF_123 = [0.5888361, 0.09246217, -1.135452, -0.2313032]


def test_the_stream_of_a_seed_never_changes() -> None:
    drawn = Noise(123).draw((4,))
    assert drawn.dtype == torch.float32
    assert drawn.tolist() == pytest.approx(FIRST_OF_123, rel=1e-6)


def test_draws_follow_each_other_and_repeat_with_the_seed() -> None:
    first, second = Noise(5), Noise(5)
    a, b = first.draw(SHAPE), first.draw(SHAPE)
    assert not torch.equal(a, b)
    assert torch.equal(a, second.draw(SHAPE))
    assert torch.equal(b, second.draw(SHAPE))


def test_draws_are_standard_normal() -> None:
    drawn = Noise(7).draw((100_000,))
    assert abs(float(drawn.mean())) < 0.01  # three standard errors
    assert abs(float(drawn.std()) - 1) < 0.01


def test_all_64_bits_of_the_seed_count() -> None:
    seeds = [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**63 + 1, 2**64 - 1]
    firsts = [Noise(seed).draw((8,)) for seed in seeds]
    for index, first in enumerate(firsts):
        assert not any(torch.equal(first, other) for other in firsts[:index])


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_gets_the_same_noise(device: str) -> None:
    assert torch.equal(Noise(11).draw(SHAPE, device).cpu(), Noise(11).draw(SHAPE))
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(Noise(11).draw(SHAPE, device, dtype).cpu(), Noise(11).draw(SHAPE).to(dtype))


def test_where_noise_goes_does_not_change_what_comes_next() -> None:
    elsewhere, here = Noise(13), Noise(13)
    elsewhere.draw(SHAPE, "meta", torch.float16)
    here.draw(SHAPE)
    assert torch.equal(elsewhere.draw(SHAPE), here.draw(SHAPE))


def test_global_generators_are_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    drawn = Noise(17).draw(SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(Noise(17).draw(SHAPE), drawn)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, None])
def test_impossible_seeds(seed: Any) -> None:
    with pytest.raises(UserError, match="whole number from 0 to 18446744073709551615"):
        Noise(seed)
