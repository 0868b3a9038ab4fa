"""The actors of storybook clips, each drawn once for a clip in the few postures that it has.

A drawing fills the square from -1 to 1 in both directions; actors look to the right. Wings, tails, legs and wheels
have a phase, a number from 0 to 1 that comes round.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageOps

from .pen import Colour, Pen, curve, darker, lighter, mixed, star_points
from .world import Actor, Scene, facing

COLOURS: dict[str, Colour] = {
    "red": (222, 52, 58),
    "orange": (246, 138, 38),
    "yellow": (250, 212, 56),
    "green": (52, 162, 82),
    "blue": (48, 104, 214),
    "purple": (136, 74, 176),
    "pink": (246, 140, 184),
    "white": (248, 248, 250),
}
OUTLINE: Colour = (46, 42, 66)
NIGHT: tuple[Colour, float] = ((16, 20, 60), 0.16)
"""What the night mixes into an actor's colours, and how much of it: less than into the scenery, so that actors glow."""

Draw = Callable[[Pen, Colour, float], None]


def _boat(pen: Pen, colour: Colour, phase: float) -> None:
    pen.line([(-0.05, 0.4), (-0.05, -0.95)], (110, 78, 60), 0.07)
    pen.polygon([(0.02, -0.9), (0.02, 0.28), (0.78, 0.28)], (252, 250, 240))
    pen.polygon([(-0.14, -0.7), (-0.14, 0.28), (-0.66, 0.28)], (236, 230, 214))
    pen.polygon([(-0.95, 0.38), (0.98, 0.38), (0.66, 0.9), (-0.66, 0.9)], colour)
    pen.polygon([(-0.8, 0.64), (0.83, 0.64), (0.66, 0.9), (-0.66, 0.9)], darker(colour))
    pen.box(-0.97, 0.36, 1.0, 0.46, lighter(colour, 0.5))


def _car(pen: Pen, colour: Colour, phase: float) -> None:
    pen.polygon(curve([(-0.55, 0.05), (-0.35, -0.45), (0.25, -0.45), (0.55, 0.05)], 6), colour)
    pen.box(-0.98, -0.02, 0.98, 0.58, colour, round_by=0.22)
    pen.box(-0.94, 0.36, 0.94, 0.58, darker(colour), round_by=0.1)
    for left, right in ((-0.4, -0.04), (0.05, 0.38)):
        pen.polygon([(left, 0.02), (left + 0.08, -0.34), (right - 0.08, -0.34), (right, 0.02)], (196, 232, 246))
    pen.ellipse(0.9, 0.2, 0.08, 0.1, (255, 240, 170))
    for x in (-0.52, 0.52):
        pen.ellipse(x, 0.58, 0.27, 0.27, OUTLINE)
        pen.ellipse(x, 0.58, 0.14, 0.14, (214, 214, 222))
        angle = 2 * math.pi * phase / 2
        pen.line([(x, 0.58), (x + 0.2 * math.cos(angle), 0.58 + 0.2 * math.sin(angle))], (150, 150, 164), 0.08)


def _balloon(pen: Pen, colour: Colour, phase: float) -> None:
    pen.polygon([(-0.3, 0.3), (0.3, 0.3), (0.16, 0.66), (-0.16, 0.66)], (120, 92, 72))
    pen.polygon([(-0.22, 0.3), (0.22, 0.3), (0.1, 0.66), (-0.1, 0.66)], (236, 240, 244))
    pen.ellipse(0, -0.28, 0.68, 0.7, colour)
    pen.ellipse(0, -0.28, 0.44, 0.7, lighter(colour, 0.3))
    pen.ellipse(0, -0.28, 0.2, 0.7, colour)
    pen.polygon([(-0.42, 0.25), (0.42, 0.25), (0.24, 0.44), (-0.24, 0.44)], darker(colour, 0.25))
    pen.box(-0.2, 0.64, 0.2, 0.98, (168, 116, 72), round_by=0.06)
    pen.box(-0.2, 0.64, 0.2, 0.74, (132, 88, 56))


def _bird(pen: Pen, colour: Colour, phase: float) -> None:
    lift = math.sin(2 * math.pi * phase)
    pen.polygon([(-0.95, -0.12), (-0.45, 0.02), (-0.5, 0.3), (-0.98, 0.26)], darker(colour, 0.25))
    far = [(-0.3, 0.05), (0.22, 0.05), (0.0, 0.05 - 0.85 * lift), (-0.36, 0.05 - 0.95 * lift)]
    pen.polygon(far, darker(colour, 0.35))
    pen.polygon(curve([(-0.62, 0.12), (-0.1, -0.2), (0.5, -0.12), (0.72, 0.1), (0.2, 0.42), (-0.3, 0.36)]), colour)
    pen.ellipse(0.55, -0.12, 0.27, 0.27, colour)
    pen.ellipse(0.1, 0.24, 0.36, 0.14, lighter(colour, 0.4))
    pen.polygon([(0.78, -0.2), (1.0, -0.06), (0.76, 0.03)], (250, 176, 48))
    pen.ellipse(0.62, -0.18, 0.065, 0.065, OUTLINE)
    near = curve([(-0.34, 0.08), (0.2, 0.08), (0.02, 0.1 - 0.6 * lift), (-0.3, 0.1 - 0.98 * lift)], 6)
    pen.polygon(near, darker(colour, 0.16))


def _fish(pen: Pen, colour: Colour, phase: float) -> None:
    swing = 0.22 * math.sin(2 * math.pi * phase)
    pen.polygon([(-0.5, 0.0), (-0.96, -0.46 + swing), (-0.8, swing), (-0.96, 0.46 + swing)], darker(colour, 0.2))
    pen.polygon([(-0.25, -0.4), (0.15, -0.72), (0.3, -0.36)], darker(colour, 0.2))
    pen.polygon([(-0.1, 0.4), (0.1, 0.68), (0.25, 0.36)], darker(colour, 0.2))
    pen.polygon(curve([(-0.62, 0.0), (-0.1, -0.5), (0.55, -0.36), (0.92, 0.02), (0.55, 0.38), (-0.1, 0.5)]), colour)
    pen.polygon(curve([(-0.4, 0.12), (0.2, 0.18), (0.7, 0.14), (0.5, 0.34), (-0.08, 0.44)], 6), lighter(colour, 0.4))
    for x in (-0.18, 0.12):
        pen.line([(x, -0.38), (x + 0.06, 0.0), (x, 0.36)], lighter(colour, 0.55), 0.08)
    pen.ellipse(0.55, -0.1, 0.13, 0.13, (255, 255, 255))
    pen.ellipse(0.59, -0.1, 0.075, 0.075, OUTLINE)


def _cat(pen: Pen, colour: Colour, phase: float) -> None:
    stride = 0.2 * math.sin(2 * math.pi * phase)
    for x, step in ((-0.45, -stride), (0.25, stride)):
        pen.line([(x, 0.3), (x + step, 0.94)], darker(colour, 0.3), 0.2)
    pen.line([(-0.55, 0.2), (-0.85, -0.1), (-0.82, -0.55), (-0.68, -0.7)], darker(colour, 0.12), 0.17)
    pen.polygon(curve([(-0.66, 0.3), (-0.3, -0.02), (0.25, 0.02), (0.5, 0.3), (0.25, 0.58), (-0.4, 0.6)]), colour)
    for x, step in ((-0.5, stride), (0.32, -stride)):
        pen.line([(x, 0.35), (x + step, 0.96)], colour, 0.2)
    for tip, inner in ((0.28, 0.36), (0.82, 0.72)):
        pen.polygon([(tip - 0.12, -0.3), (tip, -0.78), (tip + 0.18, -0.3)], colour)
        pen.polygon([(inner - 0.06, -0.36), (inner - 0.02, -0.58), (inner + 0.08, -0.36)], (250, 176, 170))
    pen.ellipse(0.55, -0.14, 0.42, 0.35, colour)
    for x in (0.44, 0.74):
        pen.ellipse(x, -0.16, 0.06, 0.09, OUTLINE)
    pen.ellipse(0.6, 0.04, 0.15, 0.1, lighter(colour, 0.65))
    pen.polygon([(0.54, -0.02), (0.66, -0.02), (0.6, 0.05)], (236, 110, 120))


def _house(pen: Pen, colour: Colour, phase: float) -> None:
    pen.box(0.36, -0.86, 0.58, -0.2, (150, 104, 92))
    pen.box(-0.72, -0.2, 0.72, 0.98, (250, 238, 214))
    pen.box(-0.72, 0.74, 0.72, 0.98, (222, 204, 178))
    pen.polygon([(-0.98, -0.1), (0.0, -0.96), (0.98, -0.1)], colour)
    pen.polygon([(-0.98, -0.1), (-0.9, -0.18), (0.9, -0.18), (0.98, -0.1)], darker(colour))
    pen.box(-0.18, 0.3, 0.2, 0.98, colour)
    pen.ellipse(0.12, 0.66, 0.04, 0.04, (255, 232, 150))
    for x in (-0.58, 0.34):
        pen.box(x, 0.14, x + 0.27, 0.46, (255, 222, 130))
        pen.line([(x + 0.135, 0.14), (x + 0.135, 0.46)], (160, 110, 80), 0.05)


def _tree(pen: Pen, colour: Colour, phase: float) -> None:
    pen.polygon([(-0.13, 0.98), (-0.09, 0.0), (0.09, 0.0), (0.15, 0.98)], (124, 84, 58))
    pen.line([(0.02, 0.42), (0.3, 0.12)], (124, 84, 58), 0.09)
    for dx, dy, r in ((-0.38, 0.0, 0.36), (0.4, -0.02, 0.36), (0.0, -0.52, 0.43), (0.0, -0.08, 0.42)):
        pen.ellipse(dx, dy, r, r, darker(colour, 0.22))
    for dx, dy, r in ((-0.4, -0.1, 0.3), (0.36, -0.12, 0.3), (-0.02, -0.56, 0.36), (0.0, -0.18, 0.34)):
        pen.ellipse(dx, dy, r, r, colour)
    for dx, dy in ((-0.2, -0.68), (-0.48, -0.2), (0.22, -0.28)):
        pen.ellipse(dx, dy, 0.09, 0.09, lighter(colour, 0.4))


def _sun(pen: Pen, colour: Colour, phase: float) -> None:
    for index in range(12):
        angle = 2 * math.pi * (index + phase) / 12
        cos, sin = math.cos(angle), math.sin(angle)
        side = (-0.1 * sin, 0.1 * cos)
        foot = [(0.66 * cos + s * side[0], 0.66 * sin + s * side[1]) for s in (-1, 1)]
        pen.polygon([*foot, (0.97 * cos, 0.97 * sin)], lighter(colour, 0.25))
    pen.ellipse(0, 0, 0.62, 0.62, colour)
    pen.ellipse(-0.08, -0.08, 0.46, 0.46, lighter(colour, 0.22))


def _moon(pen: Pen, colour: Colour, phase: float) -> None:
    outer = [(0.9 * math.cos(a), 0.9 * math.sin(a)) for a in (math.pi * (0.28 + 1.44 * t / 40) for t in range(41))]
    inner = [(0.28 + 0.7 * math.cos(a), 0.7 * math.sin(a)) for a in (math.pi * (1.6 - 1.2 * t / 40) for t in range(41))]
    pen.polygon([*outer, *inner], colour)
    for x, y, r in ((-0.62, -0.1, 0.1), (-0.45, 0.45, 0.08), (-0.4, -0.5, 0.06)):
        pen.ellipse(x, y, r, r, darker(colour, 0.12))


def _star(pen: Pen, colour: Colour, phase: float) -> None:
    pen.polygon(star_points(0, 0, 1.0), darker(colour, 0.15))
    pen.polygon(star_points(0, 0, 0.84), colour)
    pen.polygon(star_points(-0.04, -0.06, 0.42), lighter(colour, 0.45))
    pen.polygon([(0.0, -0.1), (-0.11, -0.78), (0.0, -1.0), (0.11, -0.78)], lighter(colour, 0.6))


def _ball(pen: Pen, colour: Colour, phase: float) -> None:
    pen.ellipse(0, 0, 0.95, 0.95, colour)
    pale = (250, 246, 236) if min(colour) < 200 else (90, 100, 120)
    for start in (0.0, 180.0):
        pen.pie(0, 0, 0.95, (start, start + 60), pale)
    pen.ellipse(0, 0, 0.26, 0.26, darker(colour, 0.25))


@dataclass(frozen=True, kw_only=True)
class Look:
    """How an actor is drawn. postures: how many phases its drawing has; `pace`: rounds in a second; shadow: half the
    width of what it casts on the ground, 0 for none."""

    draw: Draw
    postures: int = 1
    pace: float = 0.0
    shadow: float = 0.0


LOOKS: dict[str, Look] = {
    "boat": Look(draw=_boat),
    "car": Look(draw=_car, postures=4, pace=2.2, shadow=1.05),
    "balloon": Look(draw=_balloon),
    "bird": Look(draw=_bird, postures=6, pace=1.5),
    "fish": Look(draw=_fish, postures=4, pace=1.6),
    "cat": Look(draw=_cat, postures=6, pace=1.4, shadow=0.85),
    "house": Look(draw=_house, shadow=1.05),
    "tree": Look(draw=_tree, shadow=0.8),
    "sun": Look(draw=_sun, postures=4, pace=0.5),
    "moon": Look(draw=_moon),
    "star": Look(draw=_star),
    "ball": Look(draw=_ball, shadow=0.9),
}
SHADOW_FOOT = 0.97
"""Where an actor's feet are in its square."""


def coloured(name: str, time: str) -> Colour:
    """An actor's colour at this hour."""
    return mixed(COLOURS[name], *NIGHT) if time == "night" else COLOURS[name]


def postures(scene: Scene, actor: Actor, pixels: float) -> list[Image.Image]:
    """The actor's drawings, RGBA, with `pixels` for each half of their height."""
    look, colour = LOOKS[actor.kind], coloured(actor.colour, scene.time)
    count = look.postures if moves(actor) else 1
    drawings = []
    for index in range(count):
        pen = Pen(2, 2, pixels, origin=(-1.0, -1.0), finer=3)
        look.draw(pen, colour, index / count)
        drawing = pen.done()
        drawings.append(drawing if facing(actor) > 0 else ImageOps.mirror(drawing))
    return drawings


def moves(actor: Actor) -> bool:
    """Whether wings, tails, legs and wheels move: those of an actor in flight or water always do."""
    return actor.kind in ("bird", "fish", "sun") or actor.motion in ("left", "right")


def shadow(actor: Actor, pixels: float) -> Image.Image | None:
    """A soft shadow, RGBA, in a square as the actor's; None for actors that cast none."""
    width = LOOKS[actor.kind].shadow
    if not width:
        return None
    pen = Pen(2.4, 0.6, pixels, origin=(-1.2, -0.3), finer=2)
    for step in range(6):
        share = 1 - 0.09 * step
        pen.ellipse(0, 0, width * share, 0.2 * share, (20, 24, 50), alpha=22 + 12 * step)
    return pen.done()
