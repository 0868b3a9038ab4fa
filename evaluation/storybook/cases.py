"""The prompts of the judge; `python -m evaluation.storybook.cases` draws their scenes into a file, without torch."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worlds.storybook.captions import caption
from worlds.storybook.drawing import render
from worlds.storybook.lots import random_scene
from worlds.storybook.world import DEFAULT_FPS, Scene

COUNT = 400


@dataclass(frozen=True, kw_only=True)
class Case:
    """One clip to make: a scene, the prompt that describes it, and a seed."""

    scene: Scene
    prompt: str
    seed: int


def draw_cases(count: int = COUNT, *, unseen: bool = True, seed: int = 0) -> list[Case]:
    """`count` scenes of combinations held out of training, or of the others, with a full caption for each."""
    rng = np.random.default_rng([seed, int(unseen), 77])
    cases = []
    for number in range(count):
        scene = random_scene(rng, unseen=unseen, fps=DEFAULT_FPS)
        cases.append(Case(scene=scene, prompt=caption(scene, rng, whole=True), seed=1000 + number))
    return cases


def main(arguments: list[str] | None = None) -> int:
    """Draw the scenes; the file appears whole."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--file", type=Path, required=True, help="a .npy file: bytes n f h w 3")
    options.add_argument("--count", type=int, default=COUNT)
    given = options.parse_args(arguments)
    clips = np.stack([render(case.scene) for case in draw_cases(given.count)])
    part = given.file.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, clips)
    part.replace(given.file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
