"""Whether a clip shows what its prompt says: actors, colours, motions, scenery and camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worlds.storybook.world import ACTORS, COLOURS, DIRECTIONS, FRAMES, Actor, Scene, camera_pose, depth_of

from .tracking import Array, Observed, Track

KEPT = 0.75
"""The share of frames in which an actor must be found."""
MOVED = 0.05
"""The smallest distance, in parts of the frame, that counts as a motion from the clip's first to its last quarter."""
GROWN = 0.13
"""The least change of a size's logarithm that counts as growing."""
JUMPED = 0.07
"""The least height of a jump above the straight line from start to end."""
TURNED = 0.1
"""The least change of an actor's inside that counts as spinning."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What of a scene is right in a clip; `motion` and `colour` are those of each actor that is there."""

    actors: bool
    place: bool
    time: bool
    camera: bool
    colours: tuple[bool, ...]
    motions: tuple[bool, ...]

    @property
    def both(self) -> bool:
        """All actors there, each in its own colour."""
        return self.actors and all(self.colours)


def judge(scene: Scene, seen: Observed) -> Verdict:
    """The verdict on a clip that was observed with the kinds of the scene's actors."""
    tracks = assigned(scene, seen)
    pairs = list(zip(scene.actors, tracks, strict=True))
    turning = dict(zip(map(id, seen.tracks), seen.turning, strict=True))
    return Verdict(
        actors=all(track.share >= KEPT for track in tracks),
        place=seen.place == scene.place,
        time=seen.time == scene.time,
        camera=seen.camera == scene.camera,
        colours=tuple(list(COLOURS)[track.colour] == actor.colour for actor, track in pairs),
        motions=tuple(motion(scene, actor, track, turning[id(track)]) == actor.motion for actor, track in pairs),
    )


def assigned(scene: Scene, seen: Observed) -> list[Track]:
    """The tracks in the order of the scene's actors; of two of one kind each gets the one of its colour."""
    tracks = list(seen.tracks)
    if len(tracks) == 2 and scene.actors[0].kind == scene.actors[1].kind:
        wanted = [list(COLOURS).index(actor.colour) for actor in scene.actors]
        if tracks[0].colour == wanted[1] or tracks[1].colour == wanted[0]:
            tracks.reverse()
    return tracks


def motion(scene: Scene, actor: Actor, track: Track, turning: float) -> str:
    """The motion of an actor in the scene, without what the scene's camera adds to it."""
    path, growth = in_scene(scene, actor, track)
    quarter = FRAMES // 4
    start, end = np.median(path[:quarter], axis=0), np.median(path[-quarter:], axis=0)
    way = end - start
    grown = float(np.median(growth[-quarter:]) - np.median(growth[:quarter]))
    can = ACTORS[actor.kind].motions
    if "grow" in can and abs(grown) > GROWN:
        return "grow" if grown > 0 else "shrink"
    if "jump" in can and abs(way[0]) < 2 * MOVED and _height(path) > JUMPED:
        return "jump"
    if float(np.hypot(*way)) > MOVED:
        return _direction(way)
    return "spin" if "spin" in can and turning > TURNED else "still"


def _height(path: Array) -> float:
    """How far places f 2 rise above the straight line from their start to their end."""
    line = np.linspace(path[0, 1], path[-1, 1], len(path))
    return float((line - path[:, 1]).max())


def _direction(way: Array) -> str:
    """The direction that is nearest to a displacement x, y."""
    across = abs(way[0]) > abs(way[1])
    direction = (int(np.sign(way[0])), 0) if across else (0, int(np.sign(way[1])))
    return next(name for name, value in DIRECTIONS.items() if value == direction)


def in_scene(scene: Scene, actor: Actor, track: Track) -> tuple[Array, Array]:
    """A track's places in the scene, f 2, and the logarithms of its size, f: the inverse of `world.on_screen`."""
    path, growth = np.zeros((FRAMES, 2), dtype=np.float32), np.zeros(FRAMES, dtype=np.float32)
    for frame in range(FRAMES):
        camera = camera_pose(scene.camera, scene.seconds(frame), depth_of(actor.kind))
        cos, sin = np.cos(camera.angle), np.sin(camera.angle)
        dx, dy = (track.places[frame] - 0.5) / camera.scale
        path[frame] = (camera.x + cos * dx + sin * dy, camera.y - sin * dx + cos * dy)
        growth[frame] = np.log(max(float(track.sizes[frame]), 1e-3) / camera.scale)
    return path, growth


def summary(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Percentages over clips, and over actors for colours and motions."""
    found: dict[str, list[bool]] = {}
    for verdict in verdicts:
        for name, values in _counted(verdict).items():
            found.setdefault(name, []).extend(values)
    return {name: round(100 * float(np.mean(values)), 1) for name, values in found.items() if values}


def _counted(verdict: Verdict) -> dict[str, tuple[bool, ...]]:
    """What of one clip counts in the summary, by name."""
    return {
        "actors": (verdict.actors,),
        "place": (verdict.place,),
        "time": (verdict.time,),
        "colour": verdict.colours,
        "motion": verdict.motions,
        "camera": (verdict.camera,),
        "two actors": (verdict.both,) if len(verdict.colours) == 2 else (),
    }
