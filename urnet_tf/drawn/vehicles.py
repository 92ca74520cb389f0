"""Vehicles and sailing vessels of the drawn crawl: one function a class, with a `Pen`."""

import math
from typing import TYPE_CHECKING

import numpy as np

from urnet_tf.drawn.canvas import chance

if TYPE_CHECKING:
    from urnet_tf.drawn.canvas import Pen

_TURN = 2 * math.pi


def _wheel(
    pen: "Pen", rng: np.random.Generator, x: float, y: float, radius: float, tire: float, spokes: int
) -> None:
    pen.ring(x, y, radius, tire)
    for angle in np.arange(spokes) * _TURN / max(spokes, 1) + rng.uniform(0, 1):
        pen.line([(x, y), (x + radius * math.cos(angle), y + radius * math.sin(angle))], 0.012)
    pen.ellipse(x, y, 0.06, fill="second")


def draw_bicycle(pen: "Pen", rng: np.random.Generator) -> None:
    radius, y = rng.uniform(0.36, 0.45), 0.4
    for x in (-0.55, 0.55):
        _wheel(pen, rng, x, y, radius, rng.uniform(0.03, 0.07), int(rng.choice([0, 8, 12, 16])))
    rear, front, crank = (-0.55, y), (0.55, y), (-0.05, y + 0.02)
    seat = (-0.22, rng.uniform(-0.3, -0.15))
    head = (0.38, rng.uniform(-0.35, -0.2))
    tube = rng.uniform(0.04, 0.08)
    for part in ([rear, crank], [crank, seat], [seat, rear], [crank, head], [head, front]):
        pen.line(part, tube, "main")
    if chance(rng, 0.7):
        pen.line([seat, head], tube, "main")
    else:  # low entry
        pen.line([crank, (0.1, 0.2), head], tube, "main", smooth=True)
    pen.blob([(-0.42, seat[1] - 0.12), (-0.02, seat[1] - 0.1), (-0.3, seat[1])], "second")
    bar = [(head[0], head[1]), (0.34, head[1] - 0.18), (0.55, head[1] - 0.2), (0.5, head[1])]
    pen.line(bar[: int(rng.integers(3, 5))], tube, "dark", smooth=True)
    pen.ring(*crank, 0.1, 0.03)
    pen.line([(crank[0] - 0.13, crank[1] - 0.14), (crank[0] + 0.13, crank[1] + 0.14)], 0.04)
    if chance(rng, 0.3):  # luggage or a child's seat makes it look heavier
        pen.polygon([(-0.75, -0.1), (-0.4, -0.1), (-0.4, 0.12), (-0.75, 0.12)], "accent")
    if chance(rng, 0.25):
        pen.polygon([(0.5, -0.3), (0.85, -0.3), (0.8, -0.02), (0.55, -0.02)], "accent")


def draw_motorcycle(pen: "Pen", rng: np.random.Generator) -> None:
    radius, y = rng.uniform(0.31, 0.4), 0.42
    for x in (-0.58, 0.6):
        _wheel(pen, rng, x, y, radius, rng.uniform(0.08, 0.14), int(rng.choice([0, 3, 5, 12])))
    pen.line([(0.6, y), (0.36, -0.32)], 0.08, "second")
    pen.blob([(-0.3, 0.05), (0.3, 0.0), (0.32, 0.4), (0.1, 0.55), (-0.25, 0.5)], "second")  # engine
    for i in range(int(rng.integers(0, 4))):
        pen.line([(-0.15, 0.15 + 0.09 * i), (0.18, 0.13 + 0.09 * i)], 0.03)
    pen.blob([(-0.15, -0.25), (0.3, -0.35), (0.42, -0.15), (0.2, 0.05), (-0.15, 0.02)], "main")  # tank
    back = rng.uniform(-0.95, -0.75)
    pen.blob(
        [(back, -0.28), (-0.4, -0.12), (-0.1, -0.16), (-0.12, 0.06), (-0.5, 0.1), (back + 0.1, -0.1)], "dark"
    )
    pen.line([(0.1, 0.5), (-0.3, 0.58), (-0.95, rng.uniform(0.3, 0.55))], 0.09, "light", smooth=True)
    pen.line([(0.36, -0.3), (0.3, -0.52), (0.14, -0.56)], 0.05, "dark", smooth=True)
    pen.ellipse(0.47, -0.26, 0.1, fill="light")
    for x in (-0.58, 0.6):
        if chance(rng, 0.6):
            pen.arc(x, y, radius + 0.07, radius + 0.07, math.pi * 1.1, math.pi * 1.8, 0.06, "main")
    if chance(rng, 0.3):
        pen.polygon([(0.4, -0.4), (0.55, -0.75), (0.62, -0.35)], "light")  # wind screen


def _hull(pen: "Pen", rng: np.random.Generator, top: float, depth: float) -> None:
    bow, stern = rng.uniform(0.7, 0.95), -rng.uniform(0.6, 0.85)
    pen.blob([(stern, top), (stern, top), (bow, top - 0.05), (bow, top - 0.05), (0.5, top + depth),
              (stern + 0.15, top + depth)], "main")  # fmt: skip


def draw_sailboat(pen: "Pen", rng: np.random.Generator) -> None:
    top, mast = rng.uniform(0.4, 0.55), rng.uniform(-0.1, 0.15)
    if chance(rng, 0.75):
        pen.polygon([(mast + 0.05, -0.8), (0.8, top - 0.1), (mast + 0.05, top - 0.12)], "light")
    sag = rng.uniform(0.0, 0.15)
    sail = [(mast - 0.04, -0.95), (mast - 0.3 - sag, -0.2), (-0.7, top - 0.15), (mast - 0.04, top - 0.12)]
    pen.polygon(sail, "second")
    for i in range(int(rng.integers(0, 4))):
        y = -0.4 + 0.25 * i
        pen.line([(mast - 0.05, y), (mast - 0.24 - 0.12 * i, y + 0.02)], 0.015, "ink")
    pen.line([(mast, -1.0), (mast, top + 0.05)], 0.04)
    _hull(pen, rng, top, rng.uniform(0.15, 0.32))
    if chance(rng, 0.35):
        pen.polygon([(mast, -1.0), (mast + 0.2, -0.94), (mast, -0.88)], "accent")
    if chance(rng, 0.35):
        for x in (-0.4, -0.15, 0.1):
            pen.ellipse(x, top + 0.09, 0.04, fill="light")
    if chance(rng, 0.25):
        _person(pen, -0.35, top - 0.25, 0.35)
    _waves(pen, rng, 0.85)


def _person(pen: "Pen", x: float, y: float, height: float, lean: float = 0.0) -> None:
    """A head at (x, y), a body and two legs below."""
    hip = (x + lean, y + 0.55 * height)
    pen.line([(x, y + 0.1 * height), hip], 0.2 * height, "accent")
    pen.line([hip, (hip[0] - 0.12 * height, y + height)], 0.09 * height)
    pen.line([hip, (hip[0] + 0.2 * height, y + height)], 0.09 * height)
    pen.ellipse(x, y, 0.13 * height, fill="light")


def _waves(pen: "Pen", rng: np.random.Generator, y: float) -> None:
    for i in range(int(rng.integers(0, 4))):
        left = rng.uniform(-1, 0.2)
        wave = [(left + 0.2 * k, y + 0.08 * i + 0.05 * (k % 2)) for k in range(5)]
        pen.line(wave, 0.025, "light", smooth=True)


def draw_windsurfer(pen: "Pen", rng: np.random.Generator) -> None:
    y, foot = rng.uniform(0.65, 0.8), rng.uniform(0.0, 0.15)
    lean = rng.uniform(-0.25, 0.1)
    pen.ellipse(0, y, 0.9, rng.uniform(0.05, 0.09), "main", rng.uniform(-0.12, 0.12))
    tip = (foot + lean, -0.98)
    belly = rng.uniform(0.45, 0.7)
    sail = [
        (foot, y - 0.1),
        (foot + 0.1 + lean / 2, -0.3),
        tip,
        tip,
        (tip[0] - belly, -0.3),
        (tip[0] - belly, 0.2),
    ]
    pen.blob(sail, "second")
    for i in range(int(rng.integers(1, 5))):
        level = -0.5 + 0.25 * i
        pen.line([(foot + lean * 0.6, level), (foot + lean - belly * 0.75, level + 0.1)], 0.015, "ink")
    pen.line([(foot, y), (foot + 0.1 + lean / 2, -0.3), tip], 0.035, "dark", smooth=True)
    pen.line([(foot + 0.05, 0.15), (foot - 0.65, 0.25)], 0.035)
    if chance(rng, 0.85):
        x = rng.uniform(-0.55, -0.4)
        _person(pen, x, -0.05, y + 0.05, lean=-0.12)
        pen.line([(x, 0.1), (foot - 0.2, 0.2)], 0.05, "accent")
    _waves(pen, rng, y + 0.12)
