"""Faces and flowers of the drawn crawl: one function a class, which sets its parts with a `Pen`."""

import math
from typing import TYPE_CHECKING

import numpy as np

from urnet_tf.drawn.canvas import chance, mirrored

if TYPE_CHECKING:
    from urnet_tf.drawn.canvas import Pen

_TURN = 2 * math.pi


def draw_cat(pen: "Pen", rng: np.random.Generator) -> None:
    width, y = rng.uniform(0.62, 0.8), 0.1
    ear = [(0.12, -0.4), (rng.uniform(0.45, 0.7), rng.uniform(-1.0, -0.8)), (width - 0.02, -0.1)]
    inner = [(0.28, -0.48), (ear[1][0] - 0.03, ear[1][1] + 0.17), (width - 0.14, -0.25)]
    for flip in (list, mirrored):
        pen.polygon(flip(ear), "main")
        pen.polygon(flip(inner), "second", ink=False)
    pen.ellipse(0, y, width, rng.uniform(0.55, 0.68), "main")
    if chance(rng, 0.5):
        for x in (-0.15, 0.0, 0.15):
            pen.line([(x, -0.45), (x * 0.7, -0.2)], 0.05, "dark")
    if chance(rng, 0.5):
        pen.ellipse(0, 0.38, 0.3, 0.24, "light", ink=False)
    apart, slit = rng.uniform(0.26, 0.36), rng.uniform(0.025, 0.08)
    for side in (-1, 1):
        pen.ellipse(side * apart, 0.0, 0.15, rng.uniform(0.08, 0.13), "accent", side * -0.25)
        pen.ellipse(side * apart, 0.0, slit, 0.11, "dark", ink=False)
    pen.polygon([(-0.08, 0.25), (0.08, 0.25), (0, 0.34)], "second")
    pen.line([(-0.16, 0.46), (0, 0.42), (0, 0.34), (0, 0.42), (0.16, 0.46)], 0.025)
    for side in (-1, 1):
        for drop in np.linspace(-0.05, 0.15, int(rng.integers(2, 4))):
            pen.line([(side * 0.2, 0.36), (side * 0.98, 0.33 + 1.5 * drop)], 0.014, "ink")


def draw_dog(pen: "Pen", rng: np.random.Generator) -> None:  # noqa: C901  (a chance a feature)
    width, y = rng.uniform(0.5, 0.66), 0.0
    pricked = chance(rng, 0.3)
    if pricked:
        ear = [(0.12, -0.45), (0.5, rng.uniform(-0.95, -0.8)), (width, -0.1)]
        for flip in (list, mirrored):
            pen.polygon(flip(ear), "second")
    pen.blob(
        [
            (-width, -0.75),
            (width, -0.75),
            (width + 0.1, 0.2),
            (0.45, 0.95),
            (-0.45, 0.95),
            (-width - 0.1, 0.2),
        ]
    )
    if not pricked:
        out, low = rng.uniform(0.75, 0.98), rng.uniform(0.25, 0.65)
        ear = [(0.3, -0.72), (0.6, -0.72), (out, -0.1), (out, low), (out - 0.28, low), (width - 0.1, -0.3)]
        for flip in (list, mirrored):
            pen.blob(flip(ear), "second")
    if chance(rng, 0.35):
        pen.ellipse(0.27, y - 0.15, 0.22, 0.26, "second", ink=False)  # a patch
    muzzle = rng.uniform(0.3, 0.42)
    if chance(rng, 0.4):
        pen.polygon([(-0.12, 0.6), (0.12, 0.6), (0.1, 0.95), (-0.1, 0.95)], "accent")  # tongue
    pen.ellipse(0, 0.45, muzzle, rng.uniform(0.26, 0.34), "light")
    for side in (-1, 1):
        pen.ellipse(side * 0.27, y - 0.12, 0.1, fill="light")
        pen.ellipse(side * 0.27, y - 0.11, 0.065, fill="dark", ink=False)
    pen.ellipse(0, 0.28, rng.uniform(0.13, 0.18), 0.11, "dark")
    pen.line([(-0.2, 0.6), (-0.06, 0.6), (0, 0.5), (0, 0.38), (0, 0.5), (0.06, 0.6), (0.2, 0.6)], 0.03)
    if chance(rng, 0.3):
        for side in (-1, 1):
            for drop in (0.0, 0.1):
                pen.line([(side * 0.2, 0.45), (side * 0.75, 0.42 + drop)], 0.012, "ink")


def _petals(
    pen: "Pen", count: int, reach: float, width: float, fill: str, pointed: bool, start: float = 0.0
) -> None:
    for angle in start + np.arange(count) * _TURN / count:
        cos, sin = math.cos(angle), math.sin(angle)
        shape = [(0.1, -width), (0.7, -width), (1.0, 0), (0.7, width), (0.1, width)]
        if not pointed:
            shape[2:3] = [(1.0, -width / 2), (1.0, width / 2)]
        petal = [(reach * (u * cos - v * sin), reach * (u * sin + v * cos)) for u, v in shape]
        (pen.polygon if pointed else pen.blob)(petal, fill)


def _stem(pen: "Pen", rng: np.random.Generator, reach: float) -> None:
    """A stem with leaves, or nothing."""
    if chance(rng, 0.55):
        bend = rng.uniform(-0.3, 0.3)
        pen.line([(0, 0), (bend, 0.8), (bend, 1.7)], 0.07, "dark", smooth=True)
        if chance(rng, 0.6):
            leaf = [(bend, 1.25), (bend + 0.3, reach), (bend + 0.65, reach - 0.02), (bend + 0.35, 1.3)]
            pen.blob(leaf, "dark")


def draw_daisy(pen: "Pen", rng: np.random.Generator) -> None:
    reach = rng.uniform(0.75, 0.9)
    _stem(pen, rng, reach)
    count = int(rng.integers(11, 20))
    _petals(pen, count, reach, rng.uniform(0.09, 0.14), "main", pointed=chance(rng, 0.25))
    center = rng.uniform(0.2, 0.32)
    pen.ellipse(0, 0, center, center * rng.uniform(0.85, 1), "second")
    if chance(rng, 0.4):
        pen.ellipse(0, 0, center * 0.6, fill="accent", ink=False)


def draw_sunflower(pen: "Pen", rng: np.random.Generator) -> None:
    reach = rng.uniform(0.85, 0.98)
    _stem(pen, rng, reach)
    count = int(rng.integers(15, 25))
    if chance(rng, 0.7):
        _petals(pen, count, reach, 0.11, "accent", True, 0.5 * _TURN / count)
    _petals(pen, count, reach * 0.95, rng.uniform(0.08, 0.12), "main", pointed=chance(rng, 0.75))
    center = rng.uniform(0.38, 0.52)
    pen.ellipse(0, 0, center, fill="second")
    for i in range(int(rng.integers(20, 70))):  # seeds along the golden angle
        radius, angle = center * 0.11 * math.sqrt(1 + i), i * 2.39996
        if radius < center * 0.95:
            pen.ellipse(radius * math.cos(angle), radius * math.sin(angle), 0.026, fill="dark", ink=False)
