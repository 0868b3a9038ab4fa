"""The storybook world shows what its captions say, and its clips are the same for the same seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluation.storybook.cases import draw_cases
from evaluation.storybook.judging import motion
from evaluation.storybook.tracking import Track, camera_flow, camera_name, turning
from worlds.storybook.captions import caption, words
from worlds.storybook.drawing import render
from worlds.storybook.lots import random_scene
from worlds.storybook.world import (
    ACTORS,
    CAMERAS,
    COLOURS,
    FRAMES,
    MOTIONS,
    Actor,
    Scene,
    held_out,
    on_screen,
)

BOAT = Scene(place="sea", actors=(Actor(kind="boat", colour="red", motion="left", x=0.6, y=0.6),), seed=3)


def _scenes(count: int, seed: int = 0, **wishes):
    rng = np.random.default_rng(seed)
    return [random_scene(rng, **wishes) for _ in range(count)]


def _track(scene: Scene, actor: Actor) -> Track:
    poses = [on_screen(scene, actor, frame) for frame in range(FRAMES)]
    places = np.array([(pose.x, pose.y) for pose in poses], dtype=np.float32)
    sizes = np.array([pose.scale * actor.size for pose in poses], dtype=np.float32)
    return Track(np.ones(FRAMES, dtype=np.float32), places, sizes, list(COLOURS).index(actor.colour))


def _pixels(scenes) -> torch.Tensor:
    return torch.stack([torch.from_numpy(render(scene)).permute(0, 3, 1, 2) / 127.5 - 1 for scene in scenes])


def test_a_scene_is_drawn_the_same_every_time():
    frames = render(BOAT)
    assert frames.shape == (FRAMES, 96, 96, 3)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames, render(BOAT))
    assert np.array_equal(frames[[5]], render(BOAT, frames=[5]))
    assert render(BOAT, size=40, frames=[0]).shape == (1, 40, 40, 3)


def test_only_what_the_seed_decides_differs_between_seeds():
    assert not np.array_equal(render(BOAT, frames=[0]), render(replace(BOAT, seed=4), frames=[0]))
    assert _scenes(5, seed=1) == _scenes(5, seed=1)
    assert _scenes(5, seed=1) != _scenes(5, seed=2)


def test_an_actor_has_its_colour_where_it_is():
    blue = replace(BOAT, actors=(replace(BOAT.actors[0], colour="blue"),))
    red, other = (render(scene, frames=[0])[0].astype(int) for scene in (BOAT, blue))
    changed = np.abs(red - other).sum(-1) > 60
    rows, columns = np.nonzero(changed)
    assert changed.sum() > 40
    assert abs(columns.mean() / 96 - 0.6) < 0.06
    assert abs(rows.mean() / 96 - 0.69) < 0.06  # the hull is in the lower half


def test_combinations_of_training_and_those_held_out_are_apart():
    for unseen in (False, True):
        for scene in _scenes(60, unseen=unseen):
            strange = [held_out(actor.kind, actor.colour, scene.place) for actor in scene.actors]
            assert strange[0] == unseen
            assert not any(strange[1:])
    combinations = [(k, c, p) for k, has in ACTORS.items() for c in has.colours for p in has.places]
    assert 0.05 < np.mean([held_out(*each) for each in combinations]) < 0.16


def test_every_kind_can_be_held_out_and_trained():
    for kind, has in ACTORS.items():
        kept = [held_out(kind, colour, place) for colour in has.colours for place in has.places]
        assert not all(kept), kind


def test_actors_stay_inside_the_frame_and_do_what_their_kind_can():
    for scene in _scenes(80):
        for actor in scene.actors:
            has = ACTORS[actor.kind]
            assert scene.place in has.places
            assert actor.motion in has.motions
            assert actor.colour in has.colours
            for frame in (0, FRAMES - 1):
                pose = on_screen(scene, actor, frame)
                assert 0 < pose.x < 1
                assert 0 < pose.y < 1


def test_captions_say_everything_when_they_are_whole():
    rng = np.random.default_rng(0)
    known = set(words())
    assert 110 <= len(known) <= 170
    wordings = set()
    for scene in _scenes(60):
        text = caption(scene, rng, whole=True)
        wordings.add(caption(scene, rng))
        assert set(text.replace(",", " ,").split()) <= known
        for actor in scene.actors:
            assert actor.colour in text
        if scene.camera != "still":
            assert "camera" in text
    assert len(wordings) > 55


def test_captions_have_several_wordings():
    rng = np.random.default_rng(0)
    assert len({caption(BOAT, rng) for _ in range(60)}) > 20


def test_the_judge_reads_motions_from_the_actors_paths():
    right = []
    for scene in _scenes(60, fps=8):
        clip = _pixels([scene])[0] if any(actor.kind in ("star", "ball") for actor in scene.actors) else None
        for actor in scene.actors:
            track = _track(scene, actor)
            turned = 0.0 if clip is None else turning(clip, track)
            right.append(motion(scene, actor, track, turned) == actor.motion)
    assert np.mean(right) > 0.97


@pytest.mark.parametrize("camera", CAMERAS)
def test_the_judge_reads_the_camera_from_the_flow(camera: str):
    scenes = [replace(BOAT, camera=camera), replace(BOAT, camera=camera, place="hills", actors=())]
    flows = camera_flow(_pixels(scenes), [[_track(scene, actor) for actor in scene.actors] for scene in scenes])
    assert [camera_name(flow, fps=8) for flow in flows] == [camera, camera]


def test_the_judges_prompts_are_held_out_and_stay_the_same():
    cases = draw_cases(12)
    assert cases == draw_cases(12)
    for case in cases:
        first = case.scene.actors[0]
        assert held_out(first.kind, first.colour, case.scene.place)
    assert {actor.motion for case in draw_cases(80) for actor in case.scene.actors} <= set(MOTIONS)
