"""Which classes and images the report shows, their thumbnails, and what the captions say.

Pictures come from the image store and are decoded and encoded anew, so that no byte of the crawl
reaches the page.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from urnet_tf.explain.summary import BASELINE, URNET, ReportInputs, class_means
from urnet_tf.explain.why import describe_amount, find_reasons
from urnet_tf.reweighting.factors import FACTORS

MAX_PICTURE_BYTES = 3_000_000  # of all data: URIs; later images are shown by their captions alone
_SHARPNESS = 1.5  # stored pixels for each pixel of the page
_REASONS_SHOWN = (  # of the first class of an order, and of the next ones
    ("largest class", "among the largest"),
    ("smallest class", "among the smallest"),
    ("most doubtful images", "among the most doubtful"),
    ("fewest doubtful images", "among the least doubtful"),
    ("biggest gain", "among the biggest gains"),
    ("biggest loss", "among the biggest losses"),
)


class Thumbnails:
    """Thumbnails as `data:` URIs, until `MAX_PICTURE_BYTES` are spent."""

    def __init__(self, inputs: ReportInputs, thumbnail_px: int):
        self._read, self._px = inputs.read_images, round(thumbnail_px * _SHARPNESS)
        self._left = MAX_PICTURE_BYTES

    def encode(self, ids: Sequence[int]) -> list[str]:
        """A `data:` URI for each id, or "" where the image cannot be shown or the budget is spent."""
        if self._left <= 0 or not len(ids):
            return [""] * len(ids)
        uris = []
        for data in self._read([int(i) for i in ids]):
            uri = encode_thumbnail(data, self._px) if self._left > 0 else ""
            self._left -= len(uri)
            uris.append(uri)
        return uris


def encode_thumbnail(data: bytes, px: int) -> str:
    """A JPEG of long side `px` at most as a `data:` URI; "" where the image is damaged."""
    try:
        with Image.open(io.BytesIO(data)) as file:
            file.draft("RGB", (2 * px, 2 * px))
            image: Image.Image = ImageOps.exif_transpose(file)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    image.thumbnail((px, px), Image.Resampling.LANCZOS)
    image.info = {}  # Pillow would copy the comment of the file
    out = io.BytesIO()
    image.save(out, "JPEG", quality=78, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def choose_classes(inputs: ReportInputs, limit: int) -> list[tuple[int, str]]:
    """(class, why it is shown): the extremes of each kind in turn, without repeats."""
    size = np.bincount(inputs.label, minlength=inputs.num_classes)
    share = class_means(inputs.doubtful, inputs.label, inputs.num_classes)
    there = np.flatnonzero(size >= min(4, size.max()))
    orders = [there[np.argsort(key[there], kind="stable")] for key in (-size, size, -share, share)]
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
) -> list[dict]:
    """For each chosen class the images that counted most and least, with captions."""
    size = np.bincount(inputs.label, minlength=inputs.num_classes)
    share = class_means(inputs.doubtful, inputs.label, inputs.num_classes)
    weight, galleries = inputs.weights["sample_weight"], []
    class_weight = inputs.weights["class_weight"]
    usual = float(np.mean(class_weight, dtype=float)) or 1.0
    gains = class_gains(inputs)
    for label, why in choose_classes(inputs, classes):
        start, stop = np.searchsorted(inputs.label, (label, label + 1))
        order = start + np.argsort(-weight[start:stop], kind="stable")
        most = order[: min((images_per_class + 1) // 2, (len(order) + 1) // 2)]
        least = order[len(most) :][::-1][: max(images_per_class // 2, 1)]
        galleries.append(
            {
                "name": inputs.classes[label]["name"],
                "why": why,
                "size": int(size[label]),
                "doubtful": float(share[label]),
                "class_weight": float(class_weight[start]) / usual,
                "gain": None if gains is None or not np.isfinite(gains[label]) else float(gains[label]),
                "most": build_cards(inputs, most, thumbnails),
                "least": build_cards(inputs, least, thumbnails),
            }
        )
    return galleries


def build_cards(inputs: ReportInputs, ids: Sequence[int], thumbnails: Thumbnails) -> list[dict]:
    """One caption an image: weight, factors, reasons, what the models say, and where it came from."""
    if not len(ids):
        return []
    label = int(inputs.label[ids[0]])
    start, stop = np.searchsorted(inputs.label, (label, label + 1))
    used = [f.name for f in FACTORS if f.name in inputs.weights and np.ptp(inputs.weights[f.name]) > 1e-6]
    means = {name: float(inputs.weights[name][start:stop].mean(dtype=float)) for name in used}
    cards = []
    rows = inputs.read_rows([int(i) for i in ids])
    for i, row, uri in zip(ids, rows, thumbnails.encode(ids), strict=True):
        factors = {name: float(inputs.weights[name][i]) for name in used}
        weight = float(inputs.weights["sample_weight"][i])
        shown = {name: value for name, value in factors.items() if name in ("cluster_weight", "confidence")}
        relative = float(inputs.relative_weight[i])
        reasons = find_reasons(relative, shown, means)  # the class and the models are spoken of anyway
        predicted = int(inputs.top_ids[i, 0])
        cards.append(
            {
                "id": int(i),
                "uri": uri,
                "weight": weight,
                "relative": relative,
                "amount": describe_amount(weight, inputs.average_weight),
                "reasons": reasons,
                "factors": list(factors.items()),
                "agrees": predicted == label,
                "predicted": inputs.classes[predicted]["name"],
                "predicted_prob": float(inputs.top_probs[i, 0]),
                "given": inputs.classes[label]["name"],
                "given_prob": float(inputs.given_prob[i]),
                "source": inputs.source_names[inputs.source[i]],
                "rank": int(inputs.rank[i]),
                **row,
            }
        )
    return cards
