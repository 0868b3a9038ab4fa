"""Sentences about storybook scenes: several wordings for everything, and now and then something is left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .lots import choice
from .world import ACTORS, COLOURS, DIRECTIONS, Actor, Scene

NAMES: dict[str, tuple[str, ...]] = {
    "boat": ("boat", "sailboat"),
    "balloon": ("balloon", "hot air balloon"),
    "cat": ("cat", "kitten"),
    "house": ("house", "cottage"),
}
Verb = tuple[str, str]
"""The third person and the participle."""
TRAVELS: dict[str, tuple[Verb, ...]] = {
    "boat": (("sails", "sailing"), ("moves", "moving")),
    "car": (("drives", "driving"), ("moves", "moving")),
    "balloon": (("floats", "floating"), ("drifts", "drifting"), ("moves", "moving")),
    "bird": (("flies", "flying"), ("moves", "moving")),
    "fish": (("swims", "swimming"), ("moves", "moving")),
    "cat": (("walks", "walking"), ("moves", "moving")),
    "ball": (("rolls", "rolling"), ("moves", "moving")),
    "sun": (("moves", "moving"),),
    "moon": (("moves", "moving"),),
    "star": (("moves", "moving"), ("falls", "falling")),
}
RISES: dict[tuple[str, str], tuple[Verb, ...]] = {
    ("balloon", "up"): (("rises", "rising"),),
    ("balloon", "down"): (("sinks", "sinking"),),
    ("sun", "up"): (("rises", "rising"),),
    ("sun", "down"): (("sets", "setting"),),
    ("moon", "up"): (("rises", "rising"),),
    ("moon", "down"): (("sets", "setting"),),
    ("star", "down"): (("falls", "falling"),),
    ("cat", "jump"): (("jumps", "jumping"),),
    ("ball", "jump"): (("bounces", "bouncing"), ("jumps", "jumping")),
    ("sun", "still"): (("shines", "shining"),),
    ("moon", "still"): (("shines", "shining"),),
    ("car", "still"): (("is parked", "parked"),),
}
"""Verbs that say the whole motion by one word."""
OTHER: dict[str, tuple[Verb, ...]] = {
    "still": (("stays still", "staying still"), ("does not move", "that does not move")),
    "grow": (("grows", "growing"), ("gets bigger", "getting bigger")),
    "shrink": (("shrinks", "shrinking"), ("gets smaller", "getting smaller")),
    "spin": (("spins", "spinning"), ("turns", "turning")),
}
SIDES: dict[str, tuple[str, ...]] = {
    "left": ("to the left", "left"),
    "right": ("to the right", "right"),
    "up": ("up", "upwards"),
    "down": ("down", "downwards"),
}
SPEED_WORDS: dict[str, tuple[str, ...]] = {"slow": ("slowly",), "normal": ("",), "fast": ("quickly", "fast")}
PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "sea": ("at the sea", "over the sea", "on the ocean"),
    "hills": ("in the hills", "among green hills", "in the countryside"),
    "city": ("in the city", "in a town"),
    "snow": ("in the snow", "in snowy mountains"),
    "underwater": ("underwater", "under water"),
    "sky": ("in the sky", "above the clouds"),
}
TIME_WORDS: dict[str, tuple[str, ...]] = {
    "day": ("by day", "during the day"),
    "sunset": ("at sunset", "in the evening"),
    "night": ("at night", "under the stars"),
}
WEATHER_WORDS: dict[str, tuple[str, ...]] = {
    "rain": ("in the rain", "while it rains"),
    "snowfall": ("while it snows", "in falling snow"),
}
CAMERA_WORDS: dict[str, tuple[str, ...]] = {
    "still": ("the camera is still", "still camera"),
    "left": ("the camera pans left", "camera pans to the left"),
    "right": ("the camera pans right", "camera pans to the right"),
    "up": ("the camera pans up", "camera tilts up"),
    "down": ("the camera pans down", "camera tilts down"),
    "in": ("the camera zooms in", "camera zooms in"),
    "out": ("the camera zooms out", "camera zooms out"),
    "clockwise": ("the camera rolls clockwise",),
    "anticlockwise": ("the camera rolls anticlockwise",),
}

COLOUR_UNSAID = 0.04
MOTION_UNSAID = 0.06
PLACE_UNSAID = 0.04
TIME_UNSAID = 0.06
DAY_SAID = 0.4
WEATHER_UNSAID = 0.1
CAMERA_UNSAID = 0.06
STILL_SAID = 0.3
ONLY_ACTORS = 0.03


def _verb(actor: Actor, rng: np.random.Generator) -> tuple[Verb, str]:
    """The verb, and the direction where the verb does not say it."""
    special = RISES.get((actor.kind, actor.motion), ())
    if actor.motion in DIRECTIONS:
        if special and rng.random() < 0.6:
            return special[int(rng.integers(len(special)))], ""
        verbs = TRAVELS[actor.kind]
        return verbs[int(rng.integers(len(verbs)))], choice(rng, SIDES[actor.motion])
    verbs = (*special, *OTHER.get(actor.motion, ()))
    return verbs[int(rng.integers(len(verbs)))], ""


def _actor(actor: Actor, rng: np.random.Generator, whole: bool, participle: bool) -> str:
    """An actor with its colour and motion, such as "a red boat sails slowly to the left"."""
    name = choice(rng, NAMES.get(actor.kind, (actor.kind,)))
    if whole or rng.random() > COLOUR_UNSAID:
        name = f"{actor.colour} {name}"
    article = "the" if actor.kind in ("sun", "moon") and rng.random() < 0.5 else _article(name)
    if not whole and rng.random() < MOTION_UNSAID:
        return f"{article} {name}"
    verb, side = _verb(actor, rng)
    form = verb[1] if participle else verb[0]
    speed = "" if actor.motion == "still" else choice(rng, SPEED_WORDS[actor.speed])
    order = (speed, side) if rng.random() < 0.5 else (side, speed)
    return " ".join(f"{article} {name} {form} {' '.join(order)}".split())


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"


def _around(scene: Scene, rng: np.random.Generator, whole: bool) -> str:
    """Place, hour and weather."""
    words = []
    if whole or rng.random() > PLACE_UNSAID:
        words.append(choice(rng, PLACE_WORDS[scene.place]))
    if scene.place != "underwater" and _says_time(scene, rng, whole):
        words.append(choice(rng, TIME_WORDS[scene.time]))
    if scene.weather != "clear" and (whole or rng.random() > WEATHER_UNSAID):
        words.append(choice(rng, WEATHER_WORDS[scene.weather]))
    return " ".join(words)


def _says_time(scene: Scene, rng: np.random.Generator, whole: bool) -> bool:
    by_day = scene.time == "day"
    unsaid = 1 - DAY_SAID if by_day else TIME_UNSAID
    return (whole and not by_day) or rng.random() > unsaid


def _camera(scene: Scene, rng: np.random.Generator, whole: bool) -> str:
    unsaid = 1 - STILL_SAID if scene.camera == "still" else CAMERA_UNSAID
    said = (whole and scene.camera != "still") or rng.random() > unsaid
    return choice(rng, CAMERA_WORDS[scene.camera]) if said else ""


def _set_in(said: str, around: str, rng: np.random.Generator) -> str:
    """The words for the actors with those for the scenery, which sometimes come first."""
    if around and rng.random() < 0.2:
        return f"{around}, {said}"
    return f"{said} {around}".strip()


def caption(scene: Scene, rng: np.random.Generator, *, whole: bool = False) -> str:
    """One wording of the scene; `whole` leaves out only the defaults: daylight, clear weather and a
    camera that stays still."""
    actors: Sequence[Actor] = scene.actors if rng.random() < 0.5 else scene.actors[::-1]
    participle = bool(rng.random() < 0.35)
    said = " and ".join(_actor(actor, rng, whole, participle) for actor in actors)
    if not whole and rng.random() < ONLY_ACTORS:
        return said
    around, camera = _around(scene, rng, whole), _camera(scene, rng, whole)
    said = _set_in(said, around, rng)
    if participle and rng.random() < 0.3:
        said = f"a video of {said}" if not said.startswith(tuple("iou")) else said
    return f"{said}, {camera}" if camera else said


def words() -> list[str]:
    """All words that captions are made of, and the comma."""
    said = [*COLOURS, *ACTORS, "a an the and a video of", ","]
    for table in (NAMES, SIDES, SPEED_WORDS, PLACE_WORDS, TIME_WORDS, WEATHER_WORDS, CAMERA_WORDS):
        said += [text for several in table.values() for text in several]
    for verbs in (*TRAVELS.values(), *RISES.values(), *OTHER.values()):
        said += [text for verb in verbs for text in verb]
    return sorted({word for text in said for word in text.split()})
