"""The scenery of storybook clips: a few layers drawn once for a clip, which the camera then moves over.

A layer reaches half a frame beyond the frame on every side: from -0.5 to 1.5 in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .pen import Colour, Pen, Point, gradient, lighter, mixed
from .world import FAR_DEPTH, SKY_DEPTH, Scene

BEYOND = 0.5
SPAN = 1 + 2 * BEYOND


@dataclass(frozen=True, kw_only=True)
class Layer:
    """An image of the scenery. depth: how far it follows the camera; `in_front` hides the actors. A layer with
    `sway` moves to and fro by so much, one with `drift` goes on forever by so much in a second."""

    image: Image.Image
    depth: float
    in_front: bool = False
    sway: float = 0.0
    drift: tuple[float, float] = (0.0, 0.0)


SKIES: dict[str, tuple[tuple[float, Colour], ...]] = {
    "day": ((0.2, (112, 190, 235)), (0.62, (206, 236, 242)), (0.8, (238, 244, 226))),
    "sunset": ((0.2, (92, 76, 150)), (0.42, (214, 112, 140)), (0.56, (250, 164, 112)), (0.7, (255, 208, 142))),
    "night": ((0.1, (16, 24, 70)), (0.6, (48, 62, 134)), (0.8, (84, 92, 160))),
}
UNDERWATER = ((0.1, (86, 200, 212)), (0.5, (30, 132, 176)), (0.85, (16, 78, 132)))
LIGHT: dict[str, tuple[Colour, float]] = {
    "day": ((255, 255, 255), 0.0),
    "sunset": ((196, 96, 110), 0.32),
    "night": ((22, 32, 92), 0.55),
}
"""What the hour mixes into the colours of the scenery, and how much of it."""


class Stage:
    """What the layers of one clip are drawn with: the light of its hour, its chances and its number of pixels."""

    def __init__(self, scene: Scene, size: int) -> None:
        self.scene, self.size = scene, size
        self.rng = np.random.default_rng([scene.seed, 1])

    def lit(self, colour: Colour) -> Colour:
        """The colour in the light of the hour."""
        tint, share = LIGHT[self.scene.time]
        return mixed(colour, tint, share)

    def pen(self) -> Pen:
        """A canvas for one layer."""
        return Pen(SPAN, SPAN, self.size, origin=(-BEYOND, -BEYOND))

    def ridge(self, height: float, swell: float, waves: tuple[float, float] = (1.2, 2.6)) -> list[Point]:
        """The outline of land that rises to about `height`, closed below the canvas."""
        phases = self.rng.uniform(0, 2 * math.pi, 2)
        xs = np.linspace(-BEYOND, 1 + BEYOND, 60)
        ys = height + swell * (
            np.sin(waves[0] * math.pi * xs + phases[0]) + 0.5 * np.sin(waves[1] * math.pi * xs + phases[1])
        )
        outline = [(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]
        return [*outline, (1 + BEYOND, 1 + BEYOND), (-BEYOND, 1 + BEYOND)]

    def soft(self, places: int, low: float, high: float) -> list[tuple[float, float]]:
        """Random places over the whole width, between two heights."""
        xs = self.rng.uniform(-BEYOND, 1 + BEYOND, places)
        return [(float(x), float(y)) for x, y in zip(xs, self.rng.uniform(low, high, places), strict=True)]


def sky(stage: Stage) -> Image.Image:
    """The sky or the water of the deep, with stars at night, RGB."""
    scene = stage.scene
    stops = UNDERWATER if scene.place == "underwater" else SKIES[scene.time]
    side = round(SPAN * stage.size)
    bands = gradient([((place + BEYOND) / SPAN, colour) for place, colour in stops], side)
    if scene.weather != "clear":
        grey = bands.mean(1, keepdims=True) * 0.92
        bands = bands + 0.45 * (grey - bands)
    plane = np.repeat(bands[:, None], side, axis=1)
    image = Image.fromarray(np.asarray(np.round(plane), dtype=np.uint8))
    pen = stage.pen()
    if scene.time == "night":
        for x, y in stage.soft(70, -BEYOND, 0.62):
            radius = float(stage.rng.uniform(0.004, 0.009))
            pen.ellipse(x, y, radius, radius, (250, 246, 222), alpha=int(stage.rng.integers(120, 255)))
    elif scene.place == "underwater":
        for x, _ in stage.soft(5, 0, 1):
            pen.draw.polygon(
                pen._at([(x, -0.5), (x + 0.14, -0.5), (x - 0.25, 1.3), (x - 0.6, 1.3)]), fill=(190, 240, 240, 26)
            )
    elif scene.place != "sky":
        for x, y in stage.soft(5, 0.02, 0.4):
            cloud(pen, x, y, float(stage.rng.uniform(0.07, 0.12)), stage)
    drawn = pen.done()
    image.paste(drawn, (0, 0), drawn)
    return image


def cloud(pen: Pen, x: float, y: float, size: float, stage: Stage) -> None:
    """A cloud of a few discs with a flat foot."""
    colour = stage.lit(mixed((255, 255, 255), (176, 184, 196), 0.0 if stage.scene.weather == "clear" else 0.7))
    if stage.scene.time == "sunset":
        colour = mixed(colour, (255, 200, 180), 0.5)
    under = mixed(colour, stage.lit((150, 176, 206)), 0.35)
    for tone, drop in ((under, 0.12), (colour, 0.0)):
        for dx, dy, r in ((-0.8, 0.1, 0.5), (-0.2, -0.25, 0.7), (0.5, -0.05, 0.6), (1.05, 0.2, 0.38)):
            pen.ellipse(x + dx * size, y + (dy + drop) * size, r * size, r * size * 0.82, tone)


def _hills(stage: Stage) -> list[Layer]:
    far, near = stage.pen(), stage.pen()
    far.polygon(stage.ridge(0.55, 0.05), stage.lit((142, 190, 190)))
    far.polygon(stage.ridge(0.64, 0.05), stage.lit((116, 180, 130)))
    near.polygon(stage.ridge(0.74, 0.022), stage.lit((128, 192, 84)))
    near.polygon(stage.ridge(0.86, 0.014), stage.lit((104, 172, 74)))
    for x, y in stage.soft(36, 0.8, 1.45):
        tone = ((255, 240, 150), (250, 180, 190), (240, 250, 240))[int(stage.rng.integers(3))]
        near.ellipse(x, y, 0.008, 0.008, stage.lit(tone))
    return [Layer(image=far.done(), depth=FAR_DEPTH), Layer(image=near.done(), depth=1.0)]


def _snow(stage: Stage) -> list[Layer]:
    far, near = stage.pen(), stage.pen()
    for x, _ in stage.soft(6, 0, 1):
        peak, width = float(stage.rng.uniform(0.34, 0.48)), float(stage.rng.uniform(0.22, 0.34))
        far.polygon([(x - width, 0.76), (x, peak), (x + width, 0.76)], stage.lit((150, 172, 202)))
        cap = [(x - 0.3 * width, peak + 0.3 * (0.76 - peak)), (x, peak), (x + 0.3 * width, peak + 0.3 * (0.76 - peak))]
        far.polygon([*cap, (x + 0.08 * width, peak + 0.2 * (0.76 - peak))], stage.lit((240, 246, 252)))
    far.polygon(stage.ridge(0.68, 0.02), stage.lit((196, 214, 232)))
    near.polygon(stage.ridge(0.75, 0.018), stage.lit((226, 236, 246)))
    near.polygon(stage.ridge(0.88, 0.014), stage.lit((242, 247, 252)))
    return [Layer(image=far.done(), depth=FAR_DEPTH), Layer(image=near.done(), depth=1.0)]


def _city(stage: Stage) -> list[Layer]:
    far, near = stage.pen(), stage.pen()
    _skyline(far, stage, 0.5, (150, 166, 196), windows=False)
    _skyline(near, stage, 0.62, (112, 122, 158), windows=True)
    near.box(-BEYOND, 0.765, 1 + BEYOND, 0.8, stage.lit((196, 190, 184)))
    near.box(-BEYOND, 0.795, 1 + BEYOND, 1 + BEYOND, stage.lit((104, 106, 118)))
    for index in range(14):
        x = -BEYOND + index * 0.16
        near.box(x, 0.965, x + 0.08, 0.98, stage.lit((232, 226, 206)))
    return [Layer(image=far.done(), depth=FAR_DEPTH), Layer(image=near.done(), depth=1.0)]


def _skyline(pen: Pen, stage: Stage, height: float, colour: Colour, *, windows: bool) -> None:
    """A row of buildings."""
    x = -BEYOND
    glow = (255, 214, 130) if stage.scene.time != "day" else lighter(colour, 0.45)
    while x < 1 + BEYOND:
        width, top = float(stage.rng.uniform(0.1, 0.2)), height + float(stage.rng.uniform(-0.13, 0.09))
        tone = stage.lit(mixed(colour, (206, 150, 140), float(stage.rng.uniform(0, 0.45))))
        pen.box(x, top, x + width, 1.2, tone)
        columns = int(width / 0.045) if windows else 0
        for column in range(columns):
            for row in range(5):
                if stage.rng.random() < 0.6 and top + 0.025 + 0.055 * row < 0.73:
                    left = x + (column + 0.5) * width / columns - 0.011
                    pen.box(left, top + 0.025 + 0.055 * row, left + 0.022, top + 0.055 + 0.055 * row, glow)
        x += width + float(stage.rng.uniform(0.0, 0.02))


def _sea(stage: Stage) -> list[Layer]:
    far, middle, front = stage.pen(), stage.pen(), stage.pen()
    shine = {"day": (210, 240, 246), "sunset": (255, 190, 140), "night": (90, 110, 170)}[stage.scene.time]
    far.box(-BEYOND, 0.56, 1 + BEYOND, 1 + BEYOND, stage.lit((76, 164, 196)))
    for x, y in stage.soft(34, 0.57, 0.7):
        width = 0.02 + 0.25 * (y - 0.55)
        far.box(x, y, x + width, y + 0.007, mixed(stage.lit((76, 164, 196)), shine, 0.6))
    middle.polygon(_waves(stage, 0.69, 0.012, 11), stage.lit((56, 142, 184)))
    front.polygon(_waves(stage, 0.80, 0.016, 8), stage.lit((36, 116, 166)))
    front.polygon(_waves(stage, 0.92, 0.018, 7), stage.lit((26, 94, 146)))
    return [
        Layer(image=far.done(), depth=FAR_DEPTH),
        Layer(image=middle.done(), depth=0.9, sway=0.02),
        Layer(image=front.done(), depth=1.0, in_front=True, sway=-0.03),
    ]


def _waves(stage: Stage, height: float, swell: float, count: float) -> list[Point]:
    """Round waves with sharp tops."""
    phase = float(stage.rng.uniform(0, 2 * math.pi))
    xs = np.linspace(-BEYOND, 1 + BEYOND, 160)
    ys = height + swell * (1 - 2 * np.abs(np.sin(count * math.pi * xs / 2 + phase)))
    return [*((float(x), float(y)) for x, y in zip(xs, ys, strict=True)), (1.5, 1.5), (-0.5, 1.5)]


def _underwater(stage: Stage) -> list[Layer]:
    far, near = stage.pen(), stage.pen()
    far.polygon(stage.ridge(0.74, 0.05, (2.0, 5.0)), (24, 98, 146))
    near.polygon(stage.ridge(0.87, 0.02), (222, 198, 140))
    for x, _ in stage.soft(16, 0, 1):
        tone = ((40, 130, 110), (60, 150, 96), (190, 92, 120))[int(stage.rng.integers(3))]
        height, lean = float(stage.rng.uniform(0.12, 0.26)), float(stage.rng.uniform(-0.05, 0.05))
        bend = [(x + lean * t + 0.015 * math.sin(7 * t), 0.93 - height * t) for t in np.linspace(0, 1, 8)]
        near.line(bend, tone, 0.02)
    return [Layer(image=far.done(), depth=FAR_DEPTH), Layer(image=near.done(), depth=1.0)]


def _sky(stage: Stage) -> list[Layer]:
    far, near = stage.pen(), stage.pen()
    for x, y in stage.soft(7, -0.3, 1.0):
        cloud(far, x, y, float(stage.rng.uniform(0.07, 0.11)), stage)
    for index in range(14):
        x = -BEYOND + 0.155 * index
        cloud(near, x, 0.97 + float(stage.rng.uniform(-0.03, 0.05)), float(stage.rng.uniform(0.12, 0.17)), stage)
    foot = stage.lit(mixed((255, 255, 255), (150, 176, 206), 0.2))
    near.box(-BEYOND, 1.0, 1 + BEYOND, 1 + BEYOND, foot)
    return [Layer(image=far.done(), depth=FAR_DEPTH), Layer(image=near.done(), depth=1.0)]


DRAWN: dict[str, Callable[[Stage], list[Layer]]] = {
    "sea": _sea,
    "hills": _hills,
    "city": _city,
    "snow": _snow,
    "underwater": _underwater,
    "sky": _sky,
}


def weather(stage: Stage) -> list[Layer]:
    """What falls in front of everything: two layers of drops or flakes, or of bubbles that rise in the deep."""
    scene = stage.scene
    if scene.weather == "clear" and scene.place != "underwater":
        return []
    layers = []
    for depth, share in ((0.8, 0.7), (1.0, 1.0)):
        pen = stage.pen()
        for x, y in stage.soft(26 if scene.place == "underwater" else 110, -BEYOND, 1 + BEYOND):
            if scene.place == "underwater":
                pen.ellipse(x, y, 0.011 * share, 0.011 * share, (206, 242, 246), alpha=150)
            elif scene.weather == "rain":
                pen.line([(x, y), (x - 0.012 * share, y + 0.06 * share)], (196, 214, 236), 0.005)
            else:
                pen.ellipse(x, y, 0.0105 * share, 0.0105 * share, (250, 252, 255), alpha=235)
        speed = {"rain": 1.1, "snowfall": 0.2}.get(scene.weather, -0.12)
        layers.append(Layer(image=pen.done(), depth=depth, in_front=True, drift=(0.0, speed * share)))
    return layers


def scenery(scene: Scene, size: int) -> tuple[Layer, list[Layer]]:
    """The sky, which is whole, and the layers before it in their order, for frames of `size` pixels."""
    stage = Stage(scene, size)
    back = Layer(image=sky(stage), depth=SKY_DEPTH)
    return back, [*DRAWN[scene.place](stage), *weather(stage)]
