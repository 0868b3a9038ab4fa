"""A camera for the synthetic world: pan, zoom and roll of everything in a clip.

The world is painted on a plane that the camera faces, `DEPTH` units of the poses away, which a pinhole camera sees as a
pose says: the rows of [R | T] from world to camera, relative to the first frame (`vc_core.control.camera`). So a
translation along the plane shifts everything, one along the axis of the lens scales it about the center of the frame,
and a roll turns it there. When the camera moves to the right, what it sees moves to the left.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vc_core.control.camera import moved, moves_of

from .world import BACKGROUNDS, COLOURS, FRAMES, SIZE, Array, Scene, growth, outline_distance, random_scene, velocity

DEPTH = 10.0
"""Distance of the plane, in units of the poses."""
FOCAL = 2.0 * SIZE
"""Focal length in pixels. A pan at speed 1 shifts everything by 18 of 64 pixels from the first frame to the last."""

PANS = ("pan left", "pan right", "pan up", "pan down")
ZOOMS = ("zoom in", "zoom out")
ROLLS = ("roll clockwise", "roll counterclockwise")
AXES = (PANS[:2], PANS[2:], ZOOMS, ROLLS)
"""Names of opposite moves."""
PAIRS = tuple(
    " + ".join(names) for one, other in itertools.combinations(AXES, 2) for names in itertools.product(one, other)
)
"""Two moves at once."""
HELD_OUT_EVERY = 4
TRAINED_SPEEDS = ((0.4, 0.7), (0.85, 1.15))
"""Ranges of the speeds of moves in training."""
HELD_OUT_SPEEDS = ((0.72, 0.83), (1.17, 1.3))
"""Ranges of speeds that never occur in training."""
TOGETHER = 0.75
"""Factor on the speeds of moves that happen at once."""
AXIS_SHARES = (0.2, 0.2, 0.25, 0.35)
"""Of the axes, among clips with one move. Rolls are the hardest to learn."""
STILL_SHARE, ONE_SHARE, PAIR_SHARE = 0.1, 0.5, 0.3
"""Shares of clips in which the camera stands still, makes one move, and two at once; in the others two moves follow one
another."""
UNMOVED_SHARE = 0.6
"""Share of clips whose shape stands still."""
REACH = 10.0
"""Minimum distance in pixels between the center of the shape and the border; its edge may leave the frame."""
TRIES = 40


def pair_held_out(pair: str) -> bool:
    """Whether these two moves at once never occur in training: one in four, by a platform-independent hash."""
    return zlib.crc32(pair.encode()) % HELD_OUT_EVERY == 0


def camera_poses(moves: str) -> Tensor:
    """Poses f 12 of a clip, of moves as the control takes them ("pan left 0.5 + zoom in")."""
    return moved(moves_of(moves), FRAMES)


def random_speed(rng: np.random.Generator, ranges: Sequence[tuple[float, float]] = TRAINED_SPEEDS) -> float:
    """A speed, uniform in the ranges."""
    low, high = ranges[int(rng.integers(len(ranges)))]
    return round(float(rng.uniform(low, high)), 2)


def at_speeds(names: str, rng: np.random.Generator, share: float = 1.0, *, unseen: bool = False) -> str:
    """Moves at once with a random speed for each, times `share`; with `unseen`, a held-out one."""
    ranges = HELD_OUT_SPEEDS if unseen else TRAINED_SPEEDS
    each = names.split(" + ")
    factor = share * (TOGETHER if len(each) > 1 else 1.0)
    return " + ".join(f"{name} {factor * random_speed(rng, ranges):.3f}" for name in each)


def random_moves(rng: np.random.Generator) -> str:
    """Camera moves of a training clip."""
    chance = rng.random()
    if chance < STILL_SHARE:
        return "still"
    if chance < STILL_SHARE + ONE_SHARE:
        return at_speeds(_one(rng), rng)
    if chance < STILL_SHARE + ONE_SHARE + PAIR_SHARE:
        return at_speeds(str(rng.choice([pair for pair in PAIRS if not pair_held_out(pair)])), rng)
    return f"{at_speeds(_one(rng), rng, 0.6)}, {at_speeds(_one(rng), rng, 0.6)}"


def _one(rng: np.random.Generator) -> str:
    return str(rng.choice(AXES[int(rng.choice(len(AXES), p=AXIS_SHARES))]))


def random_shot(rng: np.random.Generator) -> tuple[Scene, str]:
    """A scene of the training combinations and camera moves that keep its shape in sight."""
    while True:
        scene, moves = random_scene(rng), random_moves(rng)
        if rng.random() < UNMOVED_SHARE:
            scene = replace(scene, motion="still")
        placed = in_sight(scene, camera_poses(moves), rng)
        if placed is not None:
            return placed, moves


def in_sight(scene: Scene, poses: Tensor, rng: np.random.Generator) -> Scene | None:
    """The scene with a random start position from which its shape stays in sight of a camera with poses f 12; None
    where none was found."""
    views = homographies(poses)
    dx, dy = velocity(scene)
    times = np.arange(len(views))
    for x, y in rng.uniform(REACH, SIZE - REACH, (TRIES, 2)):
        seen = views @ np.stack([x + dx * times, y + dy * times, np.ones(len(times))], axis=1)[..., None]
        centers = seen[:, :2, 0] / seen[:, 2:, 0]
        if (np.abs(centers - SIZE / 2) <= SIZE / 2 - REACH).all():
            return replace(scene, x=float(x), y=float(y))
    return None


def homographies(poses: Tensor) -> Array:
    """f 3 3, which take pixels (x, y, 1) of the plane, as the first frame shows it, to those of each frame, for poses
    f 12."""
    rows = poses.double().numpy().reshape(-1, 3, 4)
    lens = np.array([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]])
    plane = np.stack([rows[:, :, 0], rows[:, :, 1], DEPTH * rows[:, :, 2] + rows[:, :, 3]], axis=2)
    first = np.linalg.inv(lens @ np.diag([1.0, 1.0, DEPTH]))
    return np.asarray(lens @ plane @ first)


def view(scene: Scene, poses: Tensor) -> Tensor:
    """Draws a scene with antialiased edges, as a camera with poses f 12 sees it: f h w 3, float32 in 0..1."""
    views = homographies(poses)
    x, y, scale = _on_plane(np.linalg.inv(views))
    times = np.arange(len(views))[:, None, None]
    clip = _plain(scene.background[0], x.shape)
    if len(scene.background) == 2:
        _paint(clip, BACKGROUNDS[scene.background[1]], scale * (SIZE / 2 - (y if scene.stacked else x)))
    dx, dy = velocity(scene)
    radius = scene.radius + growth(scene) * (times - (FRAMES - 1) / 2)
    distance = outline_distance(scene.shape, x - (scene.x + dx * times), y - (scene.y + dy * times), radius)
    _paint(clip, COLOURS[scene.colour], scale * distance)
    return clip


def _on_plane(back: Array) -> tuple[Array, Array, Array]:
    """Where on the plane the pixels of each frame are, x and y, and how much larger the frame shows it there, f h w."""
    grid = np.arange(SIZE) + 0.5
    rows = back[..., None, None]
    x, y, depth = (rows[:, i, 0] * grid + rows[:, i, 1] * grid[:, None] + rows[:, i, 2] for i in range(3))
    area = np.linalg.det(back)[:, None, None] / depth**3
    return x / depth, y / depth, np.abs(area) ** -0.5


def _plain(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.tensor(BACKGROUNDS[name]).expand(*shape, 3).clone()


def _paint(clip: Tensor, colour: tuple[float, float, float], distance: Array) -> None:
    """Fills where the signed distance f h w, in pixels, is negative."""
    cover = torch.from_numpy(np.clip(0.5 - distance, 0, 1).astype(np.float32))[..., None]
    torch.lerp(clip, torch.tensor(colour), cover, out=clip)
