"""What a storybook clip shows, in names and numbers, and how everything in it moves.

Lengths are in units of the frame's side, with x to the right and y down; (0, 0) is the upper left corner of the frame
before the camera has moved. Times are in seconds: a clip sampled at twice the frame rate shows half the motion.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

FRAMES = 16
SIZE = 96
"""Height and width in pixels of the clips that the models are trained on."""
FPS_RANGE = (6, 12)
DEFAULT_FPS = 8

PLACES = ("sea", "hills", "city", "snow", "underwater", "sky")
TIMES = ("day", "sunset", "night")
WEATHERS = ("clear", "rain", "snowfall")
CAMERAS = ("still", "left", "right", "up", "down", "in", "out", "clockwise", "anticlockwise")
MOTIONS = ("still", "left", "right", "up", "down", "jump", "grow", "shrink", "spin")
SPEEDS: dict[str, float] = {"slow": 0.09, "normal": 0.145, "fast": 0.22}
"""Units per second of actors that move along a line; other motions scale with it."""
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")

PAN_SPEED, ZOOM_SPEED, ROLL_SPEED = 0.12, 0.17, 0.19
"""The camera's speeds: units, logarithm of the magnification, and radians per second."""
SKY_DEPTH, FAR_DEPTH = 0.3, 0.6
"""How far the sky and the far scenery follow the camera, against 1 for what is near."""

HELD_OUT_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class ActorKind:
    """Where an actor can be and what it can do. `zone` is one of ground, water, air, heaven and deep; `size` is the
    range of its half height."""

    zone: str
    places: tuple[str, ...]
    motions: tuple[str, ...]
    size: tuple[float, float]
    colours: tuple[str, ...] = COLOURS
    times: tuple[str, ...] = TIMES


LAND = ("hills", "city", "snow")
OPEN_AIR = ("sea", "hills", "city", "snow", "sky")
ACTORS: dict[str, ActorKind] = {
    "boat": ActorKind(zone="water", places=("sea",), motions=("left", "right", "still"), size=(0.15, 0.19)),
    "car": ActorKind(zone="ground", places=LAND, motions=("left", "right", "still"), size=(0.13, 0.16)),
    "balloon": ActorKind(
        zone="air", places=OPEN_AIR, motions=("up", "down", "left", "right", "still"), size=(0.15, 0.19)
    ),
    "bird": ActorKind(zone="air", places=OPEN_AIR, motions=("left", "right", "up", "down"), size=(0.12, 0.15)),
    "fish": ActorKind(
        zone="deep", places=("underwater",), motions=("left", "right", "up", "down", "still"), size=(0.12, 0.17)
    ),
    "cat": ActorKind(zone="ground", places=LAND, motions=("left", "right", "jump", "still"), size=(0.13, 0.16)),
    "house": ActorKind(zone="ground", places=("hills", "snow"), motions=("still", "grow", "shrink"), size=(0.16, 0.2)),
    "tree": ActorKind(zone="ground", places=LAND, motions=("still", "grow", "shrink"), size=(0.17, 0.21)),
    "sun": ActorKind(
        zone="heaven",
        places=OPEN_AIR,
        motions=("up", "down", "still"),
        size=(0.12, 0.16),
        colours=("red", "orange", "yellow"),
        times=("day", "sunset"),
    ),
    "moon": ActorKind(
        zone="heaven",
        places=OPEN_AIR,
        motions=("up", "down", "still"),
        size=(0.12, 0.15),
        colours=("white", "yellow", "orange"),
        times=("night",),
    ),
    "star": ActorKind(
        zone="air", places=("sky", "sea", "hills"), motions=("spin", "down", "grow", "shrink", "still"),
        size=(0.12, 0.16), times=("night", "sunset"),
    ),
    "ball": ActorKind(
        zone="ground", places=LAND, motions=("left", "right", "jump", "still", "spin"), size=(0.10, 0.13)
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Actor:
    """One actor. `x`, `y`: its middle in the first frame; `size`: half its height in the middle of the clip."""

    kind: str
    colour: str
    motion: str
    speed: str = "normal"
    x: float = 0.5
    y: float = 0.5
    size: float = 0.15
    turned: bool = False
    """Whether an actor without a direction looks to the left."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One clip. `seed` decides the shapes of the scenery and nothing that a caption says."""

    place: str
    actors: tuple[Actor, ...]
    time: str = "day"
    weather: str = "clear"
    camera: str = "still"
    fps: int = DEFAULT_FPS
    seed: int = 0

    def seconds(self, frame: int) -> float:
        """The time of a frame, from 0 on."""
        return frame / self.fps

    @property
    def duration(self) -> float:
        """Seconds from the first frame of a clip to the last."""
        return (FRAMES - 1) / self.fps


@dataclass(frozen=True)
class Pose:
    """Where and how something is at one time: its middle, a factor on its size and an angle in radians."""

    x: float
    y: float
    scale: float = 1.0
    angle: float = 0.0


def held_out(kind: str, colour: str, place: str) -> bool:
    """Whether this combination never occurs in training: one in ten, by a hash that is the same everywhere."""
    return zlib.crc32(f"{kind}/{colour}/{place}".encode()) % HELD_OUT_EVERY == 0


def depth_of(kind: str) -> float:
    """How far an actor of this kind follows the camera."""
    return SKY_DEPTH if ACTORS[kind].zone == "heaven" else 1.0


def actor_pose(actor: Actor, seconds: float, duration: float) -> Pose:
    """The actor's pose in the scene, before the camera."""
    speed = SPEEDS[actor.speed]
    ratio = speed / SPEEDS["normal"]
    if actor.motion in DIRECTIONS:
        dx, dy = DIRECTIONS[actor.motion]
        return Pose(actor.x + dx * speed * seconds, actor.y + dy * speed * seconds)
    if actor.motion == "jump":
        height = 0.24 * abs(math.sin(math.pi * 0.85 * ratio * seconds))
        return Pose(actor.x, actor.y - height)
    if actor.motion in ("grow", "shrink"):
        sign = 1.0 if actor.motion == "grow" else -1.0
        scale = math.exp(sign * 0.36 * ratio * (seconds - duration / 2))
        rooted = actor.size * (1 - scale) if ACTORS[actor.kind].zone == "ground" else 0.0
        return Pose(actor.x, actor.y + rooted, scale)
    if actor.motion == "spin":
        return Pose(actor.x, actor.y, 1.0, 2.0 * ratio * seconds)
    return Pose(actor.x, actor.y)


def camera_pose(camera: str, seconds: float, depth: float = 1.0) -> Pose:
    """The camera's middle, magnification and roll for scenery of this depth; a roll turns everything alike."""
    if camera in DIRECTIONS:
        dx, dy = DIRECTIONS[camera]
        return Pose(0.5 + dx * PAN_SPEED * seconds * depth, 0.5 + dy * PAN_SPEED * seconds * depth)
    if camera in ("in", "out"):
        sign = 1.0 if camera == "in" else -1.0
        start = 1.0 if camera == "in" else math.exp(ZOOM_SPEED * (FRAMES - 1) / FPS_RANGE[0])
        scale = start * math.exp(sign * ZOOM_SPEED * seconds)
        return Pose(0.5, 0.5, 1 + (scale - 1) * depth)
    sign = {"clockwise": 1.0, "anticlockwise": -1.0}.get(camera, 0.0)
    return Pose(0.5, 0.5, 1.0, -sign * ROLL_SPEED * seconds)


def seen(camera: Pose, pose: Pose) -> Pose:
    """What the camera makes of a pose in the scene: its place in the frame, 0 .. 1 from corner to corner."""
    cos, sin = math.cos(camera.angle), math.sin(camera.angle)
    dx, dy = pose.x - camera.x, pose.y - camera.y
    x = 0.5 + camera.scale * (cos * dx - sin * dy)
    y = 0.5 + camera.scale * (sin * dx + cos * dy)
    return Pose(x, y, camera.scale * pose.scale, camera.angle + pose.angle)


def on_screen(scene: Scene, actor: Actor, frame: int) -> Pose:
    """The actor's place in a frame; `scale` times its size is half its height there."""
    seconds = scene.seconds(frame)
    camera = camera_pose(scene.camera, seconds, depth_of(actor.kind))
    return seen(camera, actor_pose(actor, seconds, scene.duration))


def facing(actor: Actor) -> int:
    """1 for an actor that looks to the right, -1 to the left."""
    if actor.motion in ("left", "right"):
        return DIRECTIONS[actor.motion][0]
    return -1 if actor.turned else 1


def random_fps(rng: np.random.Generator) -> int:
    """A frame rate, even in its logarithm over `FPS_RANGE`."""
    low, high = math.log(FPS_RANGE[0] - 0.5), math.log(FPS_RANGE[1] + 0.5)
    return int(np.clip(round(math.exp(rng.uniform(low, high))), *FPS_RANGE))
