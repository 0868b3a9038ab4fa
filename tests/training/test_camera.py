"""The camera of the synthetic world, and the training of the small camera layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.camera import KINDS, NAMES, contrasted, drawn, held_out_moves, judged, seen, shots, table, wanted
from training.camera import CameraNetwork, finished
from training.camera_layers import save_layers
from training.diffusion import DiffusionObjective
from training.pool import Pool, make_camera_pool
from training.trainer import Plan, Trainer
from vc_core import bundled
from vc_core.autoencoder.autoencoder import Autoencoder
from vc_core.checkpoint import open_checkpoint
from worlds.shapes.camera import (
    PAIRS,
    camera_poses,
    homographies,
    pair_held_out,
    random_moves,
    random_shot,
    view,
)
from worlds.shapes.world import FRAMES, SIZE, Scene, render

SCENE = Scene(shape="triangle", colour="red", motion="still", background=("grey", "navy"), x=34, y=30)
SIGNS = {
    "pan left": (0, 1),
    "pan right": (0, -1),
    "pan up": (1, 1),
    "pan down": (1, -1),
    "zoom in": (2, 1),
    "zoom out": (2, -1),
    "roll clockwise": (3, -1),
    "roll counterclockwise": (3, 1),
}
"""The component of the content's motion, and its sign: when the camera pans left, everything moves to the right."""


@pytest.fixture(scope="module")
def small() -> tuple[CameraNetwork, Autoencoder]:
    network, autoencoder = finished(bundled.TEXT)
    return CameraNetwork(network), autoencoder


def test_a_camera_that_stands_still_sees_the_world_as_it_is() -> None:
    assert torch.allclose(view(SCENE, camera_poses("still")), render([SCENE])[0], atol=1e-5)


@pytest.mark.parametrize("move", SIGNS)
def test_everything_moves_as_the_named_move_says(move: str) -> None:
    index, sign = SIGNS[move]
    goal = wanted(move)
    assert np.sign(goal[index]) == sign
    assert np.abs(np.delete(goal, index)).max() < 1e-6
    found = seen(view(replace(SCENE, background=("navy",)), camera_poses(move)).numpy())
    assert sign * found[index] > 0.5 * abs(goal[index])
    assert np.abs(np.delete(found, index)).max() < 0.15


def test_poses_are_relative_to_the_first_frame() -> None:
    assert np.allclose(homographies(camera_poses("pan left + zoom in + roll clockwise"))[0], np.eye(3))


def test_shapes_stay_in_sight_and_held_out_moves_do_not_occur() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scene, moves = random_shot(rng)
        centers = homographies(camera_poses(moves)) @ np.array([scene.x, scene.y, 1.0])
        if scene.motion == "still":
            assert (np.abs(centers[:, :2] / centers[:, 2:] - SIZE / 2) < SIZE / 2).all()
    held_out = [pair for pair in PAIRS if pair_held_out(pair)]
    assert 0 < len(held_out) < len(PAIRS) / 2
    drawn_moves = [random_moves(rng) for _ in range(200)]
    names = {" + ".join(part.rpartition(" ")[0] for part in moves.split(" + ")) for moves in drawn_moves}
    assert names.isdisjoint(held_out)
    assert all(held_out_moves(kind, rng) for kind in KINDS)


def test_the_judge_knows_drawn_clips_and_sees_nothing_in_still_ones() -> None:
    given = shots(8)
    verdicts = [judged(clip, shot) for clip, shot in zip(drawn(given), given, strict=True)]
    found = table(verdicts)
    assert found["all"]["right"] == 100
    assert (found["colour"], found["shape"]) == (100, 100)
    assert {name for one in verdicts for name in one.right} == set(NAMES)
    still = render([SCENE])[0].numpy()
    assert np.abs(seen(still)).max() < 1e-3
    assert contrasted(still).shape == still.shape


def test_only_camera_layers_are_trained_and_pass_tokens_on_at_first(
    small: tuple[CameraNetwork, Autoencoder], tmp_path: Path
) -> None:
    camera, autoencoder = small
    pool = make_camera_pool(autoencoder, 2, seed=0)
    pool.save(tmp_path / "camera.pool")
    pool = Pool.load(tmp_path / "camera.pool")
    assert len(pool.moves) == len(pool) == 2
    objective = DiffusionObjective(camera, pool, batch=2, seed=0)
    batch = objective.draw(0)
    assert batch.poses is not None
    assert batch.poses.shape == (2, FRAMES, 12)
    given = batch.latents, batch.timesteps, batch.rows, torch.tensor([8, 8])
    with torch.no_grad():
        assert torch.equal(camera(*given, batch.poses), camera.network[0](*given))

    before = {key: value.clone() for key, value in camera.network[0].state_dict().items()}
    trainer = Trainer(camera, Plan(lr=1e-2, steps=2, warmup=1), tmp_path, "camera")
    trainer.run(objective, samples_per_step=2)
    assert all(torch.equal(value, before[key]) for key, value in camera.network[0].state_dict().items())
    assert not torch.equal(camera(*given, batch.poses), camera.network[0](*given))

    path = save_layers(tmp_path / "file.safetensors", camera.layers.tensors())
    saved = open_checkpoint(path).build("motionctrl", device="cpu", dtype=torch.float32)
    layer = camera.layers["middle_block-2"]
    loaded = saved.projections["middle_block.2.transformer_blocks.0"]
    assert torch.allclose(loaded.weight, layer.effective(), atol=1e-3)
    assert len(saved.projections) == len(camera.layers) == 5
