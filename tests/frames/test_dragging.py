"""Tracks, and the rough video of dragged objects."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from vc_core.control.tracks import tracks_of
from vc_core.errors import UserError
from vc_core.frames.dragging import Drag, filled, over_frames, shifted
from vc_core.frames.fitting import fit

POINTS = [(1.0, 2.0), (3.5, 4.0)]
OBJECTS = [{"x": x, "y": y} for x, y in POINTS]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1,2; 3.5,4", 1),
        ("1, 2\n3.5 4", 1),
        ("1, 2;3.5, 4;\n\n1,2; 3.5 , 4\n", 2),
        (json.dumps(OBJECTS), 1),
        (json.dumps([OBJECTS, OBJECTS]), 2),
        (json.dumps(POINTS), 1),
        (json.dumps([POINTS, POINTS]), 2),
        (str([{**point, "visible": "yes"} for point in OBJECTS]), 1),
    ],
    ids=["typed", "lines", "typed twice", "one", "several", "pairs", "several of pairs", "single quotes"],
)
def test_tracks_are_read_as_they_are_typed_and_as_editors_write_them(text: str, count: int) -> None:
    assert tracks_of(text) == [POINTS] * count


@pytest.mark.parametrize("text", ["{}", "1,2; 3", "1;2", "a,b", "[1, 2]", '[{"x": 1}]', "[{"])
def test_what_is_no_track_is_refused(text: str) -> None:
    with pytest.raises(UserError, match='Give points "10, 20; 30, 40"'):
        tracks_of(text)


def test_points_are_evenly_spaced_in_time() -> None:
    track = [(0.0, 0.0), (10.0, 0.0), (10.0, 20.0)]
    assert torch.allclose(over_frames(track, 5), torch.tensor([[0.0, 0], [5, 0], [10, 0], [10, 10], [10, 20]]))
    assert over_frames(track, 3).tolist() == [list(point) for point in track]
    assert over_frames(track[:1], 4).tolist() == [[0, 0]] * 4
    assert over_frames(track, 1).tolist() == [[0, 0]]


def scene(height: int = 32, width: int = 48) -> tuple[Tensor, Tensor]:
    """A red square of 8 pixels at (6, 10) on a horizontal ramp of green, and its mask."""
    image = torch.zeros(height, width, 3)
    image[..., 1] = torch.linspace(0.2, 0.8, width)
    mask = torch.zeros(height, width)
    mask[10:18, 6:14] = 1
    image[mask > 0] = torch.tensor([0.9, 0.1, 0.1])
    return image, mask


def drag(text: str, mask: Tensor, **more: object) -> Drag:
    return Drag(masks=mask if mask.ndim == 3 else mask[None], tracks=tracks_of(text), **more)  # type: ignore[arg-type]


def test_an_object_is_where_its_track_leads_and_nothing_is_left_behind() -> None:
    image, mask = scene()
    made = drag("100,50; 116,58", mask).reference(image[None], 5)
    assert made.frames.shape == (5, 32, 48, 3)
    for frame in range(5):
        x, y = 4 * frame, 2 * frame
        place = torch.zeros_like(mask)
        place[10 + y : 18 + y, 6 + x : 14 + x] = 1
        torch.testing.assert_close(made.mask[frame], place, atol=1e-4, rtol=0)
        torch.testing.assert_close(made.frames[frame][place > 0], image[mask > 0], atol=1e-4, rtol=0)
        assert float(made.frames[frame][place == 0][:, 0].max()) < 0.01, "the hole is green"
    known = torch.zeros(32, 48, dtype=torch.bool)
    known[:6] = True
    torch.testing.assert_close(made.frames[:, known], image[known].expand(5, -1, 3))


def test_the_background_may_keep_the_object() -> None:
    image, mask = scene()
    made = drag("0,0; 20,0", mask, background="kept").reference(image[None], 3)
    torch.testing.assert_close(made.frames[2][mask > 0], image[mask > 0])
    assert float(made.frames[2, 10:18, 26:34, 0].min()) > 0.89


def test_objects_leave_the_image_and_move_by_parts_of_pixels() -> None:
    image, mask = scene()
    made = drag("0,0; -100,0", mask).reference(image[None], 3)
    assert float(made.mask[1:].max()) == 0
    half = shifted(mask[..., None], torch.tensor([[0.5, 0.0]]))[0, ..., 0]
    assert torch.allclose(half[12, 5:16], torch.tensor([0, 0.5, 1, 1, 1, 1, 1, 1, 1, 0.5, 0]), atol=1e-4)


def test_each_mask_has_its_track_or_all_have_one() -> None:
    image, mask = scene()
    other = torch.roll(mask, 20, dims=1)
    both = torch.stack([mask, other])
    made = drag("0,0; 0,8\n\n0,0; 0,-8", both).reference(image[None], 2)
    assert made.mask[1, 18:26, 6:14].min() > 0.99
    assert made.mask[1, 2:10, 26:34].min() > 0.99
    together = drag("0,0; 0,8", both).reference(image[None], 2)
    assert together.mask[1, 18:26, 26:34].min() > 0.99


def test_a_video_is_the_background_and_its_first_frame_has_the_object() -> None:
    image, mask = scene()
    clip = torch.stack([image, image * 0.5, image * 0.25])
    made = drag("0,0; 20,0", mask).reference(clip, 3)
    torch.testing.assert_close(made.frames[2, 0], clip[2, 0])
    torch.testing.assert_close(made.frames[2, 10:18, 26:34], image[10:18, 6:14], atol=1e-4, rtol=0)


@pytest.mark.parametrize("how", ["crop", "pad", "published"])
def test_a_fitted_drag_is_that_of_the_fitted_image(how: str) -> None:
    image, mask = torch.zeros(64, 96, 3), torch.zeros(64, 96)
    mask[16:40, 32:56] = 1
    image[mask > 0] = torch.tensor([0.9, 0.4, 0.1])
    moved = torch.roll(image, (16, 8), dims=(1, 0))
    fitted = drag("0,0; 16,8", mask, background="kept").fitted(32, 32, how)  # type: ignore[arg-type]
    small = fit(image, 32, 32, how)  # type: ignore[arg-type]
    made = fitted.reference(small[None], 2)
    assert made.frames.shape == (2, 32, 32, 3)
    expected = fit(moved, 32, 32, how)  # type: ignore[arg-type]
    inside = made.mask[1] > 0.99
    assert inside.any()
    torch.testing.assert_close(made.frames[1][inside], expected[inside], atol=0.02, rtol=0)


def test_latents_belong_to_an_object_that_covers_a_part_of_them() -> None:
    image, mask = scene()
    made = drag("0,0", mask).reference(image[None], 1)
    kept = 1 - made.latent_mask(8)
    assert kept.shape == (1, 4, 6)
    # rows 10 to 17 and columns 6 to 13 cover 12, 36, 4 and 12 pixels of the 64 of a latent
    assert torch.equal(kept[0], torch.tensor([[0.0] * 6, [1, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0] * 6]))


def test_a_hole_takes_the_colors_around_it() -> None:
    image, mask = scene()
    made = filled(image, mask)
    plain = torch.linspace(0.2, 0.8, 48).expand(8, -1)[:, 6:14]
    assert float((made[10:18, 6:14, 1] - plain).abs().max()) < 0.12
    assert float(made[..., 0].max()) == 0
    assert torch.equal(filled(image, torch.ones_like(mask)), image), "nothing is known"
    assert torch.equal(filled(image, torch.zeros_like(mask)), image)


def test_what_does_not_fit_is_refused() -> None:
    image, mask = scene()
    with pytest.raises(UserError, match=r"is empty.*Paint the object white"):
        drag("0,0", mask * 0)
    with pytest.raises(UserError, match=r"2 tracks for 1 masks.*one track for each mask"):
        drag("0,0\n\n1,1", mask)
    for track, said in (("inf,0", "is not a point of a track"), ("[[]]", "no points, or one that is not finite")):
        with pytest.raises(UserError, match=said):
            drag(track, mask)
    with pytest.raises(UserError, match=r"shape \(8, 3, 32, 48\)"):
        Drag(masks=mask.expand(8, 3, -1, -1), tracks=tracks_of("0,0"))
    with pytest.raises(UserError, match=r"background is 'gone'.*filled, kept"):
        drag("0,0", mask, background="gone")
    with pytest.raises(UserError, match="Give one image, or as many as there are frames"):
        drag("0,0", mask).reference(image.expand(3, -1, -1, -1), 5)
    with pytest.raises(UserError, match="of the mask's size"):
        drag("0,0", mask).reference(image[None, :-1], 5)
