"""Figures of a classifier: top-k accuracy, class by class, calibration, confusion, ranking quality.

In: labels int [N] and the best predictions of each instance, ids int [N, K] and probabilities
float [N, K], best first; never N x C at once. Out: numbers and small tables. A label of -1 is
"unknown" and is left out by `labeled`; the other functions expect labels 0..C-1.

    top-k          mean over instances of [label among the k best]
    balanced top-k mean over classes with images of (mean over the class's instances): the official
                   figure of WebVision, whose classes differ in size
    ECE            sum over confidence bins of (share of instances) * |accuracy - mean confidence|
    AUROC          P(score of a positive > score of a negative) + P(equal) / 2
"""

from typing import Any

import numpy as np

from urnet_tf.errors import UsageError


def top_k(probs: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best classes of each row, best first; equal probabilities go to the smaller class id.

    Args:
      probs: float [N, C], a block of rows.
      k: at least 1; C columns come back where k is larger.

    Returns:
      ids: int32 [N, min(k, C)] and their probabilities: float32 of the same shape.

    Raises:
      UsageError: `probs` has no two axes, or k < 1.
    """
    probs = np.asarray(probs)
    if probs.ndim != 2 or k < 1:
        raise UsageError(f"Expected probs [N, C] and k >= 1; received shape {probs.shape} and k = {k}.")
    ids = _best_ids(probs, k)
    return ids.astype(np.int32), np.take_along_axis(probs, ids, axis=1).astype(np.float32)


def _best_ids(probs: np.ndarray, k: int) -> np.ndarray:
    """The columns of the k largest values of each row, as a stable sort of all columns finds them."""
    if k >= probs.shape[1] or not len(probs):
        return np.argsort(-probs, axis=1, kind="stable")[:, :k]
    ids = np.sort(np.argpartition(-probs, k - 1, axis=1)[:, :k], axis=1)
    best = np.take_along_axis(probs, ids, axis=1)
    # Where values beyond the k best equal the last of them, a partition takes any; NaN counts there, too.
    unclear = (probs >= best.min(axis=1, keepdims=True)).sum(axis=1) != k
    ids = np.take_along_axis(ids, np.argsort(-best, axis=1, kind="stable"), axis=1)
    ids[unclear] = np.argsort(-probs[unclear], axis=1, kind="stable")[:, :k]
    return ids


def labeled(labels: np.ndarray) -> np.ndarray:
    """bool [N]: the instances whose label is known (not negative)."""
    return np.asarray(labels) >= 0


def top_k_hits(labels: np.ndarray, top_ids: np.ndarray, k: int) -> np.ndarray:
    """Whether the label is among the k best predictions.

    Args:
      labels: int [N].
      top_ids: int [N, K], best first. Where k > K all K columns count: K must then be C.
      k: at least 1.

    Returns:
      bool [N].

    Raises:
      UsageError: the shapes do not fit, or k < 1.
    """
    labels, top_ids = np.asarray(labels), np.asarray(top_ids)
    if top_ids.ndim != 2 or labels.shape != top_ids.shape[:1] or k < 1:
        raise UsageError(
            f"Expected labels [N], top_ids [N, K] and k >= 1; received {labels.shape}, {top_ids.shape} "
            f"and k = {k}."
        )
    return (top_ids[:, :k] == labels[:, None]).any(axis=1)


def mean_per_class(values: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Mean of `values` [N] in each class: float64 [C], NaN for a class without instances."""
    values, labels = np.asarray(values), _checked_labels(labels, num_classes)
    count = np.bincount(labels, minlength=num_classes)
    total = np.bincount(labels, weights=values.astype(np.float64), minlength=num_classes)
    return np.divide(total, count, out=np.full(num_classes, np.nan), where=count > 0)


def balanced_mean(values: np.ndarray, labels: np.ndarray, num_classes: int) -> float:
    """Mean over the classes with instances of the class means: NaN when there is no instance.

    With `values` the hits of `top_k_hits` this is WebVision's official accuracy.
    """
    means = mean_per_class(values, labels, num_classes)
    means = means[~np.isnan(means)]
    return float(means.mean()) if means.size else float("nan")


def per_class_table(labels: np.ndarray, top_ids: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """One row a class.

    Returns:
      `label` int32 [C], `n` int64 [C], `top1` and `top5` float64 [C] (NaN where n = 0), and
      `confused_with` int32 [C]: the wrong class most often put first, the smaller id on a tie, -1
      where nothing was wrong.
    """
    labels = _checked_labels(labels, num_classes)
    confused_with = np.full(num_classes, -1, np.int32)
    true, predicted, _ = confusion_counts(labels, np.asarray(top_ids)[:, 0], num_classes)
    for i in np.flatnonzero(true != predicted)[::-1]:  # best last, so it stays
        confused_with[true[i]] = predicted[i]
    return {
        "label": np.arange(num_classes, dtype=np.int32),
        "n": np.bincount(labels, minlength=num_classes),
        "top1": mean_per_class(top_k_hits(labels, top_ids, 1), labels, num_classes),
        "top5": mean_per_class(top_k_hits(labels, top_ids, 5), labels, num_classes),
        "confused_with": confused_with,
    }


def confusion_counts(
    labels: np.ndarray, predicted: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The non-zero cells of the confusion matrix, most frequent first, then by (label, prediction).

    At most N cells, so 5000 classes cost nothing special.

    Returns:
      true label int64 [M], predicted label int64 [M], count int64 [M].
    """
    labels = _checked_labels(labels, num_classes)
    predicted = _checked_labels(predicted, num_classes)
    cells, counts = np.unique(labels.astype(np.int64) * num_classes + predicted, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return cells[order] // num_classes, cells[order] % num_classes, counts[order]


def reliability_curve(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> dict[str, np.ndarray]:
    """Accuracy against confidence of the best prediction, in those bins that hold an instance.

    Bins are ((b-1)/bins, b/bins], of equal width; a confidence of 0 falls into the first.

    Args:
      confidence: float [N], probability of the best prediction, 0..1.
      correct: bool [N], whether that prediction is the label.
      bins: at least 1.

    Returns:
      `confidence`, `accuracy`: float64 [b], means of each bin; `count`: int64 [b].

    Raises:
      UsageError: the shapes do not fit, or bins < 1.
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if confidence.shape != correct.shape or confidence.ndim != 1 or bins < 1:
        raise UsageError(
            f"Expected confidence [N], correct [N] and bins >= 1; received {confidence.shape}, "
            f"{correct.shape} and {bins}."
        )
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    kept = np.flatnonzero(count)
    return {
        "confidence": np.bincount(index, weights=confidence, minlength=bins)[kept] / count[kept],
        "accuracy": np.bincount(index, weights=correct, minlength=bins)[kept] / count[kept],
        "count": count[kept],
    }


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """How far the `reliability_curve` is from the diagonal, 0 = calibrated; NaN without an instance.

    Args:
      confidence, correct, bins: as for `reliability_curve`.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, Eq. 3.
    """
    curve = reliability_curve(confidence, correct, bins)
    if not len(curve["count"]):
        return float("nan")
    return float(np.average(np.abs(curve["accuracy"] - curve["confidence"]), weights=curve["count"]))


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve by ranks (Mann-Whitney), ties counted half.

    Args:
      scores: float [N], finite; higher means "more likely positive".
      positive: bool [N].

    Returns:
      0..1; NaN when all instances are of one kind.
    """
    scores, positive = np.asarray(scores), np.asarray(positive, bool)
    if scores.shape != positive.shape or scores.ndim != 1 or not np.isfinite(scores).all():
        raise UsageError(
            f"Expected finite scores [N] and positive [N]; received {scores.shape} and {positive.shape}."
        )
    num_positive = int(positive.sum())
    num_negative = positive.size - num_positive
    if not num_positive or not num_negative:
        return float("nan")
    _, index, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2  # 1-based, the mean over equal scores
    rank_sum = mean_rank[index][positive].sum()
    return float((rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def accuracy_interval(
    values: np.ndarray, labels: np.ndarray, num_classes: int, *, balanced: bool, difference: bool = False
) -> tuple[float, float]:
    """95 % interval of an accuracy, or of the difference of two models' accuracies on the same images.

    Images are drawn class by class. The variance in a class is that of its images and of two more that are
    like those of all classes; these in turn have two more that say nothing. So a class whose few images are
    all right is not taken for certain, nor are ten images that are all right.

    Args:
      values: [N], hits 0 or 1; or differences of two models' hits, -1, 0 or 1.
      labels: int [N].
      balanced: of the mean over classes with images; else of the mean over images.
      difference: whether values are differences.

    Returns:
      Lower and upper end around the mean; NaN without images.

    Source: after Agresti and Coull, Approximate is better than "exact" for interval estimation, 1998.
    """
    values, labels = np.asarray(values, np.float64), _checked_labels(labels, num_classes)
    count = np.bincount(labels, minlength=num_classes)
    there = count > 0
    if not there.any():
        return float("nan"), float("nan")
    usual = (values.sum() + (not difference)) / (len(values) + 2)
    usual_square = (np.square(values).sum() + 1) / (len(values) + 2)
    first = (np.bincount(labels, values, num_classes) + 2 * usual) / (count + 2)
    second = (np.bincount(labels, np.square(values), num_classes) + 2 * usual_square) / (count + 2)
    variance = (second - np.square(first))[there] / count[there]
    share = np.full(there.sum(), 1.0 / there.sum()) if balanced else count[there] / count.sum()
    mean = balanced_mean(values, labels, num_classes) if balanced else float(values.mean())
    error = 1.96 * float(np.sqrt((np.square(share) * variance).sum()))
    return max(mean - error, -1.0 if difference else 0.0), min(mean + error, 1.0)


def share_interval(count: int, total: int) -> tuple[float, float, float]:
    """A share of so many, and its 95 % interval (Wilson, 1927).

    >>> [round(value, 3) for value in share_interval(3, 10)]
    [0.3, 0.108, 0.603]
    """
    from scipy import stats

    interval = stats.binomtest(count, total).proportion_ci(method="wilson")
    return count / total, float(interval.low), float(interval.high)


def summarize(
    labels: np.ndarray, top_ids: np.ndarray, top_probs: np.ndarray, num_classes: int, ece_bins: int = 15
) -> dict[str, Any]:
    """The figures of one model on the labeled instances: shares from 0 to 1.

    Returns:
      `top1`, `top5`, `balanced_top1`, `balanced_top5`, `ece`, `n`, and `intervals`: name of an accuracy → its
      95 % interval (see `accuracy_interval`).
    """
    keep = labeled(labels)
    labels, top_ids, top_probs = (np.asarray(a)[keep] for a in (labels, top_ids, top_probs))
    top1, top5 = top_k_hits(labels, top_ids, 1), top_k_hits(labels, top_ids, 5)
    intervals = {
        f"{'balanced_' if balanced else ''}{name}": accuracy_interval(
            hits, labels, num_classes, balanced=balanced
        )
        for name, hits in (("top1", top1), ("top5", top5))
        for balanced in (False, True)
    }
    return {
        "intervals": intervals,
        "top1": float(top1.mean()) if labels.size else float("nan"),
        "top5": float(top5.mean()) if labels.size else float("nan"),
        "balanced_top1": balanced_mean(top1, labels, num_classes),
        "balanced_top5": balanced_mean(top5, labels, num_classes),
        "ece": expected_calibration_error(top_probs[:, 0], top1, ece_bins),
        "n": int(labels.size),
    }


def summarize_change(
    labels: np.ndarray, before_ids: np.ndarray, after_ids: np.ndarray, num_classes: int
) -> dict[str, tuple[float, float, float]]:
    """By how much a second model is right more often on the same images, and the 95 % interval of that.

    Args:
      labels: int [N], all known.
      before_ids, after_ids: int [N, K], best first.

    Returns:
      name of an accuracy of `summarize` → (difference, lower end, upper end).
    """
    found = {}
    for name, k in (("top1", 1), ("top5", 5)):
        hits = top_k_hits(labels, after_ids, k).astype(float) - top_k_hits(labels, before_ids, k)
        for prefix, balanced in (("", False), ("balanced_", True)):
            mean = balanced_mean(hits, labels, num_classes) if balanced else float(hits.mean())
            interval = accuracy_interval(hits, labels, num_classes, balanced=balanced, difference=True)
            found[prefix + name] = (mean, *interval)
    return found


def _checked_labels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or (labels.size and not (labels.min() >= 0 and labels.max() < num_classes)):
        raise UsageError(
            f"Expected labels [N] from 0 to {num_classes - 1}; received shape {labels.shape}, "
            f"values {labels.min(initial=0)} to {labels.max(initial=0)}."
        )
    return labels
