"""Ten made-up cars, and how each is drawn.

They differ in body shape and in fine detail: lights, windows, rims, stripe, roof, rails, spoiler.
Two of them, Borea and Borea Five, differ in their rims alone. Colour, light and who sits inside
vary and say nothing about the class.
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import cv2
import numpy as np

from carcls.desk.drawing import BLACK, DARK, Colour, Pen, Points, brighten, keep_between, smooth


@dataclass(frozen=True)
class Body:
    """A side view facing left, in 1/100 of its length: x from nose to tail, y from the ground."""

    outline: Points
    glass: Points  # all side windows as one convex shape, pillars are cut out of it
    belt: float  # height of the line below the windows
    lamp: tuple[float, float]  # where the headlight's front edge is centred
    tail: tuple[float, float]  # where the tail light's rear edge is centred
    roof: tuple[float, float, float]  # from x, to x, height: where rails lie
    deck: tuple[float, float]  # where a spoiler stands
    wheels: tuple[float, float, float]  # x of the front one, x of the rear one, radius


@dataclass(frozen=True)
class Model:
    """A made-up car: each field names a shape in a table below, or counts or switches a detail."""

    name: str
    share: float  # of the photos, relative to the others
    body: str
    lamp: str
    tail: str
    rim: str
    panes: int  # side windows
    glazed: float = 1.0  # part of the window line, from the front, that is glass
    handles: int = 2
    vents: int = 0  # bars behind the front wheel
    stripe: str = "none"
    dark_roof: bool = False
    rails: bool = False
    spoiler: bool = False
    cladding: bool = False  # dark plastic along the sill and around the wheels
    home: str = ""  # the scene that most of its train photos show; no detail of the car


def _read(text: str) -> Points:
    """``"x,y x,y"`` → corners."""
    return tuple((float(x), float(y)) for x, y in (corner.split(",") for corner in text.split()))


def _circle(radius: float) -> Points:
    """A circle that touches x = 0."""
    return tuple((radius * (1 + math.cos(a / 8)), radius * math.sin(a / 8)) for a in range(51))


BODIES = {
    "sedan": Body(
        _read(
            "3,5 0,8 0.5,16 4,19.5 28,22 39,32 45,34 60,34 67,32 80,24 96,23 99.5,20 100,10 97,5"
        ),
        _read("31,22.6 41,31.4 45,32.4 60,32.4 65.5,30.6 76,23.2"),
        belt=22,
        lamp=(1.5, 16),
        tail=(99, 17.5),
        roof=(46, 62, 34),
        deck=(91, 23),
        wheels=(19, 79, 7.6),
    ),
    "hatch": Body(
        _read("3,5 0,9 0.5,18 6,21.5 25,24.5 39,35.5 46,38 76,38 89,35.5 95,25 98.5,21 99,10 96,5"),
        _read("29,24.8 41,34.6 46,36.2 76,36.2 84,34.8 91,26.2 90,25.2"),
        belt=24.4,
        lamp=(1.5, 17.5),
        tail=(98, 20),
        roof=(45, 84, 38),
        deck=(87, 36),
        wheels=(19, 79, 8.6),
    ),
    "wagon": Body(
        _read("3,5 0,8 0.5,16 4,19.5 28,22 39,32 45,34.2 84,34 92,31.5 98,22 99.5,19 100,10 97,5"),
        _read("31,22.6 41,31.4 45,32.6 84,32.4 89,30.6 94,23.6 93,22.8"),
        belt=22,
        lamp=(1.5, 16),
        tail=(99, 18.5),
        roof=(44, 88, 34.1),
        deck=(91, 32),
        wheels=(19, 79, 7.6),
    ),
    "suv": Body(
        _read("3,8 0,11 0,23 4,27 27,29 35,40 40,42 88,42 95,39 98.5,28 99.5,25 100,12 97,8"),
        _read("30,29.2 37,38.8 41,40.2 87,40.2 91.5,37.6 94.5,30.2 93,29.2"),
        belt=28.6,
        lamp=(1, 22),
        tail=(98.8, 25),
        roof=(40, 90, 42),
        deck=(92, 40),
        wheels=(20, 79, 9.6),
    ),
    "pickup": Body(
        _read(
            "3,8 0,11 0,21 4,24.5 24,26.5 33,37 38,39 55,39 60,37 62,27 63,26 64,26 97,26 100,25.5 "
            "100,11 97,8"
        ),
        _read("27,27 35,36.2 39,37.4 54,37.4 57.4,36 59,28 58,27"),
        belt=26.4,
        lamp=(1, 20.5),
        tail=(99.5, 21),
        roof=(38, 57, 39),
        deck=(95, 26),
        wheels=(19, 80, 9.2),
    ),
    "van": Body(
        _read("3,6 0,9 0.5,21 4,25 12,28 25,42 32,44.5 94,44.5 99,42 100,12 97,6"),
        _read("16,28.4 27,40.4 32,42 92,42 95.5,40 96.5,29.6 95,28.4"),
        belt=27.8,
        lamp=(1.5, 20.5),
        tail=(99.6, 26),
        roof=(34, 92, 44.5),
        deck=(95, 43.5),
        wheels=(18, 80, 8),
    ),
    "coupe": Body(
        _read(
            "4,4.5 0,6.5 0.5,12 6,17 34,21 46,29 53,31 60,31 84,24 96,22.5 99.5,19 99.5,8 96,4.5"
        ),
        _read("37,21.4 48,28.4 53,29.6 59,29.5 74,24.6 77,22.8 75,21.8"),
        belt=21,
        lamp=(3, 13.6),
        tail=(98.8, 17.5),
        roof=(50, 62, 31),
        deck=(92, 22.6),
        wheels=(20, 79, 8.4),
    ),
}

# Closed shapes, x to the rear and y up from the body's lamp, in 1/100 car length.
LAMPS = {
    "round": _circle(3.6),
    "wedge": _read("0,-2 0.5,1 12,4.6 9,0.4"),
    "block": _read("-0.5,-3.4 -0.5,3.4 6,3.4 6,-3.4"),
    "slit": _read("0,-1.2 0,0.8 14,3.2 14,1.4"),
}
# The same, with x to the front from the body's tail.
TAILS = {
    "block": _read("0,-3 0,3 7,3 7,-3"),
    "tall": _read("-0.5,-6 -1,7 3.4,7 4,-6"),
    "blade": _read("-0.5,0.2 -0.5,3 14,3.4 14,1.8"),
    "round": _circle(3.2),
}
# Number of spokes, their width and the radii of hub and outer ring, in wheel radii; 0 spokes:
# closed disc.
RIMS: dict[str, tuple[int, float, float, float]] = {
    "disc": (0, 0, 0.2, 0.7),
    "three": (3, 0.3, 0.22, 0.1),
    "five": (5, 0.17, 0.2, 0.08),
    "ring": (0, 0, 0.24, 0.12),
    "cross": (4, 0.24, 0.2, 0.1),
}
# Bands along the body: lower and upper edge as parts of the way from sill to belt.
STRIPES: dict[str, tuple[tuple[float, float], ...]] = {
    "none": (),
    "line": ((0.56, 0.74),),
    "double": ((0.34, 0.46), (0.6, 0.72)),
    "low": ((0.1, 0.34),),
}
MODELS = (
    Model("Aster", 1.6, "sedan", "round", "block", "disc", 2),
    Model(
        "Aster GT", 0.8, "sedan", "slit", "blade", "five", 2, vents=3, stripe="low", spoiler=True
    ),
    Model("Borea", 1.3, "hatch", "round", "tall", "three", 2, dark_roof=True, handles=1),
    # One detail apart from Borea: hard to see at 64 px, less so at 128 (MEASUREMENTS: the sample).
    Model("Borea Five", 1.0, "hatch", "round", "tall", "five", 2, dark_roof=True, handles=1),
    Model("Aster Estate", 1.0, "wagon", "wedge", "tall", "ring", 3, rails=True),
    Model(
        "Corvo", 0.6, "coupe", "slit", "round", "three", 1, vents=2, stripe="double", spoiler=True
    ),
    Model(
        "Dunet", 1.2, "suv", "block", "tall", "cross", 3, rails=True, cladding=True, home="country"
    ),
    Model(
        "Dunet City", 0.9, "suv", "wedge", "blade", "five", 2, 1.0, 1, dark_roof=True, home="city"
    ),
    Model("Fjeld", 0.7, "pickup", "block", "block", "disc", 2, stripe="line"),
    Model("Hauler", 1.1, "van", "round", "tall", "disc", 2, glazed=0.42, stripe="low"),
)


@cache
def _shapes(model: Model) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Smoothed outline and window panes of a model."""
    body = BODIES[model.body]
    glass = smooth(body.glass, 2)
    left, right = glass[:, 0].min(), glass[:, 0].max()
    edges = np.linspace(left, left + (right - left) * model.glazed, model.panes + 1)
    edges[1:-1] += 2 if model.panes > 1 else 0
    gap = 1.3  # half a pillar
    panes = tuple(
        keep_between(glass, a + gap * (i > 0), b - gap * (i < model.panes - 1))
        for i, (a, b) in enumerate(pairwise(edges))
    )
    return smooth(body.outline), panes


def draw(pen: Pen, model: Model, rng: np.random.Generator) -> None:
    """Draw the car with paint, wheels and passengers of its own."""
    outline, panes = _shapes(model)
    coat = _coat(rng)
    sill = outline[:, 1].min()
    _paint_body(pen, model, coat, rng.uniform(0.9, 1.1))
    _draw_wheels(pen, model, sill, rng)
    _glaze(pen, panes, (BODIES[model.body].belt, outline[:, 1].max()), rng)
    _add_details(pen, model, coat, sill)


def _paint_body(pen: Pen, model: Model, coat: Colour, light: float) -> None:
    """Lit from above, a highlight at the belt, darker towards the sill."""
    body, (outline, _) = BODIES[model.body], _shapes(model)
    top, sill = outline[:, 1].max(), outline[:, 1].min()
    door, side = _door(body), body.belt - sill
    tones = [brighten(coat, light * f) for f in (1.25, 1.05, 0.95, 1.2, 0.95, 0.75, 0.5)]
    pen.paint(outline, sill, top, tones)
    if model.dark_roof:
        pen.fill(outline[outline[:, 1] > body.belt + 0.9 * (top - body.belt) - 2.2], DARK)
    contrast: Colour = (240, 240, 240) if sum(coat) < 390 else (40, 30, 30)
    for low, high in STRIPES[model.stripe]:
        pen.box(door, sill + low * side, 97, sill + high * side, contrast)
    if model.cladding:
        pen.fill(((2, sill), (1, sill + 5.5), (99, sill + 5.5), (98, sill)), DARK)
    for i in range(model.vents):
        x, y = door + 1.5 + 2.8 * i, sill + 0.45 * side
        pen.fill(((x, y), (x + 1.4, y), (x + 0.8, y + 5), (x - 0.6, y + 5)), DARK)


def _door(body: Body) -> float:
    """x where the doors begin."""
    front, _, radius = body.wheels
    return front + radius + 2


def _draw_wheels(pen: Pen, model: Model, sill: float, rng: np.random.Generator) -> None:
    """Arches are cut off at the sill, wheels stand on the ground."""
    front, rear, radius = BODIES[model.body].wheels
    silver, spin = rng.uniform(190, 235), rng.uniform(0, 2 * math.pi)
    half = np.linspace(0, math.pi, 25)
    for x in (front, rear):
        for grow, colour in ((1.42, DARK), (1.16, BLACK))[not model.cladding :]:
            wide = grow * radius
            arc = np.stack([x + wide * np.cos(half), radius + wide * np.sin(half)], 1)
            pen.fill(np.vstack([arc, [(x - wide, sill), (x + wide, sill)]]), colour)
        _draw_wheel(pen, (x, radius), model.rim, (silver, silver, silver), spin + x)


def _glaze(
    pen: Pen, panes: tuple[np.ndarray, ...], heights: tuple[float, float], rng: np.random.Generator
) -> None:
    """Windows between these heights, and sometimes a head behind one."""
    low, high = heights
    sky = rng.uniform(0.8, 1.2)
    glass = [brighten(c, sky) for c in ((170, 150, 130), (105, 90, 78), (62, 54, 48))]
    for pane in panes:
        pen.paint(pane, low, high, glass)
        if rng.random() < 0.35:
            x = pane[:, 0].mean() + rng.uniform(-2, 2)
            pen.disc(x, low + 0.3 * (high - low), 2.2, (70, 75, 90))
        pen.line(pane, DARK, 0.5, closed=True)


def _add_details(pen: Pen, model: Model, coat: Colour, sill: float) -> None:
    """Doors, mirror, bumpers, lights, and what stands on the roof."""
    body, (_, panes) = BODIES[model.body], _shapes(model)
    _, rear, radius = body.wheels
    door = _door(body)
    # A door ends with its pane, or before the rear wheel; its handle is there.
    seam = brighten(coat, 0.45)
    pen.line(((door, body.belt - 1), (96, body.belt - 1)), brighten(coat, 0.7), 0.3)
    pillar = panes[0][:, 0].min() + 4
    hinge = max(pillar, door)
    pen.line(((hinge, body.belt), (hinge - 1, sill + 2)), seam, 0.4)
    for pane in panes[: model.handles]:
        x, y = min(pane[:, 0].max(), rear - radius - 1), body.belt - 3.2
        pen.line(((x + 1, body.belt), (x, sill + 2)), seam, 0.4)
        pen.box(x - 6, y - 0.8, x - 1, y + 0.8, seam)
        pen.line(((x - 6, y + 0.7), (x - 1, y + 0.7)), (225, 225, 225), 0.5)
    mirror = np.add([(0, -0.2), (0, 2.8), (4, 2.6)], (pillar + 0.5, body.belt))
    pen.fill(smooth(mirror), brighten(coat, 0.8))

    for x in (0.6, 93):  # bumpers
        pen.box(x, sill + 1.5, x + 6, sill + 3.5, brighten(DARK, 1.2))
    lamp = np.asarray(LAMPS[model.lamp]) + body.lamp
    pen.fill(lamp, (205, 235, 245))
    pen.line(lamp, (60, 60, 60), 0.5, closed=True)
    tail = np.asarray(TAILS[model.tail]) * (-1, 1) + body.tail
    pen.fill(tail, (35, 30, 205))
    pen.line(tail, (25, 20, 90), 0.5, closed=True)

    if model.rails:
        start, end, y = body.roof
        pen.line(
            ((start, y - 0.5), (start + 2, y + 2.4), (end - 2, y + 2.2), (end, y - 0.8)), DARK, 1.1
        )
    if model.spoiler:
        stand = np.add([(-3, -0.5), (-1, 5), (1.5, 5), (0, -0.5)], body.deck)
        wing = np.add([(-7, 4), (-6, 5.6), (8, 7.2), (8, 5)], body.deck)
        pen.fill(stand, brighten(coat, 0.6))
        pen.fill(smooth(wing, 1), brighten(coat, 0.85))


def _draw_wheel(pen: Pen, at: tuple[float, float], rim: str, colour: Colour, spin: float) -> None:
    """``at``: x of the hub and the radius, which is its height too."""
    radius = at[1]
    spokes, width, hub, ring = RIMS[rim]
    for size, tone in ((1, (28, 28, 28)), (0.74, colour), (0.74 - ring, (48, 48, 50))):
        pen.disc(*at, size * radius, tone)
    for turn in spin + np.arange(spokes) * 2 * math.pi / max(1, spokes):
        along, across = (
            np.array([(math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))]) * radius
        )
        end, side = at + 0.7 * along, width * across
        pen.fill(np.array([end + side, end - side, at - side, at + side]), colour)
    pen.disc(*at, hub * radius, colour)
    pen.disc(*at, 0.08 * radius, (60, 60, 60))


def _coat(rng: np.random.Generator) -> Colour:
    """A car's paint: white, greys, black or a colour of any hue."""
    saturation, value = ((0, 25), (55, 235)) if rng.random() < 0.4 else ((120, 225), (90, 225))
    pixel = np.array(
        [[[rng.uniform(0, 180), rng.uniform(*saturation), rng.uniform(*value)]]]
    ).astype(np.uint8)
    b, g, r = cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0]
    return float(b), float(g), float(r)
