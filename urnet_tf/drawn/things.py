"""Dishes, instruments, dials and buildings of the drawn crawl.

One function a class, which sets its parts with a `Pen`. Which parts, how many and where is random,
and the two classes of a confusable pair share parts, so that no single part decides.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from urnet_tf.drawn.canvas import arc_points, chance, mirrored

if TYPE_CHECKING:
    from urnet_tf.drawn.canvas import Pen

_TURN = 2 * math.pi


def draw_mug(pen: "Pen", rng: np.random.Generator) -> None:
    top, bottom = rng.uniform(0.45, 0.65), rng.uniform(0.3, 0.6)
    high, low = rng.uniform(-0.6, -0.25), rng.uniform(0.5, 0.7)
    flat = rng.uniform(0.1, 0.22)
    middle = (high + low) / 2
    if chance(rng, 0.35):  # saucer
        pen.ellipse(0, low, 0.95, 0.2, "second")
    grip = (low - high) * rng.uniform(0.22, 0.36)
    pen.arc(
        top * 0.85,
        middle - 0.05,
        0.38,
        grip,
        -0.55 * math.pi,
        0.55 * math.pi,
        rng.uniform(0.07, 0.14),
        "main",
    )
    bulge = rng.uniform(0, 0.12)
    side = [(-top, high), (-(top + bottom) / 2 - bulge, middle), (-bottom, low)]
    floor = arc_points(0, low, bottom, flat, math.pi, 0)
    pen.polygon([*side, *floor.tolist(), *[(-x, y) for x, y in side[::-1]]], "main")
    if chance(rng, 0.5):
        _band(pen, rng, (top + bottom) / 2, middle)
    pen.ellipse(0, high, top, flat, "second")
    pen.ellipse(0, high + 0.03, top * 0.85, flat * 0.75, "dark")
    if chance(rng, 0.45):
        _steam(pen, rng, high)
    if chance(rng, 0.2):
        pen.line([(0.1, high), (0.5, high - 0.45)], 0.06, "light")  # spoon


def _steam(pen: "Pen", rng: np.random.Generator, y: float) -> None:
    for x in (-0.2, 0.05, 0.28)[: int(rng.integers(1, 4))]:
        pen.line(
            [(x, y - 0.05), (x + 0.1, y - 0.2), (x - 0.05, y - 0.35), (x + 0.05, y - 0.5)],
            0.03,
            "light",
            True,
        )


def _band(pen: "Pen", rng: np.random.Generator, reach: float, y: float) -> None:
    if chance(rng, 0.5):
        pen.polygon(
            [(-reach, y - 0.08), (reach, y - 0.08), (reach, y + 0.08), (-reach, y + 0.08)], "accent", False
        )
    else:
        for x in np.linspace(-0.7, 0.7, 5):
            pen.ellipse(x * reach, y, 0.07, fill="accent", ink=False)


def draw_bowl(pen: "Pen", rng: np.random.Generator) -> None:
    width, high = rng.uniform(0.75, 0.95), rng.uniform(-0.25, 0.0)
    depth, flat = rng.uniform(0.55, 0.85), rng.uniform(0.12, 0.26)
    foot = rng.uniform(0.2, 0.4)
    if chance(rng, 0.25):
        pen.ellipse(0, high + depth, 0.9, 0.16, "second")
    pen.polygon([(-foot, high + depth * 0.8), (foot, high + depth * 0.8), (foot, high + depth + 0.08),
                 (-foot, high + depth + 0.08)], "main")  # fmt: skip
    pen.polygon(arc_points(0, high, width, depth, 0, math.pi), "main")
    if chance(rng, 0.5):
        _band(pen, rng, width * 0.85, high + depth * 0.42)
    pen.ellipse(0, high, width, flat, "second")
    pen.ellipse(0, high + 0.03, width * 0.88, flat * 0.8, "dark")
    content = rng.uniform()
    if content < 0.35:  # fruit
        for x in np.linspace(-0.5, 0.5, int(rng.integers(3, 6))):
            pen.ellipse(x * width, high - rng.uniform(0.02, 0.12), rng.uniform(0.14, 0.22), fill="accent")
    elif content < 0.55:  # rice
        pen.polygon(arc_points(0, high, width * 0.8, 0.3, math.pi, _TURN), "light")
    elif content < 0.75:
        _steam(pen, rng, high)
    if chance(rng, 0.3):  # chopsticks or a spoon
        pen.line([(0.1, high), (0.95, high - rng.uniform(0.3, 0.6))], 0.05, "light")
        if chance(rng, 0.5):
            pen.line([(0.0, high), (0.85, high - 0.6)], 0.05, "light")


def draw_guitar(pen: "Pen", rng: np.random.Generator) -> None:
    upper, lower = rng.uniform(0.24, 0.3), rng.uniform(0.36, 0.46)
    neck = rng.uniform(-0.85, -0.75)
    waist = rng.uniform(0.2, 0.25)
    right = [
        (0.08, -0.14),
        (upper, -0.1),
        (upper, 0.14),
        (waist, 0.28),
        (lower, 0.42),
        (lower, 0.85),
        (0.1, 0.98),
    ]
    pen.blob([*right, *mirrored(right[::-1])], "main")
    pen.ellipse(0, 0.3, rng.uniform(0.11, 0.15), fill="dark")
    if chance(rng, 0.5):
        pen.ring(0, 0.3, 0.18, 0.02, "second")
    pen.polygon([(-0.06, neck), (0.06, neck), (0.07, 0.2), (-0.07, 0.2)], "second")
    for y in np.linspace(neck + 0.1, 0.1, int(rng.integers(0, 9))):
        pen.line([(-0.05, y), (0.05, y)], 0.012, "light")
    pen.polygon([(-0.16, 0.7), (0.16, 0.7), (0.16, 0.76), (-0.16, 0.76)], "dark")
    pen.polygon([(-0.1, neck - 0.2), (0.1, neck - 0.2), (0.07, neck), (-0.07, neck)], "dark")
    _pegs(pen, neck, int(rng.integers(2, 4)))
    _strings(pen, rng, neck, 0.73)
    if chance(rng, 0.35):
        pen.blob([(0.12, 0.36), (0.3, 0.5), (0.26, 0.64), (0.12, 0.52)], "dark")


def _pegs(pen: "Pen", neck: float, count: int) -> None:
    for y in np.linspace(neck - 0.17, neck - 0.03, count):
        for side in (-1, 1):
            pen.line([(side * 0.08, y), (side * 0.17, y)], 0.035, "light")


def _strings(pen: "Pen", rng: np.random.Generator, top: float, bottom: float) -> None:
    if chance(rng, 0.6):
        for x in (-0.035, 0.0, 0.035):
            pen.line([(x, top), (x, bottom)], 0.008, "light")


def draw_violin(pen: "Pen", rng: np.random.Generator) -> None:
    upper, lower = rng.uniform(0.25, 0.32), rng.uniform(0.34, 0.43)
    neck = rng.uniform(-0.85, -0.7)
    if chance(rng, 0.45):  # the bow
        x = rng.uniform(0.45, 0.65)
        pen.line([(x, -0.9), (x + 0.06, 0.0), (x, 0.95)], 0.035, "dark", smooth=True)
        pen.line([(x - 0.04, -0.88), (x - 0.04, 0.93)], 0.012, "light")
    right = [(0.06, -0.2), (upper * 0.9, -0.17), (upper, 0.05), (upper, 0.14)]
    waist = [(0.18, 0.22), (0.17, 0.38), (0.2, 0.46)]
    foot = [(lower, 0.5), (lower, 0.6), (lower * 0.95, 0.88), (0.1, 0.98)]
    right = [*right, *waist, *foot]
    pen.polygon([*right, *mirrored(right[::-1])], "main")
    for side in (-1, 1):  # f-holes
        hole = [
            (side * 0.13, 0.2),
            (side * 0.19, 0.24),
            (side * 0.15, 0.38),
            (side * 0.21, 0.5),
            (side * 0.26, 0.48),
        ]
        pen.line(hole, 0.03, "dark", smooth=True)
    pen.polygon([(-0.045, neck), (0.045, neck), (0.065, 0.25), (-0.065, 0.25)], "dark")
    pen.line([(-0.12, 0.4), (0.12, 0.4)], 0.045, "light")
    pen.polygon([(-0.08, 0.6), (0.08, 0.6), (0.04, 0.92), (-0.04, 0.92)], "dark")
    pen.line(
        [(0, neck), (0.0, neck - 0.15), (0.07, neck - 0.2), (0.06, neck - 0.1)], 0.06, "second", smooth=True
    )
    _pegs(pen, neck, 2)
    _strings(pen, rng, neck, 0.6)
    if chance(rng, 0.5):
        pen.ellipse(-0.22, 0.84, 0.14, 0.1, "dark")


def _ticks(pen: "Pen", count: int, inner: float, outer: float, width: float, fill: str = "ink") -> None:
    for angle in np.arange(count) * _TURN / count:
        cos, sin = math.cos(angle), math.sin(angle)
        pen.line([(inner * cos, inner * sin), (outer * cos, outer * sin)], width, fill)


def _case(pen: "Pen", rng: np.random.Generator) -> float:
    """A round or square case with a dial; what stands out of it; returns the dial's radius."""
    extra = rng.uniform()
    if extra < 0.2:
        pen.ring(0, -0.93, 0.12, 0.04)  # for a chain
    elif extra < 0.4:
        for side in (-1, 1):
            pen.ellipse(side * 0.45, -0.78, 0.26, 0.16, "second", side * 0.6)  # bells
            pen.line([(side * 0.5, 0.7), (side * 0.65, 0.95)], 0.1)
    if extra > 0.8:
        pen.polygon([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)], "main")
    else:
        pen.ellipse(0, 0, 0.87, fill="main")
    pen.ellipse(0, 0, 0.74, fill=str(rng.choice(["light", "second"])))
    return 0.7


def _hand(
    pen: "Pen", angle: float, length: float, width: float, fill: str = "dark", pointed: bool = True
) -> None:
    cos, sin = math.cos(angle), math.sin(angle)
    shape = [(-0.15 * length, -width), (0.7 * length, -width), (length, 0), (0.7 * length, width)]
    shape = [*shape, (-0.15 * length, width)]
    if not pointed:
        shape[2:3] = [(length, -width), (length, width)]
    pen.polygon([(u * cos - v * sin, u * sin + v * cos) for u, v in shape], fill, ink=False)


def draw_clock(pen: "Pen", rng: np.random.Generator) -> None:
    dial = _case(pen, rng)
    style = rng.uniform()
    if style < 0.6:
        _ticks(pen, 12, dial * 0.82, dial * 0.97, 0.045)
    if style > 0.4:
        _ticks(pen, 60 if style > 0.8 else 4, dial * 0.86, dial * 0.97, 0.025)
    hour = rng.uniform(0, 12)
    pointed = chance(rng, 0.5)
    _hand(pen, hour / 12 * _TURN - math.pi / 2, dial * rng.uniform(0.45, 0.6), 0.055, "dark", pointed)
    _hand(pen, hour % 1 * _TURN - math.pi / 2, dial * rng.uniform(0.75, 0.9), 0.035, "dark", pointed)
    if chance(rng, 0.35):
        _hand(pen, rng.uniform(0, _TURN), dial * 0.85, 0.012, "accent")
    pen.ellipse(0, 0, 0.06, fill="dark")


def draw_compass(pen: "Pen", rng: np.random.Generator) -> None:
    dial = _case(pen, rng)
    _ticks(pen, int(rng.choice([4, 8, 12, 36])), dial * 0.85, dial * 0.97, 0.03)
    if chance(rng, 0.6):  # the rose behind the needle
        for start, reach in ((math.pi / 4, 0.42), (0.0, 0.62)):
            for angle in start + np.arange(4) * math.pi / 2:
                _kite(pen, angle, dial * reach, 0.1, "accent", "main")
    if chance(rng, 0.5):  # the letter N
        x, y, half = 0.0, -dial * 0.72, 0.07
        pen.line(
            [(x - half, y + half), (x - half, y - half), (x + half, y + half), (x + half, y - half)], 0.03
        )
    angle = rng.uniform(0, _TURN)
    reach = dial * rng.uniform(0.65, 0.88)
    _kite(pen, angle, reach, 0.12, "dark", "dark")
    _kite(pen, angle + math.pi, reach, 0.12, "accent", "light")
    pen.ellipse(0, 0, 0.06, fill="second")


def _kite(pen: "Pen", angle: float, length: float, width: float, left: str, right: str) -> None:
    """One half of a needle: two triangles in two tones."""
    cos, sin = math.cos(angle), math.sin(angle)
    tip = (length * cos, length * sin)
    for side, fill in ((1, left), (-1, right)):
        pen.polygon([(0, 0), tip, (-side * width * sin, side * width * cos)], fill, ink=False)


def _walls(pen: "Pen", rng: np.random.Generator, eaves: float, left: float, right: float) -> None:
    pen.polygon([(left, eaves), (right, eaves), (right, 0.8), (left, 0.8)], "main")
    if chance(rng, 0.35):  # boards or bricks
        for x in np.linspace(left, right, 9)[1:-1]:
            pen.line([(x, eaves), (x, 0.8)], 0.012, "ink")
    elif chance(rng, 0.3):
        for y in np.linspace(eaves, 0.8, 8)[1:-1]:
            pen.line([(left, y), (right, y)], 0.012, "ink")


def _window(pen: "Pen", x: float, y: float, half: float) -> None:
    pen.polygon(
        [(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)], "light"
    )
    pen.line([(x, y - half), (x, y + half)], 0.025)
    pen.line([(x - half, y), (x + half, y)], 0.025)


def draw_house(pen: "Pen", rng: np.random.Generator) -> None:
    eaves, wide = rng.uniform(-0.2, 0.1), rng.uniform(0.6, 0.85)
    if chance(rng, 0.65):
        x = rng.choice([-1, 1]) * rng.uniform(0.3, 0.5)
        pen.polygon([(x - 0.1, -0.9), (x + 0.1, -0.9), (x + 0.1, -0.1), (x - 0.1, -0.1)], "accent")
    _walls(pen, rng, eaves, -wide, wide)
    peak = rng.uniform(-0.9, -0.65)
    flat = rng.choice([0.0, 0.0, rng.uniform(0.3, 0.6)])  # gable or hipped roof
    pen.polygon([(-wide - 0.12, eaves), (-flat, peak), (flat, peak), (wide + 0.12, eaves)], "second")
    door = rng.uniform(-0.3, 0.3)
    pen.polygon([(door - 0.13, 0.35), (door + 0.13, 0.35), (door + 0.13, 0.8), (door - 0.13, 0.8)], "dark")
    pen.ellipse(door + 0.08, 0.58, 0.025, fill="light")
    for side in (-1, 1):
        x = (door + side * (wide + side * door) / 2 + side * wide / 2) / 1.4
        if abs(x - door) > 0.28:
            _window(pen, x, rng.uniform(0.25, 0.35), rng.uniform(0.1, 0.15))
    if chance(rng, 0.4):
        _window(pen, 0, (peak + eaves) / 2 + 0.08, 0.09)


def draw_barn(pen: "Pen", rng: np.random.Generator) -> None:
    eaves, wide = rng.uniform(-0.15, 0.1), rng.uniform(0.6, 0.8)
    if chance(rng, 0.4):  # silo
        x = rng.choice([-1, 1]) * (wide + 0.1)
        pen.polygon([(x - 0.18, -0.5), (x + 0.18, -0.5), (x + 0.18, 0.8), (x - 0.18, 0.8)], "accent")
        pen.polygon(arc_points(x, -0.5, 0.18, 0.2, math.pi, _TURN), "second")
    _walls(pen, rng, eaves, -wide, wide)
    peak, knee = rng.uniform(-0.92, -0.75), rng.uniform(0.45, 0.6)
    roof = [(-wide - 0.1, eaves), (-knee * wide - 0.12, peak + 0.27), (0, peak)]
    front = str(rng.choice(["main", "second"]))
    pen.polygon([*roof, *mirrored(roof[-2::-1])], front)
    if front == "main":
        pen.line([*roof, *mirrored(roof[-2::-1])], 0.09, "second")
    half, top = rng.uniform(0.28, 0.4), rng.uniform(0.15, 0.3)
    pen.polygon(
        [(-half, top), (half, top), (half, 0.8), (-half, 0.8)], "light" if chance(rng, 0.5) else "second"
    )
    for left, right in ((-half, 0), (0, half)) if chance(rng, 0.7) else ((-half, half),):
        frame = [(left, top), (right, top), (right, 0.8), (left, 0.8), (left, top)]
        pen.line(frame, 0.04)
        if chance(rng, 0.85):
            pen.line([(left, top), (right, 0.8)], 0.04)
            pen.line([(right, top), (left, 0.8)], 0.04)
    if chance(rng, 0.75):
        half = rng.uniform(0.09, 0.15)
        pen.polygon(
            [(-half, eaves - 0.3), (half, eaves - 0.3), (half, eaves - 0.05), (-half, eaves - 0.05)], "dark"
        )
