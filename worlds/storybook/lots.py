"""Random storybook scenes: combinations of training or those held out, with actors that stay inside the frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .world import (
    ACTORS,
    CAMERAS,
    FRAMES,
    PLACES,
    SPEEDS,
    TIMES,
    Actor,
    Scene,
    held_out,
    on_screen,
    random_fps,
)

TWO_ACTORS = 0.4
STILL_CAMERA = 0.45
BAD_WEATHER = 0.15
PLACINGS = 40
"""How often places for the actors are drawn before the scene is given up for another one."""

ZONES: dict[str, tuple[float, float]] = {
    "ground": (0.82, 0.92),
    "water": (0.72, 0.80),
    "air": (0.15, 0.62),
    "heaven": (0.16, 0.46),
    "deep": (0.2, 0.75),
}
"""Heights of the feet of actors on ground or water, and of the middles of others."""


def choice(rng: np.random.Generator, names: Sequence[str]) -> str:
    """One of the names, all alike."""
    return names[int(rng.integers(len(names)))]


def random_scene(
    rng: np.random.Generator, *, unseen: bool = False, fps: int | None = None, actors: int | None = None
) -> Scene:
    """A scene of training, or (`unseen`) one whose first actor is of a combination held out of it.

    `fps` None draws a frame rate, `actors` None one or two actors.
    """
    where = choice(rng, PLACES)
    count = (2 if rng.random() < TWO_ACTORS else 1) if actors is None else actors
    while True:
        scene = _scene(rng, where, count, unseen=unseen, fps=random_fps(rng) if fps is None else fps)
        placed = None if scene is None else place(scene, rng)
        if placed is not None:
            return placed


def _scene(rng: np.random.Generator, where: str, count: int, *, unseen: bool, fps: int) -> Scene | None:
    """Everything but the places; None for a combination that is not wanted."""
    time = "day" if where == "underwater" else choice(rng, TIMES)
    kinds = _kinds(where, time)
    cast = [_actor(rng, choice(rng, kinds)) for _ in range(count)]
    strange = [held_out(actor.kind, actor.colour, where) for actor in cast]
    if strange[0] != unseen or any(strange[1:]) or _alike(cast):
        return None
    weather = _weather(rng, where)
    camera = "still" if rng.random() < STILL_CAMERA else choice(rng, CAMERAS[1:])
    seed = int(rng.integers(2**31))
    return Scene(place=where, time=time, weather=weather, camera=camera, actors=tuple(cast), fps=fps, seed=seed)


def _kinds(where: str, time: str) -> list[str]:
    """The kinds of actors that can be at a place at this time of day."""
    if where == "underwater":
        return ["fish"]
    return [kind for kind, has in ACTORS.items() if where in has.places and time in has.times]


def _weather(rng: np.random.Generator, where: str) -> str:
    outside = where in ("hills", "city", "sea", "snow")
    bad = "snowfall" if where == "snow" else "rain"
    return bad if outside and rng.random() < BAD_WEATHER else "clear"


def _alike(cast: Sequence[Actor]) -> bool:
    """Whether two actors look the same, or one sky would have two suns or moons."""
    if len(cast) < 2:
        return False
    first, second = cast
    same = first.kind == second.kind
    return first.colour == second.colour or (same and (first.kind != "fish" or first.motion == second.motion))


def _actor(rng: np.random.Generator, kind: str) -> Actor:
    has = ACTORS[kind]
    motion = choice(rng, has.motions)
    speed = "normal" if motion == "still" or rng.random() < 0.4 else choice(rng, list(SPEEDS))
    return Actor(
        kind=kind,
        colour=choice(rng, has.colours),
        motion=motion,
        speed=speed,
        size=float(rng.uniform(*has.size)),
        turned=bool(rng.random() < 0.5),
    )


def place(scene: Scene, rng: np.random.Generator) -> Scene | None:
    """The scene with its actors at random places from which they stay inside the frame and apart from each other, or
    None where none was found."""
    for _ in range(PLACINGS):
        actors = tuple(_placed(actor, rng) for actor in scene.actors)
        candidate = replace(scene, actors=actors)
        if _inside(candidate) and _apart(candidate):
            return candidate
    return None


def _placed(actor: Actor, rng: np.random.Generator) -> Actor:
    zone = ACTORS[actor.kind].zone
    y = float(rng.uniform(*ZONES[zone]))
    y -= actor.size if zone in ("ground", "water") else 0.0
    return replace(actor, x=float(rng.uniform(0.0, 1.0)), y=y)


def _inside(scene: Scene) -> bool:
    for actor in scene.actors:
        for frame in (0, FRAMES // 2, FRAMES - 1):
            pose = on_screen(scene, actor, frame)
            margin = 0.85 * actor.size * pose.scale
            if not (margin < pose.x < 1 - margin and margin < pose.y < 1 - 0.6 * margin):
                return False
    return True


def _apart(scene: Scene) -> bool:
    if len(scene.actors) < 2:
        return True
    first, second = scene.actors
    near = 0.95 * (first.size + second.size)
    for frame in (0, 5, 10, FRAMES - 1):
        a, b = on_screen(scene, first, frame), on_screen(scene, second, frame)
        if np.hypot(a.x - b.x, a.y - b.y) < near * max(a.scale, b.scale):
            return False
    return True
