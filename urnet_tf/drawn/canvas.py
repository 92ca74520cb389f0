"""The pen, the backgrounds and the camera of the drawn crawl.

A scene is drawn on a transparent layer in object coordinates (x right, y down, the object inside
of [-1, 1]^2) through a projective pose, then lit, laid over a background that knows nothing of the
class, occluded, and photographed (noise, blur, contrast). All colors come from a random palette,
so color says nothing about what is drawn. Images are float32 [H, W, 3], RGB, 0-255, at
`SUPERSAMPLE` times the final size until `photograph` reduces them.
"""

import colorsys
import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_Points = Sequence[Sequence[float]] | np.ndarray  # [n, 2], x and y

SUPERSAMPLE = 2
_INK_SHARE = 0.012  # width of an outline as a share of the image's short side


def random_color(rng: np.random.Generator, low: float = 0.15, high: float = 1.0) -> tuple[int, int, int]:
    """A color of any hue with its value (brightness) between low and high."""
    red, green, blue = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.05, 0.95), rng.uniform(low, high))
    return round(255 * red), round(255 * green), round(255 * blue)


def _scaled(color: tuple[int, int, int], change: Callable[[int], int]) -> tuple[int, int, int]:
    red, green, blue = map(change, color)
    return red, green, blue


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with that probability."""
    return bool(rng.uniform() < probability)


def mirrored(points: _Points) -> list[tuple[float, float]]:
    """The points on the other side of the vertical axis."""
    return [(-x, y) for x, y in points]


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """Noise without sharp edges: float32 [H, W], about -1 to 1, with `cells` bumps a side."""
    grid = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(grid.resize(size, Image.Resampling.BICUBIC))


def _luminance(color: tuple[int, int, int]) -> float:
    return 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]


def _far_color(
    rng: np.random.Generator, others: list[tuple[int, int, int]], contrast: int
) -> tuple[int, int, int]:
    """A random color that differs in brightness from each of `others`, if one is found soon."""
    best, best_gap = (0, 0, 0), -1.0
    for _ in range(12):
        color = random_color(rng, 0.05)
        gap = min(abs(_luminance(color) - _luminance(other)) for other in others)
        if gap > best_gap:
            best, best_gap = color, gap
        if gap >= contrast:
            break
    return best


def random_palette(rng: np.random.Generator, behind: tuple[int, int, int]) -> dict[str, tuple[int, int, int]]:
    """Colors of the roles main, second, accent, light, dark and ink over a background `behind`.

    One drawing in five is a sketch (one color inside, ink outside) or a silhouette.
    """
    main = _far_color(rng, [behind], 65)
    second = _far_color(rng, [main], 45)
    palette = {
        "main": main,
        "second": second,
        "accent": _far_color(rng, [main, second], 35),
        "light": _scaled(random_color(rng, 0.6), lambda c: round(255 - (255 - c) * 0.25)),
        "dark": _far_color(rng, [main, behind], 50),
        "ink": _scaled(main, lambda c: c // 3) if rng.uniform() < 0.6 else _far_color(rng, [main], 60),
    }
    style = rng.uniform()
    if style < 0.13:  # sketch
        palette.update(second=main, accent=main, light=main, dark=palette["ink"])
    elif style < 0.2:  # silhouette with a few light details
        palette.update(second=main, accent=palette["light"], dark=main, ink=main)
    return palette


def random_pose(
    rng: np.random.Generator, center: Sequence[float], half: float, tilt: float, lean: float = 0.13
) -> np.ndarray:
    """A projective map from object coordinates to pixels: float [3, 3].

    Args:
      center: pixel position of the object's origin.
      half: pixels of one unit of the object.
      tilt: largest rotation in radians.
      lean: size of the random shear, stretch and perspective.
    """
    angle = rng.uniform(-tilt, tilt)
    cos, sin = math.cos(angle), math.sin(angle)
    mirror = 1.0 if rng.uniform() < 0.5 else -1.0
    stretch = math.exp(rng.normal(0, 0.6 * lean))
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    shape = np.array([[mirror * stretch, rng.normal(0, lean), 0], [0, 1 / stretch, 0], [0, 0, 1]])
    perspective = np.eye(3)
    perspective[2, :2] = rng.uniform(-lean, lean, 2)
    place = np.array([[half, 0, center[0]], [0, half, center[1]], [0, 0, 1]])
    return place @ perspective @ rotation @ shape


class Pen:
    """Draws in object coordinates; `fill` arguments name a role of the palette, or None."""

    def __init__(self, size: tuple[int, int], pose: np.ndarray, palette: dict, rng: np.random.Generator):
        self.layer = Image.new("RGBA", size, (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.layer)
        self._pose, self._palette, self._rng = pose, palette, rng
        self._unit = math.sqrt(abs(np.linalg.det(pose[:2, :2])))
        self._ink_px = round(min(size) * _INK_SHARE * rng.choice([0.0, 0.7, 1.0, 1.8]))
        self._wobble = rng.choice([0.0, 0.004, 0.012])

    def color(self, role: str) -> tuple[int, int, int]:
        """The color of a role."""
        return self._palette[role]

    def polygon(
        self,
        points: _Points,
        fill: str | None = "main",
        ink: bool = True,
    ) -> None:
        """A closed shape with straight sides."""
        pixels = self._pixels(points)
        if fill is not None:
            self._draw.polygon(pixels, fill=self._palette[fill])
        if ink and (self._ink_px or fill is None):
            width = max(2, self._ink_px)
            self._draw.line([*pixels, *pixels[:2]], fill=self._palette["ink"], width=width, joint="curve")

    def blob(self, points: _Points, fill: str | None = "main", ink: bool = True) -> None:
        """A closed shape with rounded corners."""
        self.polygon(_rounded(points, closed=True), fill, ink)

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float | None = None,
        fill: str | None = "main",
        angle: float = 0.0,
        ink: bool = True,
    ) -> None:
        """An ellipse turned by `angle` radians; `ry` None = a circle."""
        self.polygon(arc_points(x, y, rx, ry, 0, 2 * math.pi, angle)[:-1], fill, ink)

    def line(
        self,
        points: _Points,
        width: float,
        fill: str = "dark",
        smooth: bool = False,
    ) -> None:
        """A line of `width` object units with round ends."""
        pixels = self._pixels(_rounded(points, closed=False) if smooth else points)
        thickness = max(SUPERSAMPLE, round(width * self._unit))
        self._draw.line(pixels, fill=self._palette[fill], width=thickness, joint="curve")
        if thickness > 3:
            radius = thickness / 2 - 0.5
            for x, y in (pixels[0], pixels[-1]):
                self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), self._palette[fill])

    def ring(self, x: float, y: float, radius: float, width: float, fill: str = "dark") -> None:
        """A circle that is not filled."""
        self.line(arc_points(x, y, radius, None, 0, 2 * math.pi), width, fill)

    def arc(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        start: float,
        stop: float,
        width: float,
        fill: str = "dark",
    ) -> None:
        """A part of an ellipse; angles in radians, clockwise from the right."""
        self.line(arc_points(x, y, rx, ry, start, stop), width, fill)

    def _pixels(self, points: _Points) -> list[tuple[float, float]]:
        points = np.asarray(points, dtype=np.float64)
        if self._wobble:
            points = points + self._rng.normal(0, self._wobble, points.shape)
        x, y, depth = self._pose @ np.vstack([points.T, np.ones(len(points))])
        depth = np.maximum(depth, 0.2)
        return list(zip((x / depth).tolist(), (y / depth).tolist(), strict=True))


def arc_points(
    x: float,
    y: float,
    rx: float,
    ry: float | None,
    start: float,
    stop: float,
    angle: float = 0.0,
    count: int = 28,
) -> np.ndarray:
    """Points on an ellipse arc, both ends included: float [count, 2]."""
    turn = np.linspace(start, stop, count)
    along, across = rx * np.cos(turn), (rx if ry is None else ry) * np.sin(turn)
    cos, sin = math.cos(angle), math.sin(angle)
    return np.stack([x + cos * along - sin * across, y + sin * along + cos * across], axis=1)


def _rounded(points: _Points, closed: bool) -> np.ndarray:
    """Chaikin's corner cutting, three times."""
    points = np.asarray(points, dtype=np.float64)
    for _ in range(3):
        after = np.roll(points, -1, axis=0) if closed else points[1:]
        before = points if closed else points[:-1]
        cut = np.stack([0.75 * before + 0.25 * after, 0.25 * before + 0.75 * after], axis=1).reshape(-1, 2)
        points = cut if closed else np.vstack([points[:1], cut, points[-1:]])
    return points


def draw_background(
    rng: np.random.Generator, size: tuple[int, int]
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """A background, float32 [H, W, 3], and its average color."""
    small = (size[0] // SUPERSAMPLE, size[1] // SUPERSAMPLE)  # it has no edge that needs more
    base, other = (np.array(random_color(rng), np.float32) for _ in range(2))
    mix = np.clip(_pattern(rng, small), 0, 1)[..., None]
    pixels = (base + (other - base) * mix).astype(np.uint8)
    canvas = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
    canvas = _draw_clutter(rng, canvas)
    red, green, blue = map(int, np.asarray(canvas.reduce(8), dtype=np.float32).mean(axis=(0, 1)))
    return np.asarray(canvas, dtype=np.float32), (red, green, blue)


def _pattern(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """The share of the second color: float32 [H, W]."""
    across, down = (np.linspace(-1, 1, n, dtype=np.float32) for n in size)
    down = down[:, None]
    angle = rng.uniform(0, 2 * math.pi)
    along = across * math.cos(angle) + down * math.sin(angle)
    kind = rng.integers(0, 7)
    if kind == 0:  # plain light
        return 0.15 * along
    if kind == 1:
        return 0.5 + 0.5 * along
    if kind == 2:  # clouds, foliage, stone
        return 0.5 + 0.5 * smooth_noise(rng, size, int(rng.integers(3, 24)))
    if kind == 3:  # horizon
        edge = rng.uniform(-0.3, 0.6) + rng.uniform(-0.15, 0.15) * across
        return (down > edge) * np.float32(0.9) + 0.15 * smooth_noise(rng, size, 10)
    if kind == 4:  # stripes, boards
        return 0.5 + 0.4 * np.sin(along * rng.uniform(8, 40)) + 0.1 * smooth_noise(rng, size, 30)
    if kind == 5:  # tiles
        turned = down * math.cos(angle) - across * math.sin(angle)
        period = rng.uniform(3, 9)
        return 0.7 * ((np.floor(along * period) + np.floor(turned * period)) % 2)
    return 0.5 + 0.5 * np.sin(18 * along + 6 * smooth_noise(rng, size, 5))  # wood grain


def _draw_clutter(rng: np.random.Generator, canvas: Image.Image) -> Image.Image:
    """Things that stand around: blobs, bars, circles, scribbles."""
    count = int(rng.choice([0, 3, 8, 16], p=[0.3, 0.35, 0.25, 0.1]))
    draw = ImageDraw.Draw(canvas)
    for _ in range(count):
        _draw_thing(draw, rng, canvas.size, min(canvas.size) * rng.uniform(0.04, 0.2))
    if count and rng.uniform() < 0.5:  # out of focus
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(1, 6)))
    return canvas


def _draw_thing(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, size: tuple[int, int], radius: float
) -> None:
    x, y = rng.uniform(0, size[0]), rng.uniform(0, size[1])
    color = random_color(rng)
    kind = rng.integers(0, 5)
    if kind == 0:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    elif kind == 1:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=color, width=4)
    elif kind == 2:
        turn = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(3, 7)))
        reach = radius * rng.uniform(0.6, 1.6)
        draw.polygon([(x + reach * math.cos(t), y + radius * math.sin(t)) for t in turn], fill=color)
    elif kind == 3:
        steps = np.cumsum(rng.normal(0, radius, (5, 2)), axis=0) + (x, y)
        draw.line(
            [tuple(p) for p in steps.tolist()], fill=color, width=int(rng.integers(2, 8)), joint="curve"
        )
    else:
        angle = rng.uniform(0, math.pi)
        dx, dy = 4 * radius * math.cos(angle), 4 * radius * math.sin(angle)
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=color, width=int(rng.integers(3, 12)))


def lay_over(rng: np.random.Generator, image: np.ndarray, layer: Image.Image) -> np.ndarray:
    """Lights the layer, gives it a material and a shadow, and lays it over a copy of the image."""
    box = layer.getbbox()
    if box is None:
        return image
    reach = 8  # of the shadow
    left, top = max(0, box[0] - reach), max(0, box[1] - reach)
    right, bottom = min(layer.width, box[2] + reach), min(layer.height, box[3] + reach)
    drawn = np.asarray(layer.crop((left, top, right, bottom)), dtype=np.float32)
    cover = drawn[..., 3:] / 255
    image = image.copy()
    below = image[top:bottom, left:right]
    if chance(rng, 0.5):
        shift = tuple(int(s) for s in rng.integers(-reach, reach + 1, 2))
        below = below * (1 - rng.uniform(0.2, 0.6) * np.roll(cover, shift, axis=(0, 1)))
    lit = drawn[..., :3] * _material(rng, (right - left, bottom - top))[..., None]
    image[top:bottom, left:right] = below + (lit - below) * cover
    return image


def _material(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Light and texture of an object: float32 [H, W], about 1."""
    light = 1 + rng.uniform(0, 0.35) * smooth_noise(rng, size, 2)
    kind = rng.integers(0, 5)
    if kind == 1:
        light = light + rng.uniform(0.1, 0.3) * smooth_noise(rng, size, int(rng.integers(8, 40)))
    elif kind == 2:
        across, down = (np.arange(n, dtype=np.float32) for n in size)
        angle, period = rng.uniform(0, math.pi), rng.uniform(3, 12)
        along = across * math.cos(angle) + down[:, None] * math.sin(angle)
        light = light + 0.2 * np.sin(along / period)
    elif kind == 3:
        light = light + np.float32(0.3) * (smooth_noise(rng, size, int(rng.integers(10, 30))) > 0.3)
    return light


def occlude(rng: np.random.Generator, image: np.ndarray, share: float) -> np.ndarray:
    """Hides about `share` of the picture behind leaves, bars or boards."""
    height, width = image.shape[:2]
    canvas = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    color = random_color(rng)
    kind = rng.integers(0, 3)
    if kind == 0:  # a fence
        count = int(rng.integers(3, 8))
        angle = rng.normal(0, 0.3) + (math.pi / 2 if rng.uniform() < 0.4 else 0)
        thick = max(2, round(share * min(width, height) / count))
        reach = width + height
        for i in range(count):
            offset = (i + 0.5) / count * 1.2 - 0.6 + rng.normal(0, 0.02)
            x, y = width * (0.5 + offset * math.cos(angle)), height * (0.5 + offset * math.sin(angle))
            dx, dy = -reach * math.sin(angle), reach * math.cos(angle)
            draw.line((x - dx, y - dy, x + dx, y + dy), fill=color, width=thick)
    elif kind == 1:  # leaves
        for _ in range(6):
            radius = math.sqrt(share * width * height / 6 / 2)
            x, y = rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, 0.9) * height
            leaf = arc_points(x, y, radius * 1.5, radius * 0.6, 0, 2 * math.pi, rng.uniform(0, math.pi))
            shade = tuple(max(0, min(255, c + int(rng.integers(-40, 41)))) for c in color)
            draw.polygon([tuple(p) for p in leaf.tolist()], fill=shade)
    else:  # a board from one side
        depth = share * 1.1
        slant = rng.uniform(-0.2, 0.2)
        board = np.array([(0, 0), (1, 0), (1, depth + slant), (0, depth - slant)])
        if rng.uniform() < 0.5:
            board = board[:, ::-1]
        if rng.uniform() < 0.5:
            board = 1 - board
        draw.polygon([tuple(p) for p in (board * (width, height)).tolist()], fill=color)
    return np.asarray(canvas, dtype=np.float32)


def photograph(
    rng: np.random.Generator, image: np.ndarray, size: tuple[int, int], blur_px: float = 0.0
) -> Image.Image:
    """Reduces to the final size with a camera's faults; a `PIL.Image` in RGB."""
    contrast, brightness = rng.uniform(0.7, 1.15), rng.uniform(-30, 30)
    image = image * contrast + (128 - 128 * contrast + brightness)
    if rng.uniform() < 0.12:  # black and white
        image = np.repeat(image @ np.array([[0.3], [0.59], [0.11]], np.float32), 3, axis=2)
    photo = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    photo = photo.resize(size, Image.Resampling.BOX)
    blur = blur_px + abs(rng.normal(0, 0.5))
    if blur > 0.3:
        photo = photo.filter(ImageFilter.GaussianBlur(blur))
    pixels = np.asarray(photo, dtype=np.float32)
    pixels = pixels + abs(rng.normal(0, 7)) * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
