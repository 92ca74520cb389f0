"""What stays of a crawl, under which label, and why the rest does not.

In: the images of a run, P(right) of the training images, and what people judged. Out: a row an image. What
people said comes first, whether the run has obeyed it or not; the probability decides on the others.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from urnet_tf.crawl.class_names import plain_name
from urnet_tf.schema import JUDGED, NONE_OF_THESE, RIGHT, STATUS, TEST, TRAIN, UNLABELED, UNSURE

KEPT, RELABELED = "kept", "relabeled"
DOUBTFUL, NONE, COPY = "doubtful", "none_of_these", "copy"
NO_LABEL, NO_TRAINING = "no_label", "no_training"
# What became of an image; the first two stay.
WORDS = {
    KEPT: "kept",
    RELABELED: "kept under the label that people gave it",
    DOUBTFUL: "dropped: its label is probably wrong",
    NONE: "dropped: people judged it to show none of the classes",
    COPY: "dropped: a copy of an image that is kept",
    NO_LABEL: "left out: it has no label",
    NO_TRAINING: "left out: no training image of its class is left",
}
STAYS = (KEPT, RELABELED)


@dataclasses.dataclass(frozen=True)
class Images:
    """What is known of the N images of a run; columns as in instances.parquet and weights.parquet.

    table: of path, content_hash, picture, split, source, rank, query, title, description, tags, width_px,
      height_px.
    labels: int [N], as the run has them, -1 = none.
    given: int [N], as the crawl had them; -1 = none, or a class that is gone.
    right_prob: float [N], NaN where it is not known: of held images, and where nothing is weighed yet.
    predicted: int [N], the class that models predict; -1 = not known.
    judged: bool [N], whether the run has obeyed a judgement about the image.
    classes: the names.
    """

    table: pa.Table
    labels: np.ndarray
    given: np.ndarray
    right_prob: np.ndarray
    predicted: np.ndarray
    judged: np.ndarray
    classes: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Decisions:
    """What becomes of each image.

    fate: object [N], a key of WORDS.
    labels: int [N], the labels under which images stay.
    split: object [N]: train, val or test; judged images of a random sample are test images.
    reason: object [N], a clause, "" for those that stay as they were.
    """

    fate: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    reason: np.ndarray

    @property
    def stays(self) -> np.ndarray:
        """bool [N]."""
        return np.isin(self.fate.astype(str), STAYS)

    def count(self) -> dict[str, int]:
        """Images by what became of them."""
        counts = collections.Counter(self.fate.tolist())
        return {fate: counts[fate] for fate in WORDS if counts[fate]}


def decide(
    images: Images, judgements: pa.Table | None, *, threshold: float | None, deduplicate: bool = False
) -> Decisions:
    """Says what becomes of each image.

    Args:
      judgements: what holds, of CORRECTION_COLUMNS, see `corrections.current`; None = nobody has judged.
      threshold: training images with a smaller P(right) go, unless people judged them; None = none goes.
      deduplicate: of the copies of one picture the most trusted one stays, of these the largest.
    """
    count = len(images.labels)
    splits = images.table["split"].to_numpy(zero_copy_only=False)
    fate, reason = np.full(count, KEPT, object), np.full(count, "", object)
    labels, trusted = images.labels.copy(), images.judged.copy()
    none = (splits == JUDGED) & (labels == UNLABELED)
    told = _truths(images, judgements)
    for row, truth in told.items():
        trusted[row] = True
        none[row] = truth == UNLABELED
        labels[row] = truth
    unlabeled = (labels == UNLABELED) & ~none
    if threshold is not None:
        known = np.where(np.isnan(images.right_prob), 1.0, images.right_prob)
        for row in np.flatnonzero((known < threshold) & ~trusted & ~none & ~unlabeled).tolist():
            fate[row], reason[row] = DOUBTFUL, _doubt(images, row, threshold)
    changed = (labels != images.given) & (images.given != UNLABELED) & trusted & ~none
    fate[changed] = RELABELED
    for row in np.flatnonzero(changed).tolist():
        reason[row] = f"people judged it to be {images.classes[labels[row]]!r}"
    fate[none], reason[none] = NONE, STATUS["judged_none_of_these"]
    fate[unlabeled], reason[unlabeled] = NO_LABEL, "it has no label"
    if deduplicate:
        _drop_copies(images, fate, reason, trusted)
    _drop_untrained(images, fate, reason, labels)
    return Decisions(fate, labels, np.where(splits == JUDGED, TEST, splits).astype(object), reason)


def _truths(images: Images, judgements: pa.Table | None) -> dict[int, int]:
    """The judged label of each row of which somebody is sure; -1 = none of the classes."""
    if judgements is None or not len(judgements):
        return {}
    numbers = {plain_name(name): label for label, name in enumerate(images.classes)}
    said = judgements.to_pylist()
    found: dict[int, int] = {}
    for name in ("path", "content_hash"):  # the bytes have the last word
        column = images.table[name]
        chosen = [n for n, row in enumerate(said) if bool(row["content_hash"]) == (name == "content_hash")]
        known = pa.array([said[n][name] for n in chosen], column.type)
        places = pc.fill_null(pc.index_in(column, value_set=known), -1).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(places >= 0).tolist():
            judgement = said[chosen[places[row]]]
            truth = _truth_of(judgement, numbers, int(images.given[row]))
            if truth is not None and images.given[row] != UNLABELED:
                found[row] = truth
    return found


def _truth_of(judgement: Mapping[str, str], numbers: Mapping[str, int], given: int) -> int | None:
    """The class that a person saw; None where that says nothing here."""
    if judgement["verdict"] == UNSURE:
        return None
    if judgement["verdict"] == NONE_OF_THESE:
        return UNLABELED
    right = judgement["verdict"] == RIGHT
    name = judgement["old_label"] if right else judgement["new_label"]
    if not name:
        return given
    return numbers.get(plain_name(name), None if right else UNLABELED)


def _doubt(images: Images, row: int, threshold: float) -> str:
    text = f"its label is right with a probability of {images.right_prob[row]:.2f}, below {threshold:g}"
    predicted = images.predicted[row]
    if predicted in (UNLABELED, images.labels[row]):
        return text
    return f"{text}; models call it {images.classes[predicted]!r}"


def _drop_untrained(images: Images, fate: np.ndarray, reason: np.ndarray, labels: np.ndarray) -> None:
    """Held images of classes of which nothing is left to train on: no trainer takes such a crawl."""
    stays = np.isin(fate.astype(str), STAYS)
    training = images.table["split"].to_numpy(zero_copy_only=False) == TRAIN
    trained = np.bincount(labels[stays & training], minlength=len(images.classes)) > 0
    gone = stays & ~trained[labels]
    fate[gone], reason[gone] = NO_TRAINING, "no training image of its class is left"


def _drop_copies(images: Images, fate: np.ndarray, reason: np.ndarray, trusted: np.ndarray) -> None:
    """Of each picture one stays."""
    stays = np.flatnonzero(np.isin(fate.astype(str), STAYS))
    pictures = images.table["picture"].to_numpy(zero_copy_only=False)
    paths = images.table["path"].to_numpy(zero_copy_only=False)
    splits = images.table["split"].to_numpy(zero_copy_only=False)
    sides = (images.table[name].to_numpy(zero_copy_only=False) for name in ("width_px", "height_px"))
    pixels = np.prod([side.astype(np.int64) for side in sides], axis=0)
    known = np.nan_to_num(images.right_prob, nan=1.0)
    best: dict[str, int] = {}

    def rank(row: int) -> tuple:
        return splits[row] == TRAIN, not trusted[row], -known[row], -pixels[row], paths[row]

    for row in stays.tolist():
        if pictures[row]:
            first = best.setdefault(pictures[row], row)
            if rank(row) < rank(first):
                best[pictures[row]] = row
    for row in stays.tolist():
        kept = best.get(pictures[row], row)
        if kept != row:
            fate[row], reason[row] = COPY, f"a copy of {paths[kept]}, which is kept"
