"""Captions of scenes, with several wordings for everything, and with occasional omissions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .world import DIRECTIONS, Scene

SHAPE_WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "donut"),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {"purple": ("purple", "violet"), "cyan": ("cyan", "turquoise")}
SIDE_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("to the left", "left", "leftwards"),
    "right": ("to the right", "right", "rightwards"),
    "up": ("up", "upwards", "to the top"),
    "down": ("down", "downwards", "to the bottom"),
    "up left": ("to the upper left", "up and to the left", "diagonally up left"),
    "up right": ("to the upper right", "up and to the right", "diagonally up right"),
    "down left": ("to the lower left", "down and to the left", "diagonally down left"),
    "down right": ("to the lower right", "down and to the right", "diagonally down right"),
}
VERBS = (("moves", "moving"), ("slides", "sliding"), ("glides", "gliding"), ("travels", "travelling"))
OTHER_MOTIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "still": (
        ("stands still", "standing still"),
        ("does not move", "that does not move"),
        ("stays in place", "staying in place"),
    ),
    "growing": (("grows", "growing"), ("gets bigger", "getting bigger"), ("becomes larger", "becoming larger")),
    "shrinking": (("shrinks", "shrinking"), ("gets smaller", "getting smaller")),
}
SPEED_WORDS: dict[str, tuple[str, ...]] = {"slow": ("slowly",), "normal": ("",), "fast": ("fast", "quickly")}

BACKGROUND_NAMED = 0.5
COLOUR_OMITTED = 0.08
SHAPE_OMITTED = 0.05
MOTION_OMITTED = 0.10
COLOUR_ONLY = 0.03
"""Probabilities."""


def _pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def _object(scene: Scene, rng: np.random.Generator, complete: bool) -> str:
    colour = _pick(rng, COLOUR_WORDS.get(scene.colour, (scene.colour,)))
    shape = _pick(rng, SHAPE_WORDS[scene.shape])
    if not complete:
        colour = "" if rng.random() < COLOUR_OMITTED else colour
        shape = "shape" if rng.random() < SHAPE_OMITTED else shape
    return " ".join(f"{colour} {shape}".split())


def _motion(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """The motion as a verb ("moves slowly to the left") and as a participle ("moving slowly to the left")."""
    speed = _pick(rng, SPEED_WORDS[scene.speed])
    if scene.motion in DIRECTIONS:
        verb = VERBS[int(rng.integers(len(VERBS)))]
        side = _pick(rng, SIDE_WORDS[scene.motion])
        order = (speed, side) if rng.random() < 0.5 else (side, speed)
        forms = [" ".join(" ".join((form, *order)).split()) for form in verb]
        return forms[0], forms[1]
    wordings = OTHER_MOTIONS[scene.motion]
    verb = wordings[int(rng.integers(len(wordings)))]
    if scene.motion == "still" or not speed:
        return verb
    return f"{verb[0]} {speed}", f"{verb[1]} {speed}"


def _place(scene: Scene, rng: np.random.Generator) -> str:
    colours = " and ".join(scene.background)
    return _pick(rng, (f"on a {colours} background", f"in front of a {colours} background", f"on {colours}"))


def caption(scene: Scene, rng: np.random.Generator, *, complete: bool = False) -> str:
    """A caption of the scene; with `complete`, it always names colour, shape and motion, as evaluation needs."""
    if not complete and rng.random() < COLOUR_ONLY:
        return scene.colour
    name = _object(scene, rng, complete)
    article = "an" if name[0] in "aeiou" else "a"
    verb, participle = _motion(scene, rng)
    if not complete and rng.random() < MOTION_OMITTED:
        sentence = _pick(rng, (f"{article} {name}", name))
    else:
        sentence = _pick(
            rng,
            (
                f"{article} {name} {verb}",
                f"the {name} {verb}",
                f"{article} {name} {participle}",
                f"a video of {article} {name} {participle}",
            ),
        )
    return f"{sentence} {_place(scene, rng)}" if rng.random() < BACKGROUND_NAMED else sentence
