"""The synthetic world: a coloured shape that moves, changes its size or stays still.

A `Scene` describes a clip completely; `render` draws scenes, `captions.caption` describes one in words. Speeds are in
pixels per second and sampled at the scene's frame rate, so that twice the fps means half the step from frame to frame.
The shape never leaves the image. Coordinates: x to the right, y down, in pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]

SIZE = 64
"""Height and width of a frame in pixels."""
FRAMES = 16
FPS_RANGE = (4, 28)
"""Range of frame rates used in training."""

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.10, 0.12),
    "green": (0.10, 0.70, 0.15),
    "blue": (0.15, 0.30, 0.95),
    "yellow": (0.98, 0.90, 0.10),
    "orange": (1.00, 0.52, 0.05),
    "purple": (0.62, 0.15, 0.80),
    "cyan": (0.10, 0.85, 0.90),
    "white": (0.97, 0.97, 0.97),
}
BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "black": (0.05, 0.05, 0.05),
    "grey": (0.40, 0.40, 0.40),
    "navy": (0.08, 0.10, 0.30),
    "brown": (0.36, 0.22, 0.10),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross", "ring")
DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up left": (-1, -1),
    "up right": (1, -1),
    "down left": (-1, 1),
    "down right": (1, 1),
}
MOTIONS: tuple[str, ...] = (*DIRECTIONS, "still", "growing", "shrinking")
SPEEDS: dict[str, float] = {"slow": 5.0, "normal": 8.0, "fast": 12.8}
"""Pixels per second; the radius of a shape grows at `GROWTH` times this rate."""
GROWTH = 0.25
LOWEST_FPS: dict[str, int] = {"fast": 5}
"""Lowest frame rate of a speed. At lower frame rates a fast shape would leave the image."""
MARGIN = 1.5
"""Minimum distance in pixels between the shape and the border."""

HELD_OUT_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One clip. `x`, `y` (in the first frame) and `radius` (in the middle of the clip) are in pixels; `background` has
    one or two names."""

    shape: str
    colour: str
    motion: str
    speed: str = "normal"
    background: tuple[str, ...] = ("black",)
    stacked: bool = True
    """Whether two background colours are stacked rather than side by side."""
    fps: int = 8
    x: float = SIZE / 2
    y: float = SIZE / 2
    radius: float = 11.0


def held_out(shape: str, colour: str, motion: str) -> bool:
    """Whether this combination is held out of training: one in ten, by a platform-independent hash."""
    return zlib.crc32(f"{shape}/{colour}/{motion}".encode()) % HELD_OUT_EVERY == 0


def velocity(scene: Scene) -> tuple[float, float]:
    """Velocity in pixels per frame, along x and y."""
    dx, dy = DIRECTIONS.get(scene.motion, (0, 0))
    length = float(np.hypot(dx, dy)) or 1.0
    step = SPEEDS[scene.speed] / scene.fps
    return dx / length * step, dy / length * step


def growth(scene: Scene) -> float:
    """Change of the radius in pixels per frame."""
    sign = {"growing": 1.0, "shrinking": -1.0}.get(scene.motion, 0.0)
    return sign * GROWTH * SPEEDS[scene.speed] / scene.fps


OPPOSITE: dict[str, str] = {
    "left": "right",
    "up": "down",
    "up left": "down right",
    "up right": "down left",
    "growing": "shrinking",
}
OPPOSITE |= {other: motion for motion, other in OPPOSITE.items()} | {"still": "still"}


def backwards(scene: Scene) -> Scene:
    """The scene whose frames are those of `scene` in reverse order."""
    dx, dy = velocity(scene)
    steps = FRAMES - 1
    return replace(scene, motion=OPPOSITE[scene.motion], x=scene.x + steps * dx, y=scene.y + steps * dy)


def random_scene(rng: np.random.Generator, *, unseen: bool = False, fps: int | None = None) -> Scene:
    """A scene drawn uniformly from the training combinations, or from the held-out ones with `unseen`.

    If `fps` is None, the frame rate is drawn log-uniformly from `FPS_RANGE`.
    """
    while True:
        shape, colour, motion = (str(rng.choice(list(names))) for names in (SHAPES, COLOURS, MOTIONS))
        if held_out(shape, colour, motion) == unseen:
            break
    low, high = np.log(FPS_RANGE[0] - 0.5), np.log(FPS_RANGE[1] + 0.5)
    rate = int(np.clip(round(float(np.exp(rng.uniform(low, high)))), *FPS_RANGE)) if fps is None else fps
    speed = str(rng.choice([name for name in SPEEDS if rate >= LOWEST_FPS.get(name, 0)]))
    count = 1 if rng.random() < 0.6 else 2
    background = tuple(str(name) for name in rng.choice(list(BACKGROUNDS), count, replace=False))
    scene = Scene(
        shape=shape,
        colour=colour,
        motion=motion,
        speed=speed,
        background=background,
        stacked=bool(rng.random() < 0.5),
        fps=rate,
        radius=float(rng.uniform(11.5, 13.0) if motion in ("growing", "shrinking") else rng.uniform(9.0, 11.0)),
    )
    return place(scene, rng)


def place(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with a random start position from which its shape stays inside the image for `FRAMES` frames.

    Raises ValueError if the shape moves or grows too far for any start position.
    """
    reach = scene.radius + abs(growth(scene)) * (FRAMES - 1) / 2 + MARGIN
    starts = []
    for step in velocity(scene):
        travel = step * (FRAMES - 1)
        low, high = reach - min(0.0, travel), SIZE - reach - max(0.0, travel)
        if low > high:
            raise ValueError(
                f"{scene} moves {travel:.1f} pixels and does not fit into {SIZE}; lower its speed or raise fps"
            )
        starts.append(float(rng.uniform(low, high)))
    return replace(scene, x=starts[0], y=starts[1])


def outline_distance(shape: str, x: Array, y: Array, radius: Array | float) -> Array:
    """Signed distance in pixels from the shape's outline, negative inside; exact near edges, but not near corners.

    `x` and `y` are relative to the shape's centre. Raises ValueError for an unknown shape.
    """
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.74 * radius) - 0.26 * radius
    across, along = np.abs(x), np.abs(y)
    if shape == "square":
        return np.maximum(across, along) - 0.88 * radius
    if shape == "cross":
        horizontal = np.maximum(across - radius, along - 0.34 * radius)
        return np.minimum(horizontal, np.maximum(across - 0.34 * radius, along - radius))
    if shape == "triangle":
        return np.maximum(y - 0.8 * radius, (1.8 * across - (y + radius)) / 2.059)
    raise ValueError(f"Shape {shape!r} is unknown; the world has {', '.join(SHAPES)}")


def _backdrop(scene: Scene) -> Tensor:
    """The background, h w 3."""
    colours = [torch.tensor(BACKGROUNDS[name]) for name in scene.background]
    plane = colours[0].expand(SIZE, SIZE, 3).clone()
    if len(colours) == 2:
        half = plane[SIZE // 2 :] if scene.stacked else plane[:, SIZE // 2 :]
        half[...] = colours[1]
    return plane


def render(scenes: Sequence[Scene], *, frames: Sequence[int] | None = None) -> Tensor:
    """Draws scenes with antialiased edges.

    Args:
        scenes: b scenes.
        frames: indices of the frames to draw; all `FRAMES` if None.

    Returns:
        b f h w 3, float32 in 0..1.
    """
    times = np.arange(FRAMES) if frames is None else np.array(frames)
    times = times.astype(np.float32)
    grid = np.arange(SIZE, dtype=np.float32) + 0.5
    clips = torch.empty(len(scenes), len(times), SIZE, SIZE, 3)
    for clip, scene in zip(clips, scenes, strict=True):
        dx, dy = velocity(scene)
        radius = scene.radius + growth(scene) * (times - (FRAMES - 1) / 2)
        x = grid - (scene.x + dx * times)[:, None]  # f w
        y = grid - (scene.y + dy * times)[:, None]  # f h
        distance = outline_distance(scene.shape, x[:, None, :], y[:, :, None], radius[:, None, None])
        cover = torch.from_numpy(np.clip(0.5 - distance, 0, 1).astype(np.float32))[..., None]
        torch.lerp(_backdrop(scene).expand_as(clip), torch.tensor(COLOURS[scene.colour]), cover, out=clip)
    return clips
