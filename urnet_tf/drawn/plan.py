"""Plans a drawn crawl: which picture lies under which label, what it shows and which texts stand with it.

Input: sizes and noise rates. Output: `Picture` rows in the order of the lists, without a pixel.
Class sizes fall geometrically. Noise is spread over the ranks of a query (more at the end) and over
the sources (the first one is the cleanest). Wrong labels inside of the vocabulary are mostly
swaps with the partner of the class. All comes from one generator, in one process.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from urnet_tf.drawn.others import OTHER_KINDS
from urnet_tf.drawn.scenes import SceneClass
from urnet_tf.schema import SPLITS, TEST, TRAIN, UNLABELED, VAL

CLEAN, HOSTILE = "clean", "hostile"
CONFUSED, OUT_OF_VOCABULARY, RANDOM = "confused", "out_of_vocabulary", "random"
AMBIGUOUS, DEGRADED = "ambiguous", "degraded"
NOISE_KINDS = (CONFUSED, OUT_OF_VOCABULARY, RANDOM, AMBIGUOUS, DEGRADED)

_FIRST_SOURCE, _LAST_SOURCE = 0.6, 1.5  # how noisy, relative to each other
_FIRST_RANK, _LAST_RANK = 0.35, 1.8
_PARTNER_SHARE = 0.8  # of the confused; the others go to any class
_IMAGES_PER_COPY = 400  # exact duplicates of each sort: one per so many training images

_PLACES = ("Kyoto", "Lisbon", "the garden", "Alaska", "grandma's", "Nairobi", "the market", "Ghent")
_NAMED = (
    "{name}", "{name} for sale", "My {name} in {place}", "IMG_{name}", "Beautiful {name} at {place}",
    "How to draw a {name}", "{name} | free wallpaper", "{name} - stock photo", "close up of {name}",
    "<b>{name}</b> & more \"{place}\"", "{name}, {context}",
)  # fmt: skip
_UNNAMED = ("{context} in {place}", "{context}", "shades of {context}", "{place}, day {number}")
_CAMERA = ("DSC_{number}", "IMG_{number}", "untitled", "")


@dataclasses.dataclass
class Picture:
    """One file of the crawl."""

    split: str
    label: int  # given
    true_label: int  # -1 = belongs to no class
    kind: str
    drawn_as: tuple[int, int, int]  # (split, label, place): seeds the drawing; equal = equal bytes
    shows: tuple[str, int, str]  # (kind to draw, class to draw or -1, the other class or kind, if any)
    source: str = ""
    query: int = 0  # of the class
    rank: int = 0
    name: str = ""  # eight hexadecimal digits
    title: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    path: str = ""


def class_sizes(images: int, num_classes: int, imbalance: float) -> np.ndarray:
    """Sizes that fall geometrically from the largest to the smallest and add up: int [C]."""
    share = imbalance ** -np.linspace(0, 1, num_classes)
    edges = np.rint(np.cumsum(share) / share.sum() * images).astype(int)
    return np.diff(edges, prepend=0)


def plan_pictures(
    scenes: Sequence[SceneClass], partners: Sequence[int | None], *, images: int, imbalance: float,
    rates: Mapping[str, float], val_per_class: int, test_per_class: int, sources: Sequence[str], seed: int,
) -> list[Picture]:  # fmt: skip
    """Plans all splits.

    Args:
      scenes: the classes in label order.
      partners: label of the class that each one is confused with, or None.
      rates: kind of noise to its share of the training images.

    Returns:
      Training pictures by (source, label, query, rank), then validation and test pictures shuffled.
    """
    rng = np.random.default_rng([seed, 0xC2A])
    sizes = class_sizes(images, len(scenes), imbalance)[rng.permutation(len(scenes))]
    pictures = _training_slots(rng, scenes, sizes, sources)
    _add_noise(rng, pictures, partners, rates, sources)
    _add_copies(rng, pictures)
    names = rng.choice(2**32, len(pictures), replace=False)
    for picture, name in zip(pictures, names.tolist(), strict=True):
        picture.name = f"{name:08x}"
        _describe(rng, picture, scenes)
    order = {source: place for place, source in enumerate(sources)}
    pictures.sort(key=lambda p: (order[p.source], p.label, p.query, p.rank))
    clean = [p for p in pictures if p.kind == CLEAN]
    for split, count in ((VAL, val_per_class), (TEST, test_per_class)):
        more = [_evaluation_picture(split, j, i) for j in range(len(scenes)) for i in range(count)]
        if split == TEST and more:
            for place in rng.choice(len(clean), min(2, len(clean)), replace=False):
                twin = clean[place]  # one picture in training and in test
                more[twin.label * count].drawn_as = twin.drawn_as
        pictures += [more[place] for place in rng.permutation(len(more))]
    return pictures


def _evaluation_picture(split: str, label: int, place: int) -> Picture:
    return Picture(split, label, label, CLEAN, (SPLITS.index(split), label, place), (CLEAN, label, ""))


def _training_slots(
    rng: np.random.Generator, scenes: Sequence[SceneClass], sizes: np.ndarray, sources: Sequence[str]
) -> list[Picture]:
    """Clean pictures with a source, a query and a rank each."""
    pictures = []
    for label, size in enumerate(sizes.tolist()):
        queries = len(scenes[label].queries)
        ranks: dict[tuple, int] = {}
        for place in range(size):
            source = sources[place % len(sources)]
            query = int(rng.integers(0, queries))
            rank = ranks[source, query] = ranks.get((source, query), 0) + 1 + int(rng.uniform() < 0.2)
            key = (SPLITS.index(TRAIN), label, place)
            pictures.append(Picture(TRAIN, label, label, CLEAN, key, (CLEAN, label, ""), source, query, rank))
    return pictures


def _add_noise(
    rng: np.random.Generator,
    pictures: list[Picture],
    partners: Sequence[int | None],
    rates: Mapping[str, float],
    sources: Sequence[str],
) -> None:
    """Turns shares of the pictures into noise, rather late ranks and late sources."""
    last: dict[tuple, int] = {}
    for p in pictures:
        last[p.source, p.label, p.query] = max(p.rank, last.get((p.source, p.label, p.query), 1))
    by_source = dict(zip(sources, np.linspace(_FIRST_SOURCE, _LAST_SOURCE, len(sources)), strict=True))
    depth = np.array([p.rank / last[p.source, p.label, p.query] for p in pictures])
    weight = np.array([by_source[p.source] for p in pictures])
    weight *= _FIRST_RANK + (_LAST_RANK - _FIRST_RANK) * depth
    order = np.argsort(-np.log(weight) - rng.gumbel(size=len(pictures)))  # weighted, without replacement
    counts = [round(rates[kind] * len(pictures)) for kind in NOISE_KINDS]
    chosen = rng.permutation(order[: sum(counts)])
    for place, kind in zip(chosen, np.repeat(NOISE_KINDS, counts), strict=True):
        _spoil(rng, pictures[place], str(kind), partners)


def _spoil(rng: np.random.Generator, picture: Picture, kind: str, partners: Sequence[int | None]) -> None:
    picture.kind = kind
    others = [label for label in range(len(partners)) if label != picture.label]
    another = int(rng.choice(others))
    partner = partners[picture.label]
    if partner is not None and kind != RANDOM and rng.uniform() < _PARTNER_SHARE:
        another = partner
    if kind in (CONFUSED, RANDOM):
        picture.true_label = another
        picture.shows = (CLEAN, another, "")
    elif kind == OUT_OF_VOCABULARY:
        picture.true_label = UNLABELED
        picture.shows = (kind, UNLABELED, str(rng.choice(list(OTHER_KINDS))))
    elif kind == AMBIGUOUS:
        picture.shows = (kind, picture.label, str(another))
    else:
        picture.shows = (kind, picture.label, "")


def _add_copies(rng: np.random.Generator, pictures: list[Picture]) -> None:
    """Lets some wrongly labeled pictures, and some clean ones, be copies of others of their class."""
    count = max(1, len(pictures) // _IMAGES_PER_COPY)
    clean: dict[Any, list[Picture]] = {}
    for p in pictures:
        if p.kind == CLEAN:
            clean.setdefault(p.label, []).append(p)
    wrong = [p for p in pictures if p.kind in (CONFUSED, RANDOM) and p.true_label in clean]
    twice = [group for group in clean.values() if len(group) > 1]
    for place in rng.permutation(len(wrong))[:count]:
        twin = clean[wrong[place].true_label][0]
        wrong[place].drawn_as = twin.drawn_as
    for place in rng.permutation(len(twice))[:count]:
        twice[place][-1].drawn_as = twice[place][0].drawn_as


def _describe(rng: np.random.Generator, picture: Picture, scenes: Sequence[SceneClass]) -> None:
    """Writes title, description and tags: informative, but not to be trusted."""
    given = scenes[picture.label]
    query = given.queries[picture.query]
    if picture.kind == OUT_OF_VOCABULARY:
        other = OTHER_KINDS[picture.shows[2]]
        named, honest = f"{rng.choice(given.words)} {rng.choice(other)}", str(rng.choice(other))
        share, context = 0.45, other
    elif picture.kind in (CONFUSED, RANDOM):
        true = scenes[picture.true_label]
        named, honest = str(rng.choice((query, *given.words))), str(rng.choice((*true.words, *true.queries)))
        share, context = (0.4 if picture.kind == CONFUSED else 0.3), true.context
    elif picture.kind == AMBIGUOUS:
        both = f"{rng.choice(given.words)} and {rng.choice(scenes[int(picture.shows[2])].words)}"
        named, honest, share, context = query, both, 0.5, given.context
    else:
        named, honest = query, str(rng.choice(given.words))
        share, context = 0.5, given.context
    subject = named if rng.uniform() < share else honest
    picture.title = _sentence(rng, subject, context, p_named=0.72)
    picture.description = _sentence(rng, subject, context, p_named=0.5) if rng.uniform() < 0.6 else ""
    tags = [subject] if rng.uniform() < 0.7 else []
    tags += rng.choice(context, min(2, len(context)), replace=False).tolist() if rng.uniform() < 0.7 else []
    picture.tags = tuple(tags)


def _sentence(rng: np.random.Generator, subject: str, context: tuple[str, ...], p_named: float) -> str:
    draw = rng.uniform()
    templates = _NAMED if draw < p_named else _UNNAMED if draw < p_named + 0.15 else _CAMERA
    words = {"name": subject, "context": rng.choice(context), "place": rng.choice(_PLACES)}
    return str(rng.choice(templates)).format(number=int(rng.integers(1000, 10000)), **words)
