"""Texts that follow each other over a clip. For two of them, see also `tests/test_family_pipeline.py`."""

from __future__ import annotations

import pytest
import torch

from vc_core.conditioning import text_over_time


def shares(count: int, frames: int) -> torch.Tensor:
    """frames count: how much of each text a frame has."""
    return text_over_time(torch.eye(count)[:, None], frames)[0, :, 0]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("frames", [1, 2, 3, 7, 16, 48])
def test_every_frame_has_its_share_of_neighbouring_texts(count: int, frames: int) -> None:
    found = shares(count, frames)
    assert found.shape == (frames, count)
    torch.testing.assert_close(found.sum(1), torch.ones(frames))
    assert ((found > 0).sum(1) <= 2).all(), "no frame has three"
    place = found @ torch.arange(count, dtype=torch.float32)
    assert (place.diff() >= 0).all(), "never back to an earlier text"
    if frames >= 4 * count:
        assert found[0, 0] == found[-1, -1] == 1


@pytest.mark.parametrize("count", [3, 4])
def test_a_text_has_the_middle_half_of_its_part_alone(count: int) -> None:
    part = 16
    found = shares(count, count * part)
    for number in range(count):
        middle = found[number * part + part // 4 : (number + 1) * part - part // 4]
        assert torch.equal(middle[:, number], torch.ones(len(middle)))
    for border in range(part, count * part, part):
        before, after = found[border - 1], found[border]
        torch.testing.assert_close(before + after, found[border - part // 2] + found[border + part // 2])
        assert 0 < before[border // part] < 0.5 < after[border // part] < 1
