"""Scene -> frames: layers and actors put together, one frame after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from .actors import LOOKS, SHADOW_FOOT, moves, postures, shadow
from .scenery import BEYOND, SPAN, Layer, scenery
from .world import (
    ACTORS,
    FRAMES,
    SIZE,
    Actor,
    Pose,
    Scene,
    actor_pose,
    camera_pose,
    depth_of,
    facing,
    seen,
)

FINER = 1.5
"""Pixels of an actor's drawing for each of the frame, at its own size: it may grow."""


@dataclass(frozen=True)
class _Sprite:
    """An actor with its drawings."""

    actor: Actor
    drawings: list[Image.Image]
    shadow: Image.Image | None


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """What is drawn once for all frames of a scene, from back to front: the background, actors in the sky, layers
    behind the other actors, those actors, and layers before them."""

    back: Layer
    heaven: list[_Sprite]
    behind: list[Layer]
    others: list[_Sprite]
    in_front: list[Layer]


def render(scene: Scene, *, size: int = SIZE, frames: Sequence[int] | None = None) -> npt.NDArray[np.uint8]:
    """The frames f size size 3 of a scene, 0..255; numbered from 0, all `FRAMES` when `frames` is None."""
    numbers = range(FRAMES) if frames is None else frames
    stage = _stage(scene, size)
    clip = np.empty((len(numbers), size, size, 3), dtype=np.uint8)
    for index, number in enumerate(numbers):
        clip[index] = np.asarray(_frame(scene, size, scene.seconds(number), stage))
    return clip


def _stage(scene: Scene, size: int) -> _Stage:
    back, layers = scenery(scene, size)
    pixels = FINER * size
    heaven: list[_Sprite] = []
    others: list[_Sprite] = []
    for actor in scene.actors:
        drawings = postures(scene, actor, pixels * actor.size)
        group = heaven if ACTORS[actor.kind].zone == "heaven" else others
        group.append(_Sprite(actor, drawings, shadow(actor, pixels * actor.size)))
    return _Stage(
        back=back,
        heaven=heaven,
        behind=[layer for layer in layers if not layer.in_front],
        others=sorted(others, key=lambda sprite: sprite.actor.y + sprite.actor.size),
        in_front=[layer for layer in layers if layer.in_front],
    )


def _frame(scene: Scene, size: int, seconds: float, stage: _Stage) -> Image.Image:
    frame = _moved(stage.back, scene, size, seconds)
    for sprite in stage.heaven:
        _put(frame, sprite, scene, seconds)
    for layer in stage.behind:
        _cover(frame, _moved(layer, scene, size, seconds))
    for sprite in stage.others:
        _put(frame, sprite, scene, seconds)
    for layer in stage.in_front:
        _cover(frame, _moved(layer, scene, size, seconds))
    return frame


def _cover(frame: Image.Image, layer: Image.Image) -> None:
    frame.paste(layer, (0, 0), layer)


def _moved(layer: Layer, scene: Scene, size: int, seconds: float) -> Image.Image:
    """What the camera sees of a layer."""
    camera = camera_pose(scene.camera, seconds, layer.depth)
    sway = layer.sway * math.sin(2.2 * seconds)
    shift_x, shift_y = layer.drift[0] * seconds, (layer.drift[1] * seconds + BEYOND) % SPAN - BEYOND
    cos, sin = math.cos(camera.angle) / camera.scale, math.sin(camera.angle) / camera.scale
    # A pixel (u, v) of the frame shows the layer at middle + R(-angle) ((u, v) / size - 0.5) / scale.
    x0 = camera.x - 0.5 * (cos + sin) + BEYOND - sway - shift_x
    y0 = camera.y - 0.5 * (cos - sin) + BEYOND
    image = layer.image
    if layer.drift[1]:
        image = _rolled(image, round(shift_y * size))
    return image.transform(
        (size, size),
        Image.Transform.AFFINE,
        (cos, sin, x0 * size, -sin, cos, y0 * size),
        Image.Resampling.BILINEAR,
    )


def _rolled(image: Image.Image, shift: int) -> Image.Image:
    """The image moved down by so many pixels; what leaves it below comes in above."""
    return Image.fromarray(np.roll(np.asarray(image), shift, axis=0))


def _put(frame: Image.Image, sprite: _Sprite, scene: Scene, seconds: float) -> None:
    """Draw an actor, and before it its shadow."""
    actor, look = sprite.actor, LOOKS[sprite.actor.kind]
    pose = actor_pose(actor, seconds, scene.duration)
    camera = camera_pose(scene.camera, seconds, depth_of(actor.kind))
    if sprite.shadow is not None:
        height = (actor.y - pose.y) / actor.size if actor.motion == "jump" else 0.0
        foot = Pose(pose.x, (actor.y if height else pose.y) + SHADOW_FOOT * actor.size * pose.scale, pose.scale)
        small = seen(camera, Pose(foot.x, foot.y, foot.scale * (1 - 0.2 * min(height, 2.0)), 0.0))
        _paste(frame, sprite.shadow, small, actor.size, (1.2, 0.3))
    if actor.kind == "ball" and actor.motion in ("left", "right"):
        angle = facing(actor) * abs(pose.x - actor.x) / actor.size
        pose = Pose(pose.x, pose.y, pose.scale, angle)
    if actor.kind in ("boat", "balloon", "fish"):
        bob = 0.05 * math.sin(2.4 * seconds + actor.size * 40)
        pose = Pose(pose.x, pose.y + 0.12 * actor.size * math.sin(2.4 * seconds), pose.scale, bob)
    turn = int(seconds * look.pace * len(sprite.drawings)) if moves(actor) else 0
    _paste(frame, sprite.drawings[turn % len(sprite.drawings)], seen(camera, pose), actor.size, (1.0, 1.0))


def _paste(frame: Image.Image, drawing: Image.Image, pose: Pose, size: float, half: tuple[float, float]) -> None:
    """A drawing with its middle at a pose of the frame; `half` is half its width and height in units of `size`."""
    side = frame.width
    unit = pose.scale * size * side  # pixels of the frame for one unit of the drawing
    cos, sin = math.cos(pose.angle), math.sin(pose.angle)
    reach_x = unit * (half[0] * abs(cos) + half[1] * abs(sin))
    reach_y = unit * (half[0] * abs(sin) + half[1] * abs(cos))
    left, top = math.floor(pose.x * side - reach_x) - 1, math.floor(pose.y * side - reach_y) - 1
    right, bottom = math.ceil(pose.x * side + reach_x) + 1, math.ceil(pose.y * side + reach_y) + 1
    grain = drawing.width / (2 * half[0] * unit)  # pixels of the drawing for one of the frame
    a, b = grain * cos, grain * sin
    dx, dy = left - pose.x * side, top - pose.y * side
    patch = drawing.transform(
        (right - left, bottom - top),
        Image.Transform.AFFINE,
        (a, b, a * dx + b * dy + drawing.width / 2, -b, a, -b * dx + a * dy + drawing.height / 2),
        Image.Resampling.BILINEAR,
    )
    frame.paste(patch, (left, top), patch)
