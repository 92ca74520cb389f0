"""Pictures of no class of the drawn crawl: what a search engine returns beside the point.

Logos, captchas, pages of text, maps, charts, textures, and objects that are in no vocabulary. Each
kind has the words that its title would carry. Backgrounds, colors and camera are those of the
scenes, so that only what is drawn tells.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import ImageDraw, ImageFont

from urnet_tf.drawn import canvas as drawn_canvas
from urnet_tf.drawn.canvas import SUPERSAMPLE, Pen, arc_points, chance

if TYPE_CHECKING:
    from PIL import Image

_TURN = 2 * math.pi
_LETTERS = np.array(list("ABCDEFGHKLMNPRSTUVWXYZ23456789"))


def draw_other(kind: str, rng: np.random.Generator, size: tuple[int, int]) -> "Image.Image":
    """Draws one of `OTHER_KINDS` as a `PIL.Image` of `size` (width, height)."""
    large = (size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE)
    image, behind = drawn_canvas.draw_background(rng, large)
    if kind != "texture":
        center = [side * (0.5 + rng.uniform(-0.08, 0.08)) for side in large]
        pose = drawn_canvas.random_pose(rng, center, rng.uniform(0.3, 0.55) * min(large), 0.2)
        pen = Pen(large, pose, drawn_canvas.random_palette(rng, behind), rng)
        _DRAW[kind](pen, rng)
        image = drawn_canvas.lay_over(rng, image, pen.layer)
    if chance(rng, 0.2):
        image = drawn_canvas.occlude(rng, image, rng.uniform(0.05, 0.3))
    return drawn_canvas.photograph(rng, image, size)


def _write(pen: Pen, text: str, height_px: int, place: tuple[float, float], fill: str = "ink") -> None:
    """Upright text on the layer, in pixels; the pose has no say."""
    font = ImageFont.load_default(height_px)
    ImageDraw.Draw(pen.layer).text(place, text, font=font, fill=pen.color(fill))


def _word(rng: np.random.Generator, length: int) -> str:
    return "".join(rng.choice(_LETTERS, length))


def _logo(pen: Pen, rng: np.random.Generator) -> None:
    count = int(rng.integers(2, 5))
    for i in range(count):
        angle = i * _TURN / count + rng.uniform(0, 0.5)
        x, y = 0.35 * math.cos(angle), 0.35 * math.sin(angle)
        fill = ("main", "second", "accent")[i % 3]
        kind = rng.integers(0, 3)
        if kind == 0:
            pen.ellipse(x, y, rng.uniform(0.25, 0.5), None, fill)
        elif kind == 1:
            pen.polygon(
                arc_points(x, y, 0.5, None, angle, angle + _TURN, count=int(rng.integers(4, 7))), fill
            )
        else:
            pen.ring(x, y, 0.4, rng.uniform(0.08, 0.2), fill)
    width, height = pen.layer.size
    _write(pen, _word(rng, 5), height // 7, (width * 0.25, height * 0.78), "dark")


def _captcha(pen: Pen, rng: np.random.Generator) -> None:
    width, height = pen.layer.size
    pen.polygon([(-1, -0.5), (1, -0.5), (1, 0.5), (-1, 0.5)], "light")
    for i, letter in enumerate(_word(rng, 5)):
        place = (width * (0.14 + 0.15 * i), height * rng.uniform(0.3, 0.45))
        _write(pen, letter, int(height * rng.uniform(0.18, 0.28)), place, "dark")
    for _ in range(int(rng.integers(2, 6))):
        pen.line(rng.uniform(-0.9, 0.9, (4, 2)) * (1, 0.5), 0.025, "ink", smooth=True)


def _page(pen: Pen, rng: np.random.Generator) -> None:
    width, height = pen.layer.size
    pen.polygon([(-0.8, -1), (0.8, -1), (0.8, 1), (-0.8, 1)], "light")
    size_px = int(height * rng.uniform(0.035, 0.06))
    for i in range(int(rng.integers(5, 12))):
        text = " ".join(_word(rng, int(n)).lower() for n in rng.integers(2, 8, 4))
        _write(pen, text, size_px, (width * 0.2, height * (0.12 + 0.07 * i)), "ink")


def _map(pen: Pen, rng: np.random.Generator) -> None:
    pen.polygon([(-1, -0.9), (1, -0.9), (1, 0.9), (-1, 0.9)], "light")
    for fill in ("main", "second", "accent"):
        angles = np.sort(rng.uniform(0, _TURN, 9))
        reach = rng.uniform(0.25, 0.6, 9)[:, None]
        pen.blob(rng.uniform(-0.4, 0.4, 2) + reach * np.stack([np.cos(angles), np.sin(angles)], 1), fill)
    for _ in range(int(rng.integers(2, 6))):
        pen.line(rng.uniform(-0.95, 0.95, (4, 2)) * (1, 0.9), 0.03, "dark", smooth=True)


def _chart(pen: Pen, rng: np.random.Generator) -> None:
    pen.line([(-0.9, -0.9), (-0.9, 0.9), (0.9, 0.9)], 0.03, "ink")
    places = np.linspace(-0.7, 0.7, int(rng.integers(4, 9)))
    heights = rng.uniform(-0.8, 0.8, len(places))
    if chance(rng, 0.5):
        pen.line(np.stack([places, heights], 1), 0.05, "main")
        return
    for x, y in zip(places, heights, strict=True):
        pen.polygon([(x - 0.08, y), (x + 0.08, y), (x + 0.08, 0.9), (x - 0.08, 0.9)])


def _fish(pen: Pen, rng: np.random.Generator) -> None:
    tail = rng.uniform(0.3, 0.5)
    pen.polygon([(-0.5, 0), (-1, -tail), (-0.85, 0), (-1, tail)], "second")
    pen.blob([(-0.65, 0), (0, -0.55), (0.9, -0.15), (0.9, 0.15), (0, 0.55)])
    pen.blob([(-0.2, -0.4), (0.1, -0.75), (0.4, -0.35)], "second")
    pen.ellipse(0.58, -0.08, 0.08, fill="light")
    for x in np.linspace(-0.3, 0.3, int(rng.integers(0, 5))):
        pen.arc(x, 0, 0.1, 0.25, -1, 1, 0.03, "ink")


def _tree(pen: Pen, rng: np.random.Generator) -> None:
    pen.polygon([(-0.1, 0.2), (0.1, 0.2), (0.14, 1), (-0.14, 1)], "dark")
    if chance(rng, 0.5):
        for y in (0.35, 0.0, -0.35):
            pen.polygon([(-0.65 - 0.3 * y, y), (0.65 + 0.3 * y, y), (0, y - 0.6)])
    else:
        for x, y in ((-0.35, 0.0), (0.35, 0.0), (0.0, -0.4), (0.0, 0.1)):
            pen.ellipse(x, y, 0.45, None, "main", ink=False)


def _lamp(pen: Pen, rng: np.random.Generator) -> None:
    pen.line([(0, 0), (0, 0.9)], 0.07)
    pen.ellipse(0, 0.9, 0.4, 0.1, "second")
    top = rng.uniform(0.15, 0.4)
    pen.polygon([(-0.6, 0.05), (-top, -0.75), (top, -0.75), (0.6, 0.05)])


def _car(pen: Pen, rng: np.random.Generator) -> None:
    roof = rng.uniform(-0.5, -0.3)
    pen.blob([(-0.5, 0.0), (-0.35, roof), (-0.3, roof), (0.3, roof), (0.35, roof), (0.6, 0.0)], "second")
    pen.blob([(-1, 0), (-1, 0), (0.9, -0.05), (1, 0.1), (1, 0.4), (-1, 0.4), (-1, 0.4)])
    for x in (-0.55, 0.55):
        pen.ellipse(x, 0.4, 0.23, fill="dark")
        pen.ellipse(x, 0.4, 0.1, fill="light")
    pen.line([(0, roof), (0, 0.0)], 0.04, "ink")


_DRAW = {
    "logo": _logo, "captcha": _captcha, "page": _page, "map": _map, "chart": _chart,
    "fish": _fish, "tree": _tree, "lamp": _lamp, "car": _car,
}  # fmt: skip

# kind: words of a title that is honest about it
OTHER_KINDS = {
    "logo": ("company logo", "brand emblem", "club badge"),
    "captcha": ("verify you are human", "security code"),
    "page": ("product manual", "page 12", "terms and conditions"),
    "map": ("road map", "how to find us"),
    "chart": ("sales statistics", "price history"),
    "texture": ("seamless texture", "free wallpaper", "background pattern"),
    "fish": ("goldfish", "aquarium fish"),
    "tree": ("oak tree", "winter forest"),
    "lamp": ("table lamp", "bedside light"),
    "car": ("used car", "road trip"),
}
