"""Where the drawn cars stand, and the light and camera that take their photos."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from carcls.desk import cars
from carcls.desk.drawing import HEIGHT, WIDTH, Colour, Pen, brighten, fade, smooth, widen

# What makes a photo hard.
TROUBLES = ("far", "hidden", "dark", "blurred")


@dataclass(frozen=True)
class Shot:
    """What a photo shows."""

    model: cars.Model
    scene: str  # of SCENES
    troubles: tuple[str, ...] = ()  # of TROUBLES


def _rows(image: np.ndarray, top: int, bottom: int, colours: Sequence[Colour]) -> None:
    column = fade(np.arange(top, bottom), np.linspace(top, bottom, len(colours)), colours)
    image[top:bottom] = widen(column, WIDTH)


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
        radius, colour = int(size * rng.uniform(0.16, 0.3)), brighten(leaf, rng.uniform(0.75, 1.15))
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
    _rows(image, 0, horizon, (brighten(colour, 1.1), brighten(colour, 0.85)))
    step, joint = int(rng.integers(24, 90)), brighten(colour, 0.8)
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


SCENES: dict[str, Callable[[np.ndarray, int, np.random.Generator], None]] = {
    "city": _city,
    "country": _country,
    "wall": _wall,
    "coast": _coast,
}


def _ground(image: np.ndarray, horizon: int, rng: np.random.Generator) -> None:
    stone = _tint(rng, low=70, high=150, spread=12)
    _rows(image, horizon, HEIGHT, (brighten(stone, 0.95), brighten(stone, 1.15)))
    kerb = horizon + int(rng.integers(6, 22))
    verge = ((70, 125, 85), (150, 150, 150), (110, 150, 170))[rng.integers(3)]
    _box(image, (0, horizon, WIDTH, kerb - horizon), brighten(verge, rng.uniform(0.7, 1.1)))
    if rng.random() < 0.6:
        y, dash, gap = (
            int(rng.integers(*ends)) for ends in ((HEIGHT - 50, HEIGHT - 8), (40, 120), (30, 100))
        )
        for left in range(-int(rng.integers(0, dash)), WIDTH, dash + gap):
            cv2.line(image, (left, y), (left + dash, y), brighten(stone, 1.7), 4, cv2.LINE_AA)
    for _ in range(rng.integers(0, 3)):
        x, tall = rng.uniform(0, WIDTH), rng.uniform(120, 300)
        _box(
            image,
            (x, horizon - tall, 6, tall + kerb - horizon),
            _tint(rng, low=50, high=120, spread=8),
        )


def _passer_by(pen: Pen, x: float, rng: np.random.Generator) -> None:
    """Somebody who walks before the car, 1.75 m beside a car of 4.4 m."""
    coat, trousers = _tint(rng, low=30, high=200, spread=40), _tint(rng, low=30, high=120)
    for step in (-4, 3):
        pen.fill(((x - 2, 19), (x + 2.5, 19), (x + step + 2, -4), (x + step - 1.5, -4)), trousers)
    body = ((x - 4.5, 17), (x - 5, 30), (x - 3, 33), (x + 3, 33), (x + 5, 30), (x + 4.5, 17))
    pen.fill(smooth(body), coat)
    pen.disc(x, 36.5, 3.4, brighten((130, 165, 220), rng.uniform(0.4, 1.05)))


def _post(pen: Pen, x: float, rng: np.random.Generator) -> None:
    """A thick post, or a trunk."""
    wide = rng.uniform(3, 7)
    pen.box(x - wide, -5, x + wide, 120, _tint(rng, low=40, high=150, spread=15))


def _hedge(pen: Pen, x: float, rng: np.random.Generator) -> None:
    """Leaves that hide the lower part of a car, often with a wheel."""
    leaf: Colour = (rng.uniform(30, 70), rng.uniform(70, 120), rng.uniform(40, 90))
    for at in np.arange(x - rng.uniform(10, 22), x + rng.uniform(10, 22), 3.5):
        radius, tone = rng.uniform(5, 8), brighten(leaf, rng.uniform(0.75, 1.15))
        pen.disc(at, rng.uniform(-4, 10), radius, tone)


def _hide(pen: Pen, rng: np.random.Generator) -> None:
    """Put one to three things before the car."""
    for x in rng.choice((10, 25, 40, 55, 70, 85), rng.integers(1, 4), replace=False):
        (_passer_by, _post, _hedge)[rng.integers(3)](pen, float(x + rng.uniform(-6, 6)), rng)


@cache
def _grain() -> np.ndarray:
    """Camera noise (H+64, W+64, 3) uint8 around 128, of which photos take random windows."""
    plane = np.random.default_rng(0).normal(128, 16, (HEIGHT + 64, WIDTH + 64, 3))
    return plane.clip(0, 255).astype(np.uint8)


_GRID_Y, _GRID_X = np.meshgrid(np.linspace(-1, 1, 24), np.linspace(-1, 1, 32), indexing="ij")


def _lit(image: np.ndarray, rng: np.random.Generator, troubles: Collection[str]) -> np.ndarray:
    """Light and camera: vignette and tint, brightness and contrast, blur, noise."""
    aim_x, aim_y = rng.uniform(-0.5, 0.5, 2)
    fall = 1 - rng.uniform(0, 0.35) * ((_GRID_X - aim_x) ** 2 + (_GRID_Y - aim_y) ** 2) / 2
    tinted = (fall[:, :, None] * rng.uniform(0.93, 1.0, 3) * 255).clip(0, 255).astype(np.uint8)
    light = cv2.resize(tinted, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    contrast, noise = rng.uniform(0.75, 1.2), rng.uniform(0.05, 0.5)
    brighter = rng.uniform(0, 30) + 20 * (1 - contrast)
    if "dark" in troubles:
        contrast, noise, brighter = rng.uniform(0.13, 0.3), 0.4, 8.0
    image = cv2.multiply(image, light, scale=contrast / 255)
    if "blurred" in troubles:
        image = cv2.blur(image, (int(rng.integers(12, 40)), 1))  # the camera moved
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(2, 5))
    elif rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (3, 3), rng.uniform(0.5, 1.2))
    dy, dx = rng.integers(0, 64, 2)
    grain = _grain()[dy : dy + HEIGHT, dx : dx + WIDTH]
    return cv2.addWeighted(image, 1, grain, noise, brighter - 128 * noise)


def photo(shot: Shot, rng: np.random.Generator) -> np.ndarray:
    """One drawn photo: (480,640,3) uint8, BGR as cv2 encodes it."""
    image: np.ndarray = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    length = WIDTH * (rng.uniform(0.5, 0.68) if "far" in shot.troubles else rng.uniform(0.7, 1.0))
    middle = WIDTH / 2 + rng.uniform(-0.5, 0.5) * (WIDTH - length)
    ground = rng.uniform(0.68, 0.92) * HEIGHT
    tilt, mirrored = rng.uniform(-4, 4), bool(rng.random() < 0.5)
    horizon = int(ground - rng.uniform(0.04, 0.2) * HEIGHT)
    SCENES[shot.scene](image, horizon, rng)
    _ground(image, horizon, rng)

    shade: np.ndarray = np.full((HEIGHT // 4, WIDTH // 4), 255, np.uint8)
    centre = (round(middle / 4), round(ground / 4) - 1)
    axes = (round(length * 0.5 / 4), round(length * 0.035 / 4))
    cv2.ellipse(shade, centre, axes, -tilt if mirrored else tilt, 0, 360, (70,), -1)
    shade = cv2.resize(
        cv2.GaussianBlur(shade, (9, 9), 2.5), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR
    )
    image = cv2.multiply(image, cv2.cvtColor(shade, cv2.COLOR_GRAY2BGR), scale=1 / 255)

    pen = Pen(image, length, (middle, ground), tilt, mirrored)
    cars.draw(pen, shot.model, rng)
    if "hidden" in shot.troubles:
        _hide(pen, rng)
    return _lit(image, rng, shot.troubles)
