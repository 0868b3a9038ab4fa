"""Clip after clip: what each begins from, what is handed out when, and drift."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vc_core.denoising import Noise
from vc_core.denoising.continuing import (
    Continuation,
    Segment,
    continued,
    following,
    following_start,
    undrifted,
)
from vc_core.denoising.freenoise import rescheduled
from vc_core.errors import UserError
from vc_core.specs import Windows

WINDOW, OVERLAP = 8, 3


def numbered(frames: int) -> Tensor:
    """Frame i holds the number i."""
    return torch.arange(float(frames)).view(1, 1, frames, 1, 1).expand(1, 2, frames, 2, 2).clone()


def test_shared_frames_keep_their_noise_and_the_others_get_that_of_a_window_before() -> None:
    noise = numbered(16)
    later = following(noise, 8, Noise(1))
    assert later[0, 0, :8, 0, 0].tolist() == list(range(8, 16))
    again = later[0, 0, 8:, 0, 0].tolist()
    assert sorted(again[:4]) == [0, 1, 2, 3]
    assert sorted(again[4:]) == [4, 5, 6, 7]


@pytest.mark.parametrize("added", [1, 5, 12, 13, 15])
def test_every_clip_begins_from_the_same_frames_of_noise(added: int) -> None:
    """However many frames are added; where they are whole groups, in the orders of FreeNoise."""
    noise, source = numbered(16), Noise(1)
    for _ in range(3):
        before, noise = noise, following(noise, added, source)
        assert torch.equal(noise[:, :, : 16 - added], before[:, :, added:])
        assert sorted(noise[0, 0, :, 0, 0].tolist()) == list(range(16))
    if added % 4 == 0:
        longer = torch.cat([numbered(16), torch.zeros(1, 2, added, 2, 2)], dim=2)
        expected = rescheduled(longer, Windows(size=16, stride=4), Noise(1))[:, :, added:]
        assert torch.equal(following(numbered(16), added, Noise(1)), expected)


def test_a_clip_begins_from_the_last_frames_of_the_one_before_and_lets_go_of_them() -> None:
    source = following_start(numbered(6) + 1, 2, 50)
    assert source.latents[0, 0, :, 0, 0].tolist() == [5, 6, 0, 0, 0, 0]
    assert source.mask is not None
    assert source.mask.flatten().tolist() == pytest.approx([0, 0.5 ** (1 / 50), 1, 1, 1, 1])
    assert source.strength == 1


@pytest.mark.parametrize("steps", [5, 50])
def test_how_far_a_frame_is_let_go_does_not_depend_on_the_number_of_steps(steps: int) -> None:
    """It is drawn back in each step, and keeps as much of its own as its place in the overlap says."""
    mask = following_start(numbered(WINDOW), OVERLAP, steps).mask
    assert mask is not None
    own = mask.flatten() ** steps
    assert own[:OVERLAP].tolist() == pytest.approx([0, 1 / 3, 2 / 3], abs=1e-5)


@pytest.mark.parametrize("frames", [8, 9, 13, 14, 40])
def test_every_frame_is_handed_out_once_and_in_order(frames: int) -> None:
    """The clips here hold the numbers of their frames in the video."""
    starts: list[int] = []

    def make(segment: Segment) -> Tensor:
        starts.append(segment.first)
        assert (segment.source is None) == (segment.number == 0)
        return numbered(WINDOW) + segment.first

    plan = Continuation(frames=frames, overlap=OVERLAP, correct=0.0)
    made = torch.cat(list(continued(make, numbered(WINDOW), Noise(1), plan)), dim=2)
    assert made[0, 0, :, 0, 0].tolist() == list(range(frames))
    assert starts == list(range(0, len(starts) * (WINDOW - OVERLAP), WINDOW - OVERLAP))
    assert len(starts) == plan.count(WINDOW)


def test_frames_are_handed_out_before_the_next_clip_is_made() -> None:
    made: list[int] = []

    def make(segment: Segment) -> Tensor:
        made.append(segment.number)
        return numbered(WINDOW)

    parts = continued(make, numbered(WINDOW), Noise(1), Continuation(frames=10**9, overlap=OVERLAP))
    assert next(parts).shape[2] == WINDOW - OVERLAP
    assert made == [0]
    next(parts)
    assert made == [0, 1]


def test_a_new_scene_is_not_held_to_the_colours_of_the_old_one() -> None:
    frame = torch.randn(1, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def make(segment: Segment) -> Tensor:
        return frame.expand(-1, -1, WINDOW, -1, -1) + segment.number

    plan = Continuation(frames=23, overlap=OVERLAP)
    held = torch.cat(list(continued(make, numbered(WINDOW), Noise(1), plan)), dim=2)
    let = torch.cat(list(continued(make, numbered(WINDOW), Noise(1), plan, lambda number: number)), dim=2)
    assert float(held[:, :, -1].mean() - held[:, :, 0].mean()) == pytest.approx(0, abs=1e-4)
    assert float(let[:, :, -1].mean() - let[:, :, 0].mean()) == pytest.approx(3, abs=1e-4)


def test_drift_is_taken_back_more_and_more() -> None:
    frame = torch.randn(1, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    like = frame.expand(-1, -1, 16, -1, -1)
    drifted = 1.1 * like + 0.5
    out = undrifted(drifted, like, 1.0, 8)
    assert torch.equal(undrifted(drifted, like, 0.0, 8), drifted)
    assert torch.equal(out[:, :, :8], drifted[:, :, :8])
    off = [float((out[:, :, i].mean() - like.mean()).abs()) for i in range(8, 16)]
    assert off[0] > 0.35
    assert off[-1] < 0.01
    assert float(out[:, :, -1].std()) == pytest.approx(float(like.std()), abs=0.01)
    assert off == sorted(off, reverse=True)


@pytest.mark.parametrize("overlap", [0, WINDOW])
def test_an_overlap_that_adds_nothing_is_refused(overlap: int) -> None:
    plan = Continuation(frames=20, overlap=overlap)
    with pytest.raises(UserError, match="from 1 to 7"):
        next(continued(lambda segment: segment.noise, numbered(WINDOW), Noise(1), plan))
