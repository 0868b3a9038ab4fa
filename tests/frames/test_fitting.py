"""Fitting images to a clip's size, compared with the reference, and arranging their latents."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from golden_cases import cases, load
from vc_core.errors import UserError
from vc_core.frames.fitting import fit, picture_latent

# published web page's padding: 0 in -1..1
GREY = 0.5


@pytest.mark.golden
@pytest.mark.parametrize("path", cases("dc_image"), ids=lambda path: path.stem)
def test_golden_pictures(path: Path) -> None:
    info, _, t = load(path)
    assert info["calls"]
    for call in info["calls"]:
        name = call["name"]
        picture = t[f"{name}/in/image_u8"].float() / 255
        ways = {
            "cli": {"scaling": "pillow", "fill": 0.0},
            "gradio_noantialias": {"scaling": "plain", "fill": GREY},
            "gradio_antialias": {"scaling": "smooth", "fill": GREY},
        }
        for way, options in ways.items():
            golden = t.get(f"{name}/out/{way}")
            if golden is not None:
                ours = fit(picture, *call["target_hw"], "published", **options).permute(2, 0, 1) * 2 - 1
                # interpolation in float32; the command's way is exact to the bit in 8 bits
                torch.testing.assert_close(ours, golden, atol=2e-6, rtol=0, msg=lambda m, w=way, n=name: n + w + m)


@pytest.mark.parametrize("size", [(7, 23), (23, 7), (11, 11), (40, 64), (1, 1)])
def test_crop_covers_and_pad_shows_all(size: tuple[int, int]) -> None:
    white = torch.ones(*size, 3)
    assert torch.equal(fit(white, 16, 24, "crop"), torch.ones(16, 24, 3))
    padded = fit(white, 16, 24, "pad")
    assert padded.shape == (16, 24, 3)
    rows, columns = int((padded.mean((1, 2)) > 0).sum()), int((padded.mean((0, 2)) > 0).sum())
    assert rows == 16 or columns == 24
    assert rows / columns == pytest.approx(size[0] / size[1], rel=0.25)  # whole pixels


def test_the_same_size_is_unchanged() -> None:
    picture = torch.randint(0, 256, (16, 24, 3), generator=torch.Generator().manual_seed(1)).float() / 255
    for how in ("crop", "pad", "published"):
        torch.testing.assert_close(fit(picture, 16, 24, how), picture)


def test_invalid_images_and_options_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(height, width, 3\); this one has \(3, 4, 5\)"):
        fit(torch.zeros(3, 4, 5), 8, 8)
    with pytest.raises(UserError, match="fit is 'squeeze'; it must be one of crop, pad, published"):
        fit(torch.zeros(3, 4, 3), 8, 8, "squeeze")  # type: ignore[arg-type]


def test_ends_of_a_clip() -> None:
    first, last = torch.full((1, 4, 2, 3), 2.0), torch.full((1, 4, 2, 3), 3.0)
    assert torch.equal(picture_latent(first, 5), torch.full((1, 4, 5, 2, 3), 2.0))
    assert picture_latent(first, 5, last)[0, 0, :, 0, 0].tolist() == [2, 0, 0, 0, 3]
    with pytest.raises(UserError, match="frames is 1; a clip between two images needs at least 2"):
        picture_latent(first, 1, last)
