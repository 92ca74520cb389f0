"""Weights, sums and second moments of features by fold and class, from one pass over them.

They are all that linear discriminant analysis needs, for any fold left out: its own are subtracted.

Source: not in the paper.
"""

import dataclasses

import numpy as np

from urnet_tf.errors import UsageError
from urnet_tf.reweighting.linear_head import BLOCK_ROWS, check_rows, check_weight, read_blocks


@dataclasses.dataclass(frozen=True)
class ClassMoments:
    """What is known of the images of each fold, all in float64.

    origin: [D], from which features are measured; near their mean, so that little is cancelled.
    weight: [F, C], sum of the weights of a fold's images of a class.
    sums: [F, C, D], weighted sum of their features.
    second: [F, D, D], weighted sum of the outer products of a fold's images.
    """

    origin: np.ndarray
    weight: np.ndarray
    sums: np.ndarray
    second: np.ndarray

    @property
    def num_folds(self) -> int:
        return len(self.weight)

    def without(self, fold: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weight [C], sums [C, D] and second moments [D, D] of all images, or of all but one fold's.

        Raises:
          UsageError: nothing is left.
        """
        weight, sums, second = (
            part.sum(axis=0) if fold is None else part.sum(axis=0) - part[fold]
            for part in (self.weight, self.sums, self.second)
        )
        others = self.weight if fold is None else np.delete(self.weight, fold, axis=0)
        absent = ~others.any(axis=0)  # exactly, where the subtraction leaves a rounding error
        if absent.all():
            raise UsageError(
                f"Expected images outside of fold {fold} to fit on; received none. Use at least two folds."
            )
        weight[absent], sums[absent] = 0.0, 0.0
        return weight, sums, second

    def mean_and_covariance(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean [D] of all images and their covariance [D, D] about it."""
        weight, sums, second = self.without(None)
        middle = sums.sum(axis=0) / weight.sum()
        return self.origin + middle, second / weight.sum() - np.outer(middle, middle)


def sum_moments(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int | None = None,
    folds: np.ndarray | None = None,
    sample_weight: np.ndarray | None = None,
    block_rows: int = BLOCK_ROWS,
) -> ClassMoments:
    """Sums weights, features and their products by fold and class, in one pass over the features.

    Args:
      features: float16, float32 or float64 [N, D]; a memory map is read block by block.
      labels: int [N].
      num_classes: None = the largest label + 1.
      folds: int [N] from 0; None = one fold.
      sample_weight: float [N], 0 or more; None = ones.
      block_rows: images read at once; the result differs by rounding only.

    Raises:
      UsageError: arguments that do not fit each other; NaN or infinity among features or weights.
    """
    labels, num_classes = check_rows(features, labels, num_classes)
    weight = check_weight(sample_weight, len(labels))
    folds = check_folds(folds, len(labels))
    dim, num_folds = features.shape[1], int(folds.max()) + 1
    some = np.linspace(0, len(labels) - 1, min(len(labels), 1024)).astype(np.int64)
    origin = next(read_blocks(features, some, dtype=np.float64))[1].mean(axis=0)
    moments = ClassMoments(
        origin,
        np.zeros((num_folds, num_classes)),
        np.zeros((num_folds, num_classes, dim)),
        np.zeros((num_folds, dim, dim)),
    )
    for rows, block in read_blocks(features, dtype=np.float64, block_rows=block_rows):
        for fold in np.unique(folds[rows]):
            here = folds[rows] == fold
            values, classes, amount = block[here] - origin, labels[rows[here]], weight[rows[here]]
            moments.weight[fold] += np.bincount(classes, weights=amount, minlength=num_classes)
            _add_by_class(moments.sums[fold], values, classes, amount)
            values *= np.sqrt(amount)[:, None]
            moments.second[fold] += values.T @ values
    return moments


def deal_folds(labels: np.ndarray, num_folds: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Deals the images of each class in turn to folds, in their order: int64 [N], the same every time.

    Neighbors fall into different folds.

    Args:
      labels: int [N].
      groups: [N], equal for copies of one picture, which then all take the fold of the first of them; None =
        no picture occurs twice.
    """
    labels = np.asarray(labels)
    order = np.argsort(labels, kind="stable")
    place = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    folds = np.empty(len(labels), np.int64)
    folds[order] = (place + labels[order]) % num_folds  # small classes do not all begin with fold 0
    if groups is None:
        return folds
    _, first, group = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    return folds[first][group]


def check_folds(folds: np.ndarray | None, rows: int) -> np.ndarray:
    """The folds as int64 [N]; zeros for None.

    Raises:
      UsageError: another length, no whole numbers, or a negative one.
    """
    if folds is None:
        return np.zeros(rows, np.int64)
    folds = np.asarray(folds)
    if folds.shape != (rows,) or folds.dtype.kind not in "iu" or folds.min() < 0:
        raise UsageError(
            f"Expected one fold, a whole number from 0, for each of {rows} images; received {folds.dtype} "
            f"{folds.shape}. Give `folds` in the order of the features."
        )
    return folds.astype(np.int64)


def _add_by_class(sums: np.ndarray, values: np.ndarray, classes: np.ndarray, amount: np.ndarray) -> None:
    order = np.argsort(classes, kind="stable")
    present, starts = np.unique(classes[order], return_index=True)
    sums[present] += np.add.reduceat(values[order] * amount[order, None], starts, axis=0)
