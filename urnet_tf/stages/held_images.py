"""Which held images are measured, and whose labels they have."""

from collections.abc import Collection
from typing import Any

import numpy as np

from urnet_tf.errors import UsageError
from urnet_tf.schema import DRAWN, JUDGED, TEST, UNLABELED, VAL
from urnet_tf.stages.stage import StageContext

# Judged images of the random sample that are measured on instead of labels of the crawl itself: with fewer,
# an accuracy is known to no better than 14 points.
ENOUGH_JUDGED = 50


def describe_labels(context: StageContext, split: str | None) -> dict[str, Any]:
    """Whose the labels are that is measured on, and about how many are wrong where they are the crawl's."""
    labels = _held_labels(context).get(split or "")
    clean = context.marker("reweight")["metadata"].get("clean_rate_estimate")
    drawn = labels == DRAWN and clean is not None
    return {"labels": labels, "wrong_share": 1.0 - clean if drawn else None}


def drawn_splits(context: StageContext) -> list[str]:
    """The splits that were drawn from the crawl, with its labels."""
    return [split for split, whose in _held_labels(context).items() if whose == DRAWN]


def _held_labels(context: StageContext) -> dict[str, str]:
    return context.marker("ingest")["metadata"].get("held_labels", {})


def held_rows(
    splits: np.ndarray, labels: np.ndarray, wanted: str | None, drawn: Collection[str] = ()
) -> tuple[str | None, np.ndarray, np.ndarray]:
    """The split that is measured, its images, and all to predict: those, and all test and judged images."""
    split = choose_split(splits, labels, wanted, drawn)
    ids = np.flatnonzero(splits == split) if split else np.empty(0, np.int64)
    others = [np.flatnonzero((splits == other) & (split != other)) for other in (TEST, JUDGED)]
    return split, ids, np.concatenate([ids, *others])


def choose_split(
    splits: np.ndarray, labels: np.ndarray, wanted: str | None, drawn: Collection[str] = ()
) -> str | None:
    """The split that is measured: the wanted one, else test when it has labels, else val.

    Where that was drawn from the crawl and has its labels, some of them wrong, judged images take its place
    if there are enough.

    Args:
      splits: text [N].
      labels: int [N].
      wanted: by the user.
      drawn: the splits that were drawn.

    Returns:
      "val", "test" or "judged"; test when nothing has a label but there are test images; None when there are
      no held images.

    Raises:
      UsageError: the wanted split has no images.
    """
    if wanted is not None:
        if not (splits == wanted).any():
            raise UsageError(f"evaluate.split is {wanted}, but there is no {wanted} image.")
        return wanted
    known = labels != UNLABELED
    counts = {split: int(((splits == split) & known).sum()) for split in (TEST, VAL, JUDGED)}
    split = next((split for split in (TEST, VAL) if counts[split]), None)
    if counts[JUDGED] >= ENOUGH_JUDGED and (split is None or split in drawn):
        return JUDGED
    if split is None and counts[JUDGED]:
        return JUDGED
    return split or next((split for split in (TEST, VAL) if (splits == split).any()), None)
