"""Conversions of pixels between networks, frames and files; reading and writing images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vc_core.errors import UserError
from vc_core.frames.pixels import load_picture, save_picture, to_network, to_uint8, to_unit
from vc_core.frames.sheet import contact_sheet


def test_unit_and_network_are_each_others_inverse():
    frames = torch.rand(2, 5, 7, 3)
    pictures = to_network(frames)
    assert pictures.shape == (2, 3, 5, 7)
    assert torch.allclose(to_unit(pictures), frames, atol=1e-6)
    assert to_unit(pictures).is_contiguous()
    assert to_unit(torch.full((1, 3, 2, 2), 3.0)).max() == 1
    with pytest.raises(UserError):
        to_network(torch.rand(5, 7, 3))


def test_bytes_are_rounded_down_as_in_the_reference():
    values = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 5.0])
    assert to_uint8(values).tolist() == [0, 0, 127, 254, 255, 255]


def test_images_are_read_upright_opaque_and_in_colour(tmp_path):
    grid = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(grid).save(tmp_path / "turned.png", exif=exif)
    turned = load_picture(tmp_path / "turned.png")
    assert turned.shape == (7, 5, 3)
    assert torch.equal((turned * 255).round().byte(), torch.from_numpy(np.rot90(grid, -1).copy()))

    rgba = np.concatenate([grid, np.full((5, 7, 1), 51, np.uint8)], axis=-1)
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    wanted = torch.from_numpy(grid).float() / 255 * 0.2 + 0.8
    assert torch.allclose(load_picture(tmp_path / "alpha.png"), wanted, atol=1e-6)

    Image.fromarray(grid[..., 0]).save(tmp_path / "grey.png")
    assert torch.equal(
        (load_picture(tmp_path / "grey.png") * 255).round().byte()[..., 2], torch.from_numpy(grid[..., 0])
    )
    deep = np.full((5, 7), 32768, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert load_picture(tmp_path / "deep.png").mean() == pytest.approx(32768 / 65535)


def test_a_file_that_is_not_an_image_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match="cannot be read as an image"):
        load_picture(tmp_path / "text.png")
    with pytest.raises(UserError, match=r"Image .* not found"):
        load_picture(tmp_path / "none.png")


def test_images_are_not_overwritten(tmp_path):
    picture = torch.rand(5, 7, 3)
    path = save_picture(tmp_path / "new" / "a.png", picture)
    assert torch.allclose(load_picture(path), picture, atol=0.5 / 255 + 1e-6)
    with pytest.raises(UserError, match="already exists"):
        save_picture(path, picture)
    assert save_picture(path, picture * 0, overwrite=True) == path
    assert load_picture(path).max() == 0
    with pytest.raises(UserError, match="suffix of an image format"):
        save_picture(tmp_path / "a.xyz", picture)
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == ["a.png"]


def test_a_contact_sheet_shows_every_frame_in_order():
    frames = (torch.arange(5) / 5)[:, None, None, None].expand(5, 3, 4, 3)
    sheet = contact_sheet(frames, 2, gap=1)
    assert sheet.shape == (3 * 4 - 1, 2 * 5 - 1, 3)
    assert sheet[::4, ::5, 0].flatten().tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])  # the last one is white
    assert torch.all(sheet[3] == 1)
    assert contact_sheet(frames, 99, gap=0).shape == (3, 20, 3)
    with pytest.raises(UserError):
        contact_sheet(frames[:0], 2)
    with pytest.raises(UserError):
        contact_sheet(frames, 0)
