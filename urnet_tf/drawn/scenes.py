"""How each class of the drawn crawl looks, and what it is called.

Classes come in pairs that are easily confused: neighbors in `SCENE_CLASSES`. A `draw` function
sets the parts of one object with a `Pen`; which parts, how many and where is random, and some
parts are shared by a pair, so that no single part decides.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from urnet_tf.drawn import canvas as drawn_canvas, living, things, vehicles
from urnet_tf.drawn.canvas import SUPERSAMPLE, Pen

if TYPE_CHECKING:
    from PIL import Image


@dataclasses.dataclass(frozen=True)
class SceneClass:
    """One class: names for people and for queries, words found near it, and its drawing."""

    name: str
    synset: str
    words: tuple[str, ...]  # the name and its synonyms
    queries: tuple[str, ...]
    context: tuple[str, ...]  # words of titles and tags
    draw: Callable[[Pen, np.random.Generator], None]
    tilt: float = 0.3  # largest rotation, radians


def draw_scene(
    scene: SceneClass,
    rng: np.random.Generator,
    size: tuple[int, int],
    degraded: bool = False,
    other: SceneClass | None = None,
) -> "Image.Image":
    """Draws a picture of a class as a `PIL.Image` of `size` (width, height).

    Args:
      scene: the class.
      rng: decides everything that is not the class.
      size: width and height in pixels.
      degraded: a bad representative: tiny, cropped, blurred or mostly hidden.
      other: a second `SceneClass` to show as well, for an ambiguous picture.
    """
    large = (size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE)
    image, behind = drawn_canvas.draw_background(rng, large)
    fault = rng.choice(["tiny", "cropped", "blurred", "hidden"]) if degraded else ""
    if other is not None:
        first = rng.uniform(0.28, 0.36)
        for part, place in ((scene, first), (other, first + 0.38)):
            center = _place(rng, large, place, 0.04)
            image = _draw_object(part, rng, image, behind, center, rng.uniform(0.26, 0.34))
    else:
        if not fault and rng.uniform() < 0.15:  # another one behind
            center = _place(rng, large, rng.choice([0.2, 0.8]), 0.1)
            image = _draw_object(scene, rng, image, behind, center, rng.uniform(0.15, 0.25))
        reach = {"tiny": rng.uniform(0.07, 0.11), "cropped": rng.uniform(1.1, 1.7)}.get(
            fault, rng.uniform(0.33, 0.5)
        )
        spread = {"tiny": 0.25, "cropped": 0.35}.get(fault, 0.04 + 0.5 * (0.5 - reach))
        image = _draw_object(scene, rng, image, behind, _place(rng, large, 0.5, spread), reach)
    hidden = rng.uniform(0.45, 0.65) if fault == "hidden" else rng.uniform(0.05, 0.22)
    if fault == "hidden" or rng.uniform() < 0.25:
        image = drawn_canvas.occlude(rng, image, hidden)
    blur = rng.uniform(0.025, 0.04) * min(size) if fault == "blurred" else 0.0
    return drawn_canvas.photograph(rng, image, size, blur)


def _place(
    rng: np.random.Generator, size: tuple[int, int], across: float, spread: float
) -> tuple[float, float]:
    return size[0] * (across + rng.uniform(-spread, spread)), size[1] * (0.5 + rng.uniform(-spread, spread))


def _draw_object(
    scene: SceneClass,
    rng: np.random.Generator,
    image: np.ndarray,
    behind: tuple[int, int, int],
    center: tuple[float, float],
    reach: float,
) -> np.ndarray:
    """`reach`: half of the object's extent as a share of the short side."""
    size = (image.shape[1], image.shape[0])
    pose = drawn_canvas.random_pose(rng, center, reach * min(size), scene.tilt)
    pen = Pen(size, pose, drawn_canvas.random_palette(rng, behind), rng)
    scene.draw(pen, rng)
    return drawn_canvas.lay_over(rng, image, pen.layer)


def _pair(first: tuple[Any, ...], second: tuple[Any, ...]) -> tuple[SceneClass, SceneClass]:
    return SceneClass(*first), SceneClass(*second)


# Neighbors are confusable pairs. Synset ids are WordNet's.
SCENE_CLASSES: tuple[SceneClass, ...] = (
    *_pair(
        ("bicycle", "n02834778", ("bicycle", "bike", "cycle"),
         ("bicycle", "mountain bike", "vintage bicycle"),
         ("pedals", "cycling", "saddle", "street"), vehicles.draw_bicycle),
        ("motorcycle", "n03790512", ("motorcycle", "motorbike"), ("motorcycle", "racing motorbike"),
         ("engine", "rider", "exhaust", "street"), vehicles.draw_motorcycle),
    ),
    *_pair(
        ("sailboat", "n04128499", ("sailboat", "sailing boat", "yacht"), ("sailboat", "sailing yacht"),
         ("harbour", "sea", "wind", "hull"), vehicles.draw_sailboat),
        ("windsurfer", "n04128710", ("windsurfer", "sailboard", "windsurfing"),
         ("windsurfer", "windsurf board sail"), ("waves", "sea", "wind", "beach"), vehicles.draw_windsurfer),
    ),
    *_pair(
        ("mug", "n03797390", ("mug", "coffee cup", "teacup"), ("mug", "coffee cup", "tea cup with saucer"),
         ("coffee", "breakfast", "handle", "kitchen"), things.draw_mug, 0.2),
        ("bowl", "n02881193", ("bowl", "dish"), ("bowl", "soup bowl", "fruit bowl"),
         ("soup", "kitchen", "rice", "table"), things.draw_bowl, 0.2),
    ),
    *_pair(
        ("cat", "n02121808", ("cat", "kitten", "house cat"), ("cat face", "kitten portrait"),
         ("whiskers", "pet", "purr", "fur"), living.draw_cat),
        ("dog", "n02084071", ("dog", "puppy", "hound"), ("dog face", "puppy portrait"),
         ("leash", "pet", "bark", "fur"), living.draw_dog),
    ),
    *_pair(
        ("daisy", "n11939491", ("daisy", "oxeye daisy", "marguerite"), ("daisy", "daisy flower"),
         ("meadow", "petals", "garden", "spring"), living.draw_daisy),
        ("sunflower", "n11978233", ("sunflower", "helianthus"), ("sunflower", "helianthus bloom"),
         ("seeds", "petals", "garden", "summer"), living.draw_sunflower),
    ),
    *_pair(
        ("guitar", "n03467517", ("guitar", "acoustic guitar"), ("acoustic guitar", "classical guitar"),
         ("strings", "music", "frets", "song"), things.draw_guitar, 1.2),
        ("violin", "n04536866", ("violin", "fiddle"), ("violin", "old fiddle", "violin and bow"),
         ("strings", "music", "orchestra", "bow"), things.draw_violin, 1.2),
    ),
    *_pair(
        ("clock", "n03046257", ("clock", "wall clock", "timepiece"), ("wall clock", "alarm clock"),
         ("time", "hands", "dial", "hour"), things.draw_clock),
        ("compass", "n03706653", ("compass", "magnetic compass"), ("magnetic compass", "compass rose"),
         ("north", "needle", "dial", "hiking"), things.draw_compass),
    ),
    *_pair(
        ("house", "n03544360", ("house", "home", "cottage"), ("house", "family home", "country cottage"),
         ("chimney", "garden", "roof", "village"), things.draw_house, 0.15),
        ("barn", "n02793495", ("barn", "farm building"), ("barn", "old farm barn"),
         ("hay", "silo", "roof", "field"), things.draw_barn, 0.15),
    ),
)  # fmt: skip
