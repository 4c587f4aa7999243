"""A small car-photo competition to try, in Kaggle's layout, without downloading anything.

The photos are DRAWN by this module: they are not photographs and show no real cars. Ten made-up
models (``MODELS``) differ in body shape and in fine detail: lights, windows, rims, stripe, roof,
rails, spoiler. Colour, place, scale, direction, tilt and light vary and say nothing about the class.
"""

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from carcls import disk
from carcls.errors import InputError

WIDTH, HEIGHT = 640, 480  # px
VERSION = 1  # goes up when the drawing changes, so that an older sample is drawn again
_SHIFT = 4  # fractional bits of cv2's coordinates: edges lie on 1/16 px

Points = Sequence[tuple[float, float]]
Colour = tuple[float, float, float]  # blue, green, red, 0–255


@dataclass(frozen=True)
class Body:
    """A side view facing left in 1/100 of its length: x from nose (0) to tail (100), y up from the ground."""

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
    """A made-up car. A field names a shape in one of this module's tables, or counts or switches a detail."""

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


def _points(text: str) -> Points:
    """``"x,y x,y"`` → corners."""
    return tuple((float(x), float(y)) for x, y in (corner.split(",") for corner in text.split()))


def _circle(radius: float) -> Points:
    """A circle that touches x = 0."""
    return tuple((radius * (1 + math.cos(a / 8)), radius * math.sin(a / 8)) for a in range(51))


BODIES = {
    "sedan": Body(
        _points(
            "3,5 0,8 0.5,16 4,19.5 28,22 39,32 45,34 60,34 67,32 80,24 96,23 99.5,20 100,10 97,5"
        ),
        _points("31,22.6 41,31.4 45,32.4 60,32.4 65.5,30.6 76,23.2"),
        *(22, (1.5, 16), (99, 17.5), (46, 62, 34), (91, 23), (19, 79, 7.6)),
    ),
    "hatch": Body(
        _points(
            "3,5 0,9 0.5,18 6,21.5 25,24.5 39,35.5 46,38 76,38 89,35.5 95,25 98.5,21 99,10 96,5"
        ),
        _points("29,24.8 41,34.6 46,36.2 76,36.2 84,34.8 91,26.2 90,25.2"),
        *(24.4, (1.5, 17.5), (98, 20), (45, 84, 38), (87, 36), (19, 79, 8.6)),
    ),
    "wagon": Body(
        _points(
            "3,5 0,8 0.5,16 4,19.5 28,22 39,32 45,34.2 84,34 92,31.5 98,22 99.5,19 100,10 97,5"
        ),
        _points("31,22.6 41,31.4 45,32.6 84,32.4 89,30.6 94,23.6 93,22.8"),
        *(22, (1.5, 16), (99, 18.5), (44, 88, 34.1), (91, 32), (19, 79, 7.6)),
    ),
    "suv": Body(
        _points("3,8 0,11 0,23 4,27 27,29 35,40 40,42 88,42 95,39 98.5,28 99.5,25 100,12 97,8"),
        _points("30,29.2 37,38.8 41,40.2 87,40.2 91.5,37.6 94.5,30.2 93,29.2"),
        *(28.6, (1, 22), (98.8, 25), (40, 90, 42), (92, 40), (20, 79, 9.6)),
    ),
    "pickup": Body(
        _points(
            "3,8 0,11 0,21 4,24.5 24,26.5 33,37 38,39 55,39 60,37 62,27 63,26 64,26 97,26 100,25.5 100,11 97,8"
        ),
        _points("27,27 35,36.2 39,37.4 54,37.4 57.4,36 59,28 58,27"),
        *(26.4, (1, 20.5), (99.5, 21), (38, 57, 39), (95, 26), (19, 80, 9.2)),
    ),
    "van": Body(
        _points("3,6 0,9 0.5,21 4,25 12,28 25,42 32,44.5 94,44.5 99,42 100,12 97,6"),
        _points("16,28.4 27,40.4 32,42 92,42 95.5,40 96.5,29.6 95,28.4"),
        *(27.8, (1.5, 20.5), (99.6, 26), (34, 92, 44.5), (95, 43.5), (18, 80, 8)),
    ),
    "coupe": Body(
        _points(
            "4,4.5 0,6.5 0.5,12 6,17 34,21 46,29 53,31 60,31 84,24 96,22.5 99.5,19 99.5,8 96,4.5"
        ),
        _points("37,21.4 48,28.4 53,29.6 59,29.5 74,24.6 77,22.8 75,21.8"),
        *(21, (3, 13.6), (98.8, 17.5), (50, 62, 31), (92, 22.6), (20, 79, 8.4)),
    ),
}

# Closed shapes, x to the rear and y up from the body's lamp, in 1/100 car length.
LAMPS = {
    "round": _circle(3.6),
    "wedge": _points("0,-2 0.5,1 12,4.6 9,0.4"),
    "block": _points("-0.5,-3.4 -0.5,3.4 6,3.4 6,-3.4"),
    "slit": _points("0,-1.2 0,0.8 14,3.2 14,1.4"),
}
# The same, with x to the front from the body's tail.
TAILS = {
    "block": _points("0,-3 0,3 7,3 7,-3"),
    "tall": _points("-0.5,-6 -1,7 3.4,7 4,-6"),
    "blade": _points("-0.5,0.2 -0.5,3 14,3.4 14,1.8"),
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
    Model("Borea Five", 0.7, "hatch", "wedge", "block", "five", 3, stripe="line"),
    Model("Aster Estate", 1.0, "wagon", "wedge", "tall", "ring", 3, rails=True),
    Model(
        "Corvo", 0.6, "coupe", "slit", "round", "three", 1, vents=2, stripe="double", spoiler=True
    ),
    Model("Dunet", 1.2, "suv", "block", "tall", "cross", 3, rails=True, cladding=True),
    Model("Dunet City", 0.9, "suv", "wedge", "blade", "five", 2, handles=1, dark_roof=True),
    Model("Fjeld", 0.7, "pickup", "block", "block", "disc", 2, stripe="line"),
    Model("Hauler", 1.1, "van", "round", "tall", "disc", 2, glazed=0.42, stripe="low"),
)


# ---------------------------------------------------------------- drawing


class _Pen:
    """Draws on a photo (H,W,3 uint8, BGR) in the car's own coordinates."""

    def __init__(
        self, image: np.ndarray, length: float, at: tuple[float, float], tilt: float, mirrored: bool
    ):
        """``length`` of the car, x of its middle and y of the ground in px, ``tilt`` in degrees."""
        turn, unit = math.radians(tilt), length / 100
        cos, sin = unit * math.cos(turn), unit * math.sin(turn)
        side = -1 if mirrored else 1
        self.image, self.unit = image, unit
        self.matrix = np.array([[side * cos, side * sin], [sin, -cos]])
        self.origin = np.array(at)

    def place(self, points: Points | np.ndarray) -> np.ndarray:
        """Car coordinates (N,2) → fixed-point pixels (N,2) int32."""
        pixels = (np.asarray(points, float) - (50, 0)) @ self.matrix.T + self.origin
        fixed: np.ndarray = np.rint(pixels * (1 << _SHIFT)).astype(np.int32)
        return fixed

    def fill(self, points: Points | np.ndarray, colour: Colour) -> None:
        cv2.fillPoly(self.image, [self.place(points)], colour, cv2.LINE_AA, _SHIFT)

    def line(
        self, points: Points | np.ndarray, colour: Colour, width: float, closed: bool = False
    ) -> None:
        """``width`` in 1/100 car length; never below one pixel."""
        thick = max(1, round(width * self.unit))
        cv2.polylines(self.image, [self.place(points)], closed, colour, thick, cv2.LINE_AA, _SHIFT)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self.fill(((x0, y0), (x0, y1), (x1, y1), (x1, y0)), colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        (centre,) = self.place([(x, y)])
        size = round(radius * self.unit * (1 << _SHIFT))
        cv2.circle(
            self.image, (int(centre[0]), int(centre[1])), size, colour, -1, cv2.LINE_AA, _SHIFT
        )

    def paint(
        self, points: Points | np.ndarray, low: float, high: float, ramp: Sequence[Colour]
    ) -> None:
        """Fill with a vertical ramp of colours, first at car height ``high``, last at ``low``."""
        pixels = self.place(points)
        rows = (self.origin[1] - np.array([high, low]) * self.unit).clip(-HEIGHT, 2 * HEIGHT)
        at = np.linspace(rows[0], rows[1], len(ramp))
        x0, y0 = np.maximum(pixels.min(0) >> _SHIFT, 0).tolist()
        x1, y1 = np.minimum((pixels.max(0) >> _SHIFT) + 2, (WIDTH, HEIGHT)).tolist()
        if y0 >= y1 or x0 >= x1:
            return
        column = _ramp(np.arange(y0, y1), at, ramp)
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(
            mask, [pixels - np.array([x0, y0], np.int32) * (1 << _SHIFT)], 255, cv2.LINE_8, _SHIFT
        )
        cv2.copyTo(_widen(column, x1 - x0), mask, self.image[y0:y1, x0:x1])
        self.line(points, ramp[-1], 0.2, closed=True)  # a smooth edge over the mask's hard one


def _ramp(rows: np.ndarray, at: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """One column (N,1,3) uint8 of colours interpolated between the rows ``at``."""
    table = np.asarray(colours, float)
    column = np.stack([np.interp(rows, at, table[:, c]) for c in range(3)], -1)
    return column[:, None].clip(0, 255).astype(np.uint8)


def _widen(column: np.ndarray, width: int) -> np.ndarray:
    return cv2.resize(
        column, (width, len(column)), interpolation=cv2.INTER_NEAREST
    )  # faster than cv2.repeat


def _times(colour: Colour, factor: float) -> Colour:
    b, g, r = (min(255.0, max(0.0, v * factor)) for v in colour)
    return b, g, r


def _smooth(points: Points | np.ndarray, rounds: int = 3) -> np.ndarray:
    """Chaikin's corner cutting of a closed shape, gentle enough to keep the silhouette."""
    shape = np.asarray(points, float)
    for _ in range(rounds):
        after = np.roll(shape, -1, 0)
        shape = np.stack([0.82 * shape + 0.18 * after, 0.18 * shape + 0.82 * after], 1).reshape(
            -1, 2
        )
    return shape


def _between(points: np.ndarray, start: float, end: float) -> np.ndarray:
    """The part of a closed shape with start <= x <= end."""
    for sign, limit in ((1, start), (-1, -end)):
        inside, kept = sign * points[:, 0] >= limit, []
        for i, point in enumerate(points):
            before = points[i - 1]
            if inside[i] != inside[i - 1]:
                part = (sign * limit - before[0]) / (point[0] - before[0])
                kept.append(before + part * (point - before))
            if inside[i]:
                kept.append(point)
        points = np.array(kept)
    return points


@cache
def _shapes(model: Model) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Smoothed outline and window panes of a model."""
    body = BODIES[model.body]
    glass = _smooth(body.glass, 2)
    left, right = glass[:, 0].min(), glass[:, 0].max()
    edges = np.linspace(left, left + (right - left) * model.glazed, model.panes + 1)
    edges[1:-1] += 2 if model.panes > 1 else 0
    gap = 1.3  # half a pillar
    panes = tuple(
        _between(glass, a + gap * (i > 0), b - gap * (i < model.panes - 1))
        for i, (a, b) in enumerate(pairwise(edges))
    )
    return _smooth(body.outline), panes


_DARK: Colour = (38, 36, 34)
_BLACK: Colour = (18, 18, 18)


def _car(pen: _Pen, model: Model, rng: np.random.Generator) -> None:
    body = BODIES[model.body]
    outline, panes = _shapes(model)
    coat = _coat(rng)
    top, sill = outline[:, 1].max(), outline[:, 1].min()
    front, rear, radius = body.wheels
    door = front + radius + 2  # where the doors begin

    # Lit from above, a highlight at the belt, darker towards the sill.
    light = rng.uniform(0.9, 1.1)
    pen.paint(
        outline,
        sill,
        top,
        [_times(coat, light * f) for f in (1.25, 1.05, 0.95, 1.2, 0.95, 0.75, 0.5)],
    )
    if model.dark_roof:
        pen.fill(outline[outline[:, 1] > body.belt + 0.9 * (top - body.belt) - 2.2], _DARK)
    contrast: Colour = (240, 240, 240) if sum(coat) < 390 else (40, 30, 30)
    for low, high in STRIPES[model.stripe]:
        pen.box(
            door, sill + low * (body.belt - sill), 97, sill + high * (body.belt - sill), contrast
        )
    if model.cladding:
        pen.fill(((2, sill), (1, sill + 5.5), (99, sill + 5.5), (98, sill)), _DARK)
    for i in range(model.vents):
        x, y = door + 1.5 + 2.8 * i, sill + 0.45 * (body.belt - sill)
        pen.fill(((x, y), (x + 1.4, y), (x + 0.8, y + 5), (x - 0.6, y + 5)), _DARK)

    silver, spin = rng.uniform(190, 235), rng.uniform(0, 2 * math.pi)
    half = np.linspace(0, math.pi, 25)
    for x in (front, rear):
        for grow, colour in ((1.42, _DARK), (1.16, _BLACK))[not model.cladding :]:
            # Arches are cut off at the sill, wheels stand on the ground.
            arc = np.stack(
                [x + grow * radius * np.cos(half), radius + grow * radius * np.sin(half)], 1
            )
            pen.fill(
                np.vstack([arc, [(x - grow * radius, sill), (x + grow * radius, sill)]]), colour
            )
        _wheel(pen, (x, radius), model.rim, (silver, silver, silver), spin + x)

    sky = rng.uniform(0.8, 1.2)
    glass = [_times(c, sky) for c in ((170, 150, 130), (105, 90, 78), (62, 54, 48))]
    for pane in panes:
        pen.paint(pane, body.belt, top, glass)
        if rng.random() < 0.35:  # somebody's head
            pen.disc(
                pane[:, 0].mean() + rng.uniform(-2, 2),
                body.belt + 0.3 * (top - body.belt),
                2.2,
                (70, 75, 90),
            )
        pen.line(pane, _DARK, 0.5, closed=True)

    _details(pen, model, coat, sill)


def _details(pen: _Pen, model: Model, coat: Colour, sill: float) -> None:
    """Doors, mirror, bumpers, lights, and what stands on the roof."""
    body, (_, panes) = BODIES[model.body], _shapes(model)
    front, rear, radius = body.wheels
    door = front + radius + 2
    # A door ends with its pane, or before the rear wheel; its handle is there.
    seam = _times(coat, 0.45)
    pen.line(((door, body.belt - 1), (96, body.belt - 1)), _times(coat, 0.7), 0.3)
    pillar = panes[0][:, 0].min() + 4
    hinge = max(pillar, door)
    pen.line(((hinge, body.belt), (hinge - 1, sill + 2)), seam, 0.4)
    for pane in panes[: model.handles]:
        x, y = min(pane[:, 0].max(), rear - radius - 1), body.belt - 3.2
        pen.line(((x + 1, body.belt), (x, sill + 2)), seam, 0.4)
        pen.box(x - 6, y - 0.8, x - 1, y + 0.8, seam)
        pen.line(((x - 6, y + 0.7), (x - 1, y + 0.7)), (225, 225, 225), 0.5)
    mirror = np.add([(0, -0.2), (0, 2.8), (4, 2.6)], (pillar + 0.5, body.belt))
    pen.fill(_smooth(mirror), _times(coat, 0.8))

    for x in (0.6, 93):  # bumpers
        pen.box(x, sill + 1.5, x + 6, sill + 3.5, _times(_DARK, 1.2))
    lamp = np.asarray(LAMPS[model.lamp]) + body.lamp
    pen.fill(lamp, (205, 235, 245))
    pen.line(lamp, (60, 60, 60), 0.5, closed=True)
    tail = np.asarray(TAILS[model.tail]) * (-1, 1) + body.tail
    pen.fill(tail, (35, 30, 205))
    pen.line(tail, (25, 20, 90), 0.5, closed=True)

    if model.rails:
        start, end, y = body.roof
        pen.line(
            ((start, y - 0.5), (start + 2, y + 2.4), (end - 2, y + 2.2), (end, y - 0.8)), _DARK, 1.1
        )
    if model.spoiler:
        stand = np.add([(-3, -0.5), (-1, 5), (1.5, 5), (0, -0.5)], body.deck)
        wing = np.add([(-7, 4), (-6, 5.6), (8, 7.2), (8, 5)], body.deck)
        pen.fill(stand, _times(coat, 0.6))
        pen.fill(_smooth(wing, 1), _times(coat, 0.85))


def _wheel(pen: _Pen, at: tuple[float, float], rim: str, colour: Colour, spin: float) -> None:
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


# ---------------------------------------------------------------- surroundings


def _rows(image: np.ndarray, top: int, bottom: int, colours: Sequence[Colour]) -> None:
    column = _ramp(np.arange(top, bottom), np.linspace(top, bottom, len(colours)), colours)
    image[top:bottom] = _widen(column, WIDTH)


def _box(image: np.ndarray, place: tuple[float, float, float, float], colour: Colour) -> None:
    x, y, width, height = place
    cv2.rectangle(image, (int(x), int(y)), (int(x + width), int(y + height)), colour, -1)


def _tint(rng: np.random.Generator, *, low: float, high: float, spread: float = 25) -> Colour:
    b, g, r = rng.uniform(low, high) + rng.uniform(-spread, spread, 3)
    return float(b), float(g), float(r)


def _sky(image: np.ndarray, horizon: int, rng: np.random.Generator) -> None:
    high = ((215, 150, 90), (190, 175, 160), (150, 120, 100), (190, 140, 130))[rng.integers(4)]
    haze = ((240, 225, 205), (225, 225, 225), (190, 205, 240))[rng.integers(3)]
    _rows(image, 0, horizon, (high, haze))
    for _ in range(rng.integers(0, 4)):
        x, y, size = rng.uniform(0, WIDTH), rng.uniform(0, 0.7 * horizon), rng.uniform(15, 40)
        for dx in (-1.4, -0.5, 0.5, 1.4):
            centre, axes = (
                (int(x + dx * size), int(y)),
                (int(size * 1.2), int(size * rng.uniform(0.25, 0.5))),
            )
            cv2.ellipse(image, centre, axes, 0, 0, 360, (240, 238, 235), -1, cv2.LINE_AA)


def _tree(
    image: np.ndarray, x: float, ground: float, size: float, rng: np.random.Generator
) -> None:
    _box(image, (x - size * 0.06, ground - size * 0.7, size * 0.12, size * 0.7), (40, 60, 80))
    leaf: Colour = (rng.uniform(30, 70), rng.uniform(80, 140), rng.uniform(40, 110))
    for _ in range(5):
        at = (int(x + rng.uniform(-0.25, 0.25) * size), int(ground - size * rng.uniform(0.6, 1.05)))
        radius, colour = int(size * rng.uniform(0.16, 0.3)), _times(leaf, rng.uniform(0.75, 1.15))
        cv2.circle(image, at, radius, colour, -1, cv2.LINE_AA)


def _city(image: np.ndarray, horizon: int, rng: np.random.Generator) -> None:
    _sky(image, horizon, rng)
    x = -rng.uniform(0, 60)
    while x < WIDTH:
        width, height = rng.uniform(60, 150), rng.uniform(0.4, 1.0) * horizon
        wall, glow = _tint(rng, low=80, high=190), _tint(rng, low=60, high=220)
        _box(image, (x, horizon - height, width, height), wall)
        step = rng.uniform(20, 32)
        for wx in np.arange(x + 8, x + width - 12, step):
            for wy in np.arange(horizon - height + 10, horizon - 25, step * 1.3):
                _box(image, (wx, wy, step * 0.45, step * 0.7), glow)
        x += width + rng.uniform(-5, 25)


def _country(image: np.ndarray, horizon: int, rng: np.random.Generator) -> None:
    _sky(image, horizon, rng)
    xs = np.arange(0, WIDTH + 41, 40)
    for depth in (0.5, 0.8):
        hill = (
            horizon
            - 70 * (1 - depth)
            - 25 * np.sin(xs / rng.uniform(60, 160) + rng.uniform(0, 6))
            - 15
        )
        shape = np.vstack([np.stack([xs, hill], 1), [(WIDTH, horizon), (0, horizon)]]).astype(
            np.int32
        )
        green: Colour = (60 + 60 * (1 - depth), rng.uniform(95, 140), rng.uniform(60, 120))
        cv2.fillPoly(image, [shape], green, cv2.LINE_AA)
    for _ in range(rng.integers(2, 8)):
        _tree(image, rng.uniform(0, WIDTH), horizon + rng.uniform(0, 8), rng.uniform(50, 150), rng)


def _wall(image: np.ndarray, horizon: int, rng: np.random.Generator) -> None:
    colour = _tint(rng, low=90, high=210)
    _rows(image, 0, horizon, (_times(colour, 1.1), _times(colour, 0.85)))
    step, joint = int(rng.integers(24, 90)), _times(colour, 0.8)
    for y in range(horizon - step, 0, -step):
        cv2.line(image, (0, y), (WIDTH, y), joint, 1)
    for x in range(int(rng.integers(0, 60)), WIDTH, step * 2):
        cv2.line(image, (x, 0), (x, horizon), joint, 1)
    for _ in range(rng.integers(0, 4)):
        left, width, height = rng.uniform(0, WIDTH), rng.uniform(40, 120), rng.uniform(60, 170)
        _box(image, (left, horizon - height, width, height), _tint(rng, low=50, high=200))


def _coast(image: np.ndarray, horizon: int, rng: np.random.Generator) -> None:
    line = int(horizon * rng.uniform(0.55, 0.8))
    _sky(image, line, rng)
    _rows(image, line, horizon, ((170, 130, 70), (150, 140, 60)))
    for _ in range(rng.integers(4, 14)):
        _box(
            image,
            (rng.uniform(0, WIDTH), rng.uniform(line, horizon), rng.uniform(10, 60), 0),
            (220, 210, 190),
        )
    for x in range(int(rng.integers(0, 80)), WIDTH, 80):
        _box(image, (x, horizon - 38, 5, 40), (170, 175, 180))
    _box(image, (0, horizon - 34, WIDTH, 7), (185, 190, 195))


SCENES: tuple[Callable[[np.ndarray, int, np.random.Generator], None], ...] = (
    _city,
    _country,
    _wall,
    _coast,
)


def _ground(image: np.ndarray, horizon: int, rng: np.random.Generator) -> None:
    stone = _tint(rng, low=70, high=150, spread=12)
    _rows(image, horizon, HEIGHT, (_times(stone, 0.95), _times(stone, 1.15)))
    kerb = horizon + int(rng.integers(6, 22))
    verge = ((70, 125, 85), (150, 150, 150), (110, 150, 170))[rng.integers(3)]
    _box(image, (0, horizon, WIDTH, kerb - horizon), _times(verge, rng.uniform(0.7, 1.1)))
    if rng.random() < 0.6:
        y, dash, gap = (
            int(rng.integers(*ends)) for ends in ((HEIGHT - 50, HEIGHT - 8), (40, 120), (30, 100))
        )
        for left in range(-int(rng.integers(0, dash)), WIDTH, dash + gap):
            cv2.line(image, (left, y), (left + dash, y), _times(stone, 1.7), 4, cv2.LINE_AA)
    for _ in range(rng.integers(0, 3)):
        x, tall = rng.uniform(0, WIDTH), rng.uniform(120, 300)
        _box(
            image,
            (x, horizon - tall, 6, tall + kerb - horizon),
            _tint(rng, low=50, high=120, spread=8),
        )


@cache
def _grain() -> np.ndarray:
    """Camera noise (H+64,W+64,3) uint8, 128 ± 16 (standard deviation); photos take random windows of it."""
    plane = np.random.default_rng(0).normal(128, 16, (HEIGHT + 64, WIDTH + 64, 3))
    return plane.clip(0, 255).astype(np.uint8)


_GRID_Y, _GRID_X = np.meshgrid(np.linspace(-1, 1, 24), np.linspace(-1, 1, 32), indexing="ij")


def _lit(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light and camera: vignette and tint, brightness and contrast, blur, noise."""
    aim_x, aim_y = rng.uniform(-0.5, 0.5, 2)
    fall = 1 - rng.uniform(0, 0.35) * ((_GRID_X - aim_x) ** 2 + (_GRID_Y - aim_y) ** 2) / 2
    tinted = (fall[:, :, None] * rng.uniform(0.93, 1.0, 3) * 255).clip(0, 255).astype(np.uint8)
    light = cv2.resize(tinted, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    contrast, noise = rng.uniform(0.75, 1.2), rng.uniform(0.05, 0.5)
    brighter = rng.uniform(0, 30) + 20 * (1 - contrast)
    image = cv2.multiply(image, light, scale=contrast / 255)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (3, 3), rng.uniform(0.5, 1.2))
    dy, dx = rng.integers(0, 64, 2)
    grain = _grain()[dy : dy + HEIGHT, dx : dx + WIDTH]
    return cv2.addWeighted(image, 1, grain, noise, brighter - 128 * noise)


def photo(model: Model, rng: np.random.Generator) -> np.ndarray:
    """One drawn photo of a model: (480,640,3) uint8, BGR as cv2 encodes it."""
    image: np.ndarray = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    length = WIDTH * rng.uniform(0.7, 1.0)
    middle = WIDTH / 2 + rng.uniform(-0.5, 0.5) * (WIDTH - length)
    ground = rng.uniform(0.68, 0.92) * HEIGHT
    tilt, mirrored = rng.uniform(-4, 4), bool(rng.random() < 0.5)
    horizon = int(ground - rng.uniform(0.04, 0.2) * HEIGHT)
    SCENES[rng.integers(len(SCENES))](image, horizon, rng)
    _ground(image, horizon, rng)

    shade: np.ndarray = np.full((HEIGHT // 4, WIDTH // 4), 255, np.uint8)
    centre = (round(middle / 4), round(ground / 4) - 1)
    axes = (round(length * 0.5 / 4), round(length * 0.035 / 4))
    cv2.ellipse(shade, centre, axes, -tilt if mirrored else tilt, 0, 360, (70,), -1)
    shade = cv2.resize(
        cv2.GaussianBlur(shade, (9, 9), 2.5), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR
    )
    image = cv2.multiply(image, cv2.cvtColor(shade, cv2.COLOR_GRAY2BGR), scale=1 / 255)

    _car(_Pen(image, length, (middle, ground), tilt, mirrored), model, rng)
    return _lit(image, rng)


# ---------------------------------------------------------------- the competition


def _labels(total: int, rng: np.random.Generator) -> list[int]:
    """``total`` classes in random order, as unbalanced as ``MODELS`` says (largest remainders)."""
    shares = np.array([m.share for m in MODELS])
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return [int(v) for v in rng.permutation(np.repeat(np.arange(len(MODELS)), counts))]


def _jpeg(label: int, seed: Sequence[int]) -> bytes:
    image = photo(MODELS[label], np.random.default_rng(seed))
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 88])[1])


def _zip(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A zip whose bytes depend on nothing but names and contents; JPEGs are stored as they are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def _csv(ids: Sequence[str], labels: Sequence[int]) -> str:
    return "".join(f"{a},{b}\n" for a, b in [("Id", "Category"), *zip(ids, labels, strict=True)])


def _is_drawn(note: Path) -> bool:
    """Whether that sample.json is ours."""
    try:
        return bool(json.loads(note.read_text(encoding="utf-8"))["drawn"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def draw(folder: Path, seed: int = 1, train: int = 600, test: int = 200) -> Path:
    """Write a drawn competition into ``folder`` unless the very same is there already; returns ``folder``.

    Kaggle's files: train.csv and sample-submission.csv (Id,Category), train.zip with
    ``train/<class>/<Id>``, test.zip with ``test_upload/<Id>``. Kept aside: answers/answers.csv.
    The same seed and counts give the same bytes. Raises InputError for fewer than 20 train photos
    (a class might have none) or no test photo.
    """
    if train < 20 or test < 1:
        raise InputError(
            f"{folder}: a sample needs train >= 20 and test >= 1 photos, not {train} and {test}"
        )
    done = (
        folder / "sample.json"
    )  # its last words are written last: with others, the sample is incomplete
    files = ["train.csv", "sample-submission.csv", "train.zip", "test.zip", "answers/answers.csv"]
    what = (
        json.dumps({"drawn": True, "version": VERSION, "seed": seed, "train": train, "test": test})
        + "\n"
    )
    if (
        all((folder / f).is_file() for f in files)
        and done.is_file()
        and done.read_text(encoding="utf-8") == what
    ):
        return folder
    there = [file for file in files if (folder / file).exists()]
    if there and not _is_drawn(done):
        raise InputError(
            f"{folder}: has {', '.join(there)}, not of a drawn sample; remove them, or name another folder"
        )
    try:
        (folder / "answers").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: no folder for a sample can be made there ({error.strerror})"
        ) from None
    disk.write_atomic(done, json.dumps({"drawn": True, "complete": False}) + "\n")

    rng = np.random.default_rng(seed)
    ids = [f"{v}.jpg" for v in rng.choice(np.arange(10_000, 600_000), train + test, replace=False)]
    labels = [*_labels(train, rng), *_labels(test, rng)]
    with ThreadPoolExecutor(2) as pool:  # cv2 lets go of Python's lock
        photos = list(pool.map(_jpeg, labels, [(seed, i) for i in range(train + test)]))
    rows = list(zip(ids, labels, photos, strict=True))
    contents: list[str | bytes] = [
        _csv(ids[:train], labels[:train]),
        _csv(ids[train:], [0] * test),
        _zip((f"train/{label}/{name}", data) for name, label, data in rows[:train]),
        _zip((f"test_upload/{name}", data) for name, _, data in rows[train:]),
        _csv(ids[train:], labels[train:]),
    ]
    for file, content in zip([*files, done.name], [*contents, what], strict=True):
        disk.write_atomic(folder / file, content)
    return folder
