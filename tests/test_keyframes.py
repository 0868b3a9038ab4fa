"""Rows of key frames: each section is the clip between two images, and no frame is in the video twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import small_models
import torch
from torch import Tensor

from vc_core.denoising import Sampling
from vc_core.errors import UserError
from vc_core.frames.fitting import fit
from vc_core.long import key_frames
from vc_core.long.keyframes import KeyFrames, pairs
from vc_core.pipeline import Request, VideoCrafter

REQUEST = Request(seed=2**64 - 1, width=24, height=16, frames=3, sampling=Sampling(steps=2, spacing="trailing"))


@pytest.fixture(scope="module")
def crafter(tmp_path_factory: pytest.TempPathFactory) -> VideoCrafter:
    path = tmp_path_factory.mktemp("keys") / "model.safetensors"
    return VideoCrafter.load(small_models.save(small_models.CONTINUING_MODEL, path))


@pytest.fixture(scope="module")
def row() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(*size, 3, generator=generator) for size in ((16, 24), (30, 20), (9, 40))]


def test_sections_go_from_each_to_the_next() -> None:
    assert pairs("abc", closed=False) == [("a", "b"), ("b", "c")]
    assert pairs("abc", closed=True) == [("a", "b"), ("b", "c"), ("c", "a")]
    assert (KeyFrames(sections=2, frames=16).length, KeyFrames(sections=3, frames=16, closed=True).length) == (31, 45)


@pytest.mark.parametrize("closed", [False, True])
def test_a_row_is_its_clips_joined_without_doubled_frames(
    crafter: VideoCrafter, row: list[Tensor], closed: bool
) -> None:
    steps = []
    made = torch.stack(
        list(
            key_frames(
                crafter, ["a", "b"], row, request=REQUEST, closed=closed, on_step=lambda s: steps.append(s.index)
            )
        )
    )
    fitted = [fit(picture, 16, 24) for picture in row]
    clips = []
    for number, (first, last) in enumerate(pairs(fitted, closed=closed)):
        request = replace(REQUEST, seed=(REQUEST.seed + number) % 2**64)
        clips.append(crafter.generate("ab"[min(number, 1)], first, request=request, end_image=last))
    joined = torch.cat([clip[:-1] for clip in clips] + ([] if closed else [clips[-1][-1:]]))
    assert made.shape == (KeyFrames(sections=3 if closed else 2, frames=3, closed=closed).length, 16, 24, 3)
    assert torch.equal(made, joined)
    assert steps == [0, 1] * (3 if closed else 2)


def test_more_prompts_than_sections_are_refused(crafter: VideoCrafter, row: list[Tensor]) -> None:
    with pytest.raises(UserError, match="3 prompts were given for 2 sections"):
        key_frames(crafter, ["a", "b", "c"], row, request=REQUEST)


def test_a_picture_of_another_size_is_fitted_and_never_replaced(crafter: VideoCrafter, row: list[Tensor]) -> None:
    for second in row[1:]:
        steps = crafter.steps("a", row[0], request=replace(REQUEST, sharp=True), end_image=second)
        first, last = (crafter.encode(fit(picture, 16, 24)[None])[:, :, 0] for picture in (row[0], second))
        beside = crafter.ends(fit(row[0], 16, 24), 3, fit(second, 16, 24))
        assert torch.equal(beside[:, :, 0], first)
        assert torch.equal(beside[:, :, -1], last)
        assert not torch.equal(first, last)
        same = crafter.steps("a", row[0], request=replace(REQUEST, sharp=True), end_image=row[0])
        assert not torch.equal(list(steps)[-1].x, list(same)[-1].x)


def test_what_is_not_supported_is_said_before_work(crafter: VideoCrafter, row: list[Tensor], tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("work has begun")

    for pictures, request, message in (
        (row[:1], REQUEST, "1 key frames with 3 frames"),
        (row, replace(REQUEST, frames=1), "3 key frames with 1 frames"),
        ([*row, torch.rand(8, 8, 4)], REQUEST, r"shape \(height, width, 3\)"),
        (row, replace(REQUEST, width=20), "multiple of 8"),
    ):
        with pytest.raises(UserError, match=message):
            key_frames(crafter, ["a"], pictures, request=request, on_step=refuse)
    text = VideoCrafter.load(small_models.save(small_models.TEXT_MODEL, tmp_path / "text.safetensors"))
    with pytest.raises(UserError, match="need a model that continues images"):
        key_frames(text, ["a"], row, request=REQUEST)
