"""`python -m training.storybook.painting`: one process that draws clips and leaves them in a folder, until it is ended.

It imports neither torch nor a model, so that many of these start quickly. Files appear whole or not at all.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from worlds.storybook.captions import caption
from worlds.storybook.drawing import render
from worlds.storybook.lots import random_scene
from worlds.storybook.world import (
    ACTORS,
    CAMERAS,
    COLOURS,
    FRAMES,
    MOTIONS,
    PLACES,
    SIZE,
    TIMES,
    WEATHERS,
    Scene,
    camera_pose,
    on_screen,
)

CLIPS = 32
"""Clips in a file."""
CAPTIONS = 4
"""Wordings of each clip."""
UNSEEN_SHARE = 0.08
"""Clips of combinations that are held out of training: only the autoencoder and the judge see them."""
WAITING = 400
"""Files that may wait in the folder before drawing pauses."""

Arrays = dict[str, npt.NDArray[Any]]


def labels(scene: Scene) -> Arrays:
    """What a scene shows, in numbers: the indices of its names, -1 for an actor that is not there, and by frame the
    actors' places (16 2 4: x, y, half height, angle) and the camera's (16 4: x, y, log magnification, angle).

    Actors are in the order of their kinds and colours, so that it does not depend on what is drawn first."""
    kinds, colours = list(ACTORS), list(COLOURS)
    actors = sorted(scene.actors, key=lambda actor: (kinds.index(actor.kind), colours.index(actor.colour)))
    names = np.full((2, 3), -1, dtype=np.int64)
    poses = np.zeros((FRAMES, 2, 4), dtype=np.float32)
    for slot, actor in enumerate(actors):
        names[slot] = (kinds.index(actor.kind), colours.index(actor.colour), MOTIONS.index(actor.motion))
        for frame in range(FRAMES):
            pose = on_screen(scene, actor, frame)
            poses[frame, slot] = (pose.x, pose.y, pose.scale * actor.size, pose.angle)
    camera = np.zeros((FRAMES, 4), dtype=np.float32)
    for frame in range(FRAMES):
        pose = camera_pose(scene.camera, scene.seconds(frame))
        camera[frame] = (pose.x, pose.y, np.log(pose.scale), pose.angle)
    around = (
        PLACES.index(scene.place),
        TIMES.index(scene.time),
        WEATHERS.index(scene.weather),
        CAMERAS.index(scene.camera),
        scene.fps,
    )
    return {"names": names, "poses": poses, "camera": camera, "around": np.array(around, dtype=np.int64)}


def paint(count: int, rng: np.random.Generator, *, size: int = SIZE) -> Arrays:
    """`count` clips with captions and labels, each array with the clips on its first axis."""
    clips: list[Arrays] = []
    for _ in range(count):
        unseen = bool(rng.random() < UNSEEN_SHARE)
        scene = random_scene(rng, unseen=unseen)
        words = np.array([caption(scene, rng) for _ in range(CAPTIONS)])
        drawn = {"frames": render(scene, size=size), "captions": words, "unseen": np.array(unseen)}
        clips.append({**drawn, **labels(scene)})
    return {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}


def main(arguments: list[str] | None = None) -> int:
    """Draw until the folder goes away or the process is ended."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--folder", type=Path, required=True)
    options.add_argument("--number", type=int, required=True, help="which of the processes this is")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--clips", type=int, default=CLIPS, help="clips in a file")
    given = options.parse_args(arguments)
    for index in range(sys.maxsize):
        if not given.folder.is_dir():
            break
        rng = np.random.default_rng([given.seed, given.number, index])
        arrays = paint(given.clips, rng)
        part = given.folder / f"{given.number}_{index}.part"
        with part.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        part.replace(part.with_suffix(".npz"))
        while given.folder.is_dir() and len(list(given.folder.glob("*.npz"))) > WAITING:
            time.sleep(0.2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
