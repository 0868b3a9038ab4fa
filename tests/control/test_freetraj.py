"""FreeTraj as a control: boxes and tracks as they are given, words by text, runs with and without it, and errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_models as small
import torch

from vc_core.control import FreeTraj, Scene
from vc_core.control.boxes import Canvas, paths_of
from vc_core.control.freetraj import tokens_of
from vc_core.control.freetraj_noise import with_trace
from vc_core.control.freetraj_path import Path as Moving
from vc_core.control.freetraj_path import object_map
from vc_core.denoising import Noise, Sampling
from vc_core.errors import UserError
from vc_core.long import frames
from vc_core.long.freenoise import FreeNoise
from vc_core.pipeline import Request, VideoCrafter

CANVAS = Canvas(frames=5, width=100.0, height=50.0, box=(0.4, 0.2))
PROMPT = "a red ball rolls over a red carpet"
BOX = "0, 0.1, 0.5, 0.1, 0.5\n4, 0.5, 0.4"
CONTROL = FreeTraj(words="ball", boxes=BOX)
REQUEST = Request(frames=4, width=32, height=24, sampling=Sampling(steps=4))


def corners(text: str) -> list[list[tuple[float, float]]]:
    return [[(round(top, 6), round(left, 6)) for top, left in path.corners] for path in paths_of(text, CANVAS)]


def test_keyframes_are_typed_in_fractions_with_an_empty_line_between_objects() -> None:
    moving = [(0.1, 0.1), (0.2, 0.175), (0.3, 0.25), (0.4, 0.325), (0.5, 0.4)]
    assert corners(BOX) == [moving]
    assert corners(f"{BOX}\n\n0 0.2 0.4 0 0.3") == [moving, [(0.2, 0.0)] * 5]
    (path,) = paths_of(BOX, CANVAS)
    assert (path.height, path.width) == (0.4, 0.4)


@pytest.mark.parametrize(
    ("given", "objects"),
    [
        ([{"x": 10, "y": 10}, {"x": 50, "y": 30}], 1),
        ([[{"x": 10, "y": 10}, {"x": 50, "y": 30}], [{"x": 10, "y": 10}, {"x": 50, "y": 30}]], 2),
        ([[10, 10], [50, 30]], 1),
        ([{"x": 0, "y": 0, "width": 20, "height": 20}, {"x": 40, "y": 20, "width": 20, "height": 20}], 1),
        ([[{"x": 0, "y": 0, "width": 20, "height": 20}], [{"x": 40, "y": 20, "width": 20, "height": 20}]], 1),
    ],
    ids=["spline", "splines", "pairs", "boxes", "boxes of frames"],
)
def test_tracks_and_boxes_in_pixels_are_spread_over_the_clip(given: Any, objects: int) -> None:
    expected = [(0.0, 0.0), (0.1, 0.1), (0.2, 0.2), (0.3, 0.3), (0.4, 0.4)]
    assert corners(json.dumps(given)) == [expected] * objects


def test_a_single_box_stands_still() -> None:
    assert corners('{"x": 10, "y": 10, "width": 20, "height": 20}') == [[(0.2, 0.1)] * 5]


def test_boxes_are_cut_at_the_image_and_have_a_cell_at_least() -> None:
    leaving = Moving(((-0.25, 0.5), (0.5, 0.9), (1.5, 0.0)), 0.5, 0.5)
    found = object_map([leaving], 4, 4)
    assert found[0].nonzero().tolist() == [[0, 2], [0, 3]]
    assert found[1].nonzero().tolist() == [[2, 3], [3, 3]]
    assert not found[2].any()
    assert object_map([Moving(((0.4, 0.4),), 0.1, 0.1)], 2, 2).sum() == 1


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ("", "words for 1 objects and boxes for 0"),
        ("0, 0.1, 0.5", "is not a keyframe of a box. Give lines"),
        ("0, a, b, c, d", "is not a keyframe of a box"),
        ("0.5, 0, 1, 0, 1", "is not a keyframe of a box"),
        ("3, 0, 1, 0, 1\n3, 0, 1, 0, 1", "at frame 3, but the one before it at frame 3. Give keyframes in the order"),
        ("-1, 0, 1, 0, 1", "Frames are counted from 0"),
        ("0, 0.5, 0.5, 0, 1", "is 0 of the image high and 1 wide; both should be more than 0"),
        ("0, 0, inf, 0, 1", "is not a finite number"),
        ("[", "are not JSON"),
        ('[{"x": 1, "y": 2, "width": 3}]', "is not a box"),
        ('[{"x": 1, "y": 2, "width": 300, "height": 10}]', "3 wide.*as canvas the width"),
        (f"{BOX}\n\n{BOX}", "words for 1 objects and boxes for 2. Give for each object"),
    ],
)
def test_boxes_that_give_no_path_are_refused_with_the_cure(boxes: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(CONTROL, boxes=boxes).check(scene())


def scene(**changes: Any) -> Scene:
    given = {"spec": small.TEXT_MODEL, "frames": 4, "width": 100, "height": 50, "steps": 50, "cfg": 4.0}
    return Scene(**{**given, "prompts": (PROMPT,), **changes})


def test_words_are_found_by_text() -> None:
    assert tokens_of("red ball", [PROMPT]) == (2, 3)
    assert tokens_of("RED", [PROMPT]) == (2, 7), "wherever they occur"
    assert replace(CONTROL, prompt="a (big (red:1.2) ball:1.1)").subjects(scene())[0].tokens == (4,)
    two = replace(CONTROL, words="ball; carpet", boxes=f"{BOX}\n\n{BOX}").subjects(scene())
    assert [one.tokens for one in two] == [(3,), (8,)]
    with pytest.raises(UserError, match=r"does not have the words 'blue'.*Write them as they appear in the prompt"):
        tokens_of("blue", [PROMPT])
    with pytest.raises(UserError, match="appear in different places of the prompts"):
        tokens_of("ball", [PROMPT, "the ball stops"])
    with pytest.raises(UserError, match="FreeTraj looks for words in the prompt"):
        CONTROL.subjects(scene(prompts=()))


def test_the_number_of_guided_steps_is_the_published_share() -> None:
    assert [CONTROL.steps_of(scene(steps=steps)) for steps in (50, 25, 4, 1)] == [6, 3, 1, 1]
    assert replace(CONTROL, guided_steps=9).steps_of(scene()) == 9


@pytest.fixture(scope="module")
def crafter(tmp_path_factory: pytest.TempPathFactory) -> VideoCrafter:
    return VideoCrafter.load(small.save(small.TEXT_MODEL, tmp_path_factory.mktemp("model") / "model.safetensors"))


def test_a_run_changes_by_its_noise_and_by_its_guidance_and_is_bit_equal_without(crafter: VideoCrafter) -> None:
    plain = crafter.generate(PROMPT, request=REQUEST)
    off = replace(CONTROL, guided_steps=0, noise=False)
    assert torch.equal(crafter.generate(PROMPT, request=REQUEST, controls=[off]), plain)
    for one in (replace(CONTROL, guided_steps=0), replace(CONTROL, noise=False), replace(off, trace=0.5)):
        assert not torch.equal(crafter.generate(PROMPT, request=REQUEST, controls=[one]), plain)
    assert torch.equal(crafter.generate(PROMPT, request=REQUEST), plain)


def test_a_trace_of_the_object_follows_the_box() -> None:
    """Of the cells that differ most from their frame; a draft of the run shows them."""
    clip = torch.zeros(1, 4, 4, 6, 12)
    color = torch.tensor([1.0, -2.0, 0.0, 0.5])
    clip[:, :, :, 2:4, 5:8] = color[:, None, None, None]
    (path,) = paths_of(BOX, replace(CANVAS, frames=4))
    noise = torch.zeros_like(clip)
    traced = with_trace(path, 0.5, noise, clip)
    for frame, cells in enumerate(path.cells(6, 12)):
        seen = traced[0, :, frame]
        places = (seen.abs().sum(0) > 0).nonzero()
        assert len(places)
        assert all(0 <= int(row) - cells.top <= cells.height for row, _ in places)
        assert all(0 <= int(column) - cells.left <= cells.width for _, column in places)
        covered = seen.flatten(1)[:, seen.abs().sum(0).argmax()]
        torch.testing.assert_close(covered / covered.norm(), color / color.norm())
        assert 0.3 < float(covered.norm() / color.norm()) <= 0.5 + 1e-5
    torch.testing.assert_close(with_trace(path, 9.0, noise, clip).norm(dim=1).max(), torch.tensor(2.0))


def test_a_trace_is_for_the_bundled_models_and_for_one_object() -> None:
    bundled = replace(small.TEXT_MODEL, name="videocrafter_small_t2v")
    assert CONTROL.trace_of(scene()) == 0
    assert CONTROL.trace_of(scene(spec=bundled)) == 0.65
    two = replace(CONTROL, words="ball; carpet", boxes=f"{BOX}\n\n{BOX}")
    assert two.trace_of(scene(spec=bundled)) == 0
    with pytest.raises(UserError, match=r"The trace of FreeTraj is 0.5, but it is for one object. Set it to 0"):
        replace(two, trace=0.5).check(scene())


def test_passes_that_are_not_guided_may_still_be_replayed(crafter: VideoCrafter) -> None:
    attachment = CONTROL.attach(scene(), None)
    (adapter,) = attachment.adapters
    assert adapter.steps == 6
    assert attachment.noise is not None
    drawn = Noise(1).draw((1, 4, 4, 6, 12))
    assert attachment.noise(drawn, Noise(2), torch.zeros_like).shape == drawn.shape


def test_longer_clips_are_guided_in_windows(crafter: VideoCrafter, tmp_path: Path) -> None:
    """The path is that of the whole clip, as is the noise."""
    request = replace(REQUEST, frames=20, controls=(CONTROL,))
    made = list(frames(crafter, PROMPT, request=request, method=FreeNoise(window=16, stride=4)))
    plain = list(frames(crafter, PROMPT, request=replace(request, controls=()), method=FreeNoise(window=16, stride=4)))
    assert len(made) == len(plain) == 20
    assert not torch.equal(torch.stack(made), torch.stack(plain))
