"""Rendered views and original images at a clip's size, compared with ViewCrafter's command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from golden_cases import cases, load
from vc_core.frames.fitting import fit
from vc_core.frames.views import clip_of_views, fit_original


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("viewcrafter_image"), ids=lambda path: path.stem)
def test_golden_original_images(path: Path) -> None:
    info, _, t = load(path)
    assert info["calls"]
    for call in info["calls"]:
        width, height = call["target_wh"]
        image = t[f"{call['name']}/in/image_u8"].float() / 255
        ours = (fit_original(image, height, width, "published") * 255).round().int()
        golden = t[f"{call['name']}/out/cli_u8"].int()
        assert ours.shape == golden.shape
        assert int((ours - golden).abs().max()) <= 1, call["name"]


def test_original_images_take_the_places_of_the_ends() -> None:
    generator = torch.Generator().manual_seed(1)
    views = torch.rand(5, 8, 16, 3, generator=generator)
    first, last = (torch.rand(*size, 3, generator=generator) for size in ((20, 30), (16, 32)))
    clip = clip_of_views(views, first, height=16, width=32)
    torch.testing.assert_close(clip[0], fit(first, 16, 32))
    scaled = torch.nn.functional.interpolate(views.permute(0, 3, 1, 2), (16, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(clip[1:], scaled.permute(0, 2, 3, 1)[1:])
    both = clip_of_views(views, first, last, height=16, width=32)
    assert torch.equal(both[:-1], clip[:-1])
    torch.testing.assert_close(both[-1], fit(last, 16, 32))


def test_views_of_another_shape_are_cropped_or_padded() -> None:
    views = torch.ones(2, 10, 10, 3)
    white = torch.ones(4, 4, 3)
    assert float(clip_of_views(views, white, height=8, width=16)[1].mean()) == 1
    assert float(clip_of_views(views, white, height=8, width=16, how="published")[1].mean()) == 1
    padded = clip_of_views(views, white, height=8, width=16, how="pad")[1]
    assert float(padded.mean()) == pytest.approx(0.5)
