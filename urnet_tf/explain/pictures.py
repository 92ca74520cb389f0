"""Thumbnails of the report, which classes it shows, and what the captions say.

Pictures come from the image store and are decoded and encoded anew, so that no byte of the crawl
reaches the page.
"""

import base64
import concurrent.futures
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from urnet_tf.explain.inputs import BASELINE, URNET, ReportInputs
from urnet_tf.explain.reasons import Judgement, describe_amount, say_why
from urnet_tf.images import picture
from urnet_tf.images.headers import Refused

MAX_PICTURE_BYTES = 3_000_000  # of all data: URIs of the page; later images are shown by captions alone
_SHARPNESS = 1.25  # stored pixels for each pixel of the page
_QUALITY = 74
_MOST_PIXELS = 1 << 26  # of a stored image
_REASONS_SHOWN = (  # of the first class of an order, and of the next ones
    ("most labels that look wrong", "among those with the most labels that look wrong"),
    ("largest class", "among the largest"),
    ("smallest class", "among the smallest"),
    ("biggest gain", "among the biggest gains"),
    ("biggest loss", "among the biggest losses"),
)


class Thumbnails:
    """Thumbnails as `data:` URIs, until `MAX_PICTURE_BYTES` are spent.

    Args:
      limited: False = as many as are asked for.
    """

    def __init__(self, inputs: ReportInputs, thumbnail_px: int, *, limited: bool = True):
        self._read, self._px = inputs.read_images, round(thumbnail_px * _SHARPNESS)
        self._left = MAX_PICTURE_BYTES if limited else None

    def encode(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """A `data:` URI for each id, or "" where the image cannot be shown or the bytes are spent."""
        if (self._left is not None and self._left <= 0) or not len(ids):
            return [""] * len(ids)
        uris = []
        for data in self._read([int(i) for i in ids]):
            uri = encode_thumbnail(data, self._px) if self._left is None or self._left > 0 else ""
            if self._left is not None:
                self._left -= len(uri)
            uris.append(uri)
        return uris

    def encode_many(self, groups: Sequence[Sequence[int]]) -> Iterator[list[str]]:
        """Like `encode` of each group in order, by as many threads as there are cores."""
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from pool.map(self.encode, groups)


def encode_thumbnail(data: bytes, px: int) -> str:
    """A JPEG of long side `px` at most as a `data:` URI; "" where the image is damaged."""
    try:
        pixels = picture.read_picture(data, _MOST_PIXELS, px)
        short, long = sorted(pixels.shape[:2])
        if long > px:
            pixels = picture.reduce_short_side(pixels, max(1, round(short * px / long)))
        data = picture.encode_jpeg(pixels, _QUALITY)
    except Refused:
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def choose_classes(inputs: ReportInputs, limit: int) -> list[tuple[int, str]]:
    """(class, why it is shown): the extremes of each kind in turn, without repeats."""
    size = inputs.size
    there = np.flatnonzero(size >= min(4, size.max()))
    orders = [there[np.argsort(key[there], kind="stable")] for key in (-inputs.wrong_share, -size, size)]
    gain = class_gains(inputs)
    if gain is not None:
        for change in (gain, -gain):
            better = there[change[there] > 0]  # NaN, a class without evaluation images, is not
            orders.append(better[np.argsort(-change[better], kind="stable")])
    chosen: dict[int, str] = {}
    for depth in range(len(there)):
        for order, (first, other) in zip(orders, _REASONS_SHOWN, strict=False):
            if depth < len(order) and len(chosen) < limit and int(order[depth]) not in chosen:
                chosen[int(order[depth])] = other if depth else first
        if len(chosen) >= limit:
            break
    return list(chosen.items())


def class_gains(inputs: ReportInputs) -> np.ndarray | None:
    """Top-1 accuracy of the URNet minus the baseline's, by class: float [C], NaN = no images."""
    if BASELINE not in inputs.per_class or URNET not in inputs.per_class:
        return None
    return np.asarray(inputs.per_class[URNET], float) - np.asarray(inputs.per_class[BASELINE], float)


def build_galleries(
    inputs: ReportInputs, thumbnails: Thumbnails, classes: int, images_per_class: int
) -> list[dict[str, Any]]:
    """For each chosen class the images that counted most and least, with captions."""
    weight, galleries = inputs.weights["sample_weight"], []
    for label, why in choose_classes(inputs, classes):
        start, stop = inputs.bounds[label : label + 2]
        order = start + np.argsort(-weight[start:stop], kind="stable")
        most = order[: min((images_per_class + 1) // 2, (len(order) + 1) // 2)]
        least = order[len(most) :][::-1][: max(images_per_class // 2, 1)]
        galleries.append(
            {
                "label": label,
                "name": inputs.name(label),
                "why": why,
                "size": int(inputs.size[label]),
                "wrong": inputs.wrong_by_class[label],
                "class_weight": class_factor(inputs, label),
                "most": build_cards(inputs, most, thumbnails.encode(most)),
                "least": build_cards(inputs, least, thumbnails.encode(least)),
            }
        )
    return galleries


def class_factor(inputs: ReportInputs, label: int) -> float | None:
    """How many times as much an image counts for the size of its class; None where all classes are alike."""
    if "class_weight" not in inputs.used_factors:
        return None
    return float(inputs.weights["class_weight"][inputs.bounds[label]]) / (inputs.mean_class_weight or 1.0)


def build_cards(
    inputs: ReportInputs, ids: Sequence[int] | np.ndarray, uris: Sequence[str]
) -> list[dict[str, Any]]:
    """One caption an image of one class: weight, factors, reason, what models say, where it came from."""
    if not len(ids):
        return []
    label = int(inputs.label[ids[0]])
    start, stop = inputs.bounds[label : label + 2]
    used = inputs.used_factors
    means = {name: float(inputs.weights[name][start:stop].mean(dtype=float)) for name in used}
    if "class_weight" in means:
        means["class_weight"] = inputs.mean_class_weight
    cards = []
    rows = inputs.read_rows([int(i) for i in ids])
    for i, row, uri in zip(ids, rows, uris, strict=True):
        factors = {name: float(inputs.weights[name][i]) for name in used}
        relative, predicted = float(inputs.relative_weight[i]), int(inputs.predicted[i])
        judgement = Judgement(
            relative, inputs.name(label), inputs.name(predicted), predicted == label, inputs.folds > 1,
            factors, means,
        )  # fmt: skip
        cards.append(
            {
                "id": int(i),
                "uri": uri,
                "relative": relative,
                "amount": describe_amount(relative),
                "why": say_why(judgement),
                "right": float(inputs.right_prob[i]),
                "agrees": predicted == label,
                "predicted": inputs.name(predicted),
                "given": inputs.name(label),
                "source": inputs.source_names[inputs.source[i]],
                "rank": int(inputs.rank[i]),
                **row,
            }
        )
    return cards
