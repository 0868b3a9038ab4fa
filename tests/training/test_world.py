"""The world shows what its captions say, as far as a detector that knows nothing of either can tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evaluation.detector import observe
from vc_core import bundled
from worlds.shapes.captions import SHAPE_WORDS, SIDE_WORDS, caption
from worlds.shapes.world import (
    COLOURS,
    DIRECTIONS,
    FRAMES,
    MOTIONS,
    SHAPES,
    SIZE,
    Scene,
    backwards,
    held_out,
    place,
    random_scene,
    render,
    velocity,
)

FUNCTION_WORDS = {
    "a",
    "an",
    "and",
    "background",
    "does",
    "front",
    "in",
    "not",
    "of",
    "on",
    "that",
    "the",
    "to",
    "video",
}
"""Words of the captions that say nothing of what a clip shows."""


def test_the_words_of_the_bundled_models_are_those_of_the_captions() -> None:
    rng = np.random.default_rng(0)
    captions = [caption(random_scene(rng, unseen=i % 2 == 1), rng) for i in range(4000)]
    known = {word for text in captions for word in text.split()} - FUNCTION_WORDS
    assert known == bundled.WORDS


@pytest.mark.parametrize("unseen", [False, True])
@pytest.mark.parametrize("fps", [4, 8, 28])
def test_the_detector_sees_the_scene_at_every_frame_rate(fps: int, unseen: bool) -> None:
    rng = np.random.default_rng(fps)
    scenes = [random_scene(rng, unseen=unseen, fps=fps) for _ in range(12)]
    for scene, clip in zip(scenes, render(scenes).numpy(), strict=True):
        seen = observe(clip)
        assert (seen.colour, seen.shape, seen.motion) == (scene.colour, scene.shape, scene.motion)
        assert seen.share(colour=scene.colour, shape=scene.shape) == 1
        # a pixel's edge is accurate to about a tenth; over 16 frames the slope is much finer than that. A triangle's
        # centre of area is not the point it grows around, so it drifts a little while it grows
        tolerance = 0.03 if scene.motion in DIRECTIONS else 0.15
        assert seen.speed == pytest.approx(np.hypot(*velocity(scene)), abs=tolerance)


def test_twice_the_fps_is_half_the_step() -> None:
    scene = Scene(shape="square", colour="red", motion="right", speed="fast", fps=8, x=20, y=30)
    slow, fast = (observe(render([replace(scene, fps=fps)])[0].numpy()).speed for fps in (16, 8))
    assert fast == pytest.approx(2 * slow, rel=0.05)


def test_backwards_is_the_same_clip_from_its_end() -> None:
    rng = np.random.default_rng(6)
    scenes = [random_scene(rng) for _ in range(6)]
    there, back = render(scenes), render([backwards(scene) for scene in scenes])
    assert float((there.flip(1) - back).abs().max()) < 1e-4  # float32 sums in another order, on edges of a pixel


def test_nothing_leaves_the_picture() -> None:
    rng = np.random.default_rng(1)
    for clip in render([random_scene(rng, fps=4) for _ in range(20)]):
        edges = [clip[:, 0], clip[:, -1], clip[:, :, 0], clip[:, :, -1]]
        for edge in edges:
            assert float((edge - edge[:1]).abs().max()) == 0  # a border that only ever shows the background


def test_place_refuses_what_does_not_fit() -> None:
    wide = Scene(shape="circle", colour="red", motion="left", speed="fast", fps=2)
    with pytest.raises(ValueError, match=r"does not fit into 64"):
        place(wide, np.random.default_rng(0))


def test_held_out_combinations_are_a_tenth_and_never_drawn_in_training() -> None:
    combinations = [(s, c, m) for s in SHAPES for c in COLOURS for m in MOTIONS]
    share = sum(held_out(*names) for names in combinations) / len(combinations)
    assert 0.05 < share < 0.15
    rng = np.random.default_rng(2)
    for unseen in (False, True):
        for scene in (random_scene(rng, unseen=unseen) for _ in range(200)):
            assert held_out(scene.shape, scene.colour, scene.motion) == unseen


def test_the_world_is_as_rich_as_was_asked() -> None:
    assert len(SHAPES) >= 5
    assert len(COLOURS) >= 8
    assert len(DIRECTIONS) == 8
    assert {"still", "growing", "shrinking"} < set(MOTIONS)


def test_whole_captions_name_shape_and_motion() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        scene = random_scene(rng)
        words = caption(scene, rng, complete=True)
        assert any(word in words for word in SHAPE_WORDS[scene.shape]), words
        if scene.motion in DIRECTIONS:
            assert any(word in words for word in SIDE_WORDS[scene.motion]), words


def test_one_scene_has_many_wordings() -> None:
    scene = Scene(shape="ring", colour="purple", motion="up left", speed="fast", background=("navy", "grey"))
    rng = np.random.default_rng(4)
    assert len({caption(scene, rng) for _ in range(300)}) > 100


def test_render_draws_the_frames_that_were_asked_for() -> None:
    scene = random_scene(np.random.default_rng(5))
    whole = render([scene])
    assert whole.shape == (1, FRAMES, SIZE, SIZE, 3)
    assert np.array_equal(render([scene], frames=[7])[0, 0], whole[0, 7])
