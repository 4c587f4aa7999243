"""A pen that draws on a photo in a car's own coordinates, and what it draws with."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

WIDTH, HEIGHT = 640, 480  # px
_SHIFT = 4  # fractional bits of cv2's coordinates: edges lie on 1/16 px

Points = Sequence[tuple[float, float]]
Colour = tuple[float, float, float]  # blue, green, red, 0–255
DARK: Colour = (38, 36, 34)
BLACK: Colour = (18, 18, 18)


class Pen:
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
        column = fade(np.arange(y0, y1), at, ramp)
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(
            mask, [pixels - np.array([x0, y0], np.int32) * (1 << _SHIFT)], 255, cv2.LINE_8, _SHIFT
        )
        cv2.copyTo(widen(column, x1 - x0), mask, self.image[y0:y1, x0:x1])
        self.line(points, ramp[-1], 0.2, closed=True)  # a smooth edge over the mask's hard one


def fade(rows: np.ndarray, at: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """One column (N,1,3) uint8 of colours interpolated between the rows ``at``."""
    table = np.asarray(colours, float)
    column = np.stack([np.interp(rows, at, table[:, c]) for c in range(3)], -1)
    return column[:, None].clip(0, 255).astype(np.uint8)


def widen(column: np.ndarray, width: int) -> np.ndarray:
    return cv2.resize(
        column, (width, len(column)), interpolation=cv2.INTER_NEAREST
    )  # faster than cv2.repeat


def brighten(colour: Colour, factor: float) -> Colour:
    b, g, r = (min(255.0, max(0.0, v * factor)) for v in colour)
    return b, g, r


def smooth(points: Points | np.ndarray, rounds: int = 3) -> np.ndarray:
    """Chaikin's corner cutting of a closed shape, gentle enough to keep the silhouette."""
    shape = np.asarray(points, float)
    for _ in range(rounds):
        after = np.roll(shape, -1, 0)
        shape = np.stack([0.82 * shape + 0.18 * after, 0.18 * shape + 0.82 * after], 1).reshape(
            -1, 2
        )
    return shape


def keep_between(points: np.ndarray, start: float, end: float) -> np.ndarray:
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
