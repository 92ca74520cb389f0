"""Which classes the models take for which, as a sparse matrix: 5,000 classes have 25 million cells."""

import dataclasses

import numpy as np

from urnet_tf.explain.inputs import ReportInputs

MOST_CELLS = 150_000  # beside the diagonal; those with fewest images are left out


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Images of the given class that the models call the predicted one."""

    given: np.ndarray  # int64 [cells], without the diagonal; most images first
    predicted: np.ndarray  # int64 [cells]
    count: np.ndarray  # int64 [cells]
    wrong: np.ndarray  # float64 [cells], how many of their labels are expected to be wrong
    agreed: np.ndarray  # int64 [C], the diagonal
    left_out: int  # cells

    @property
    def cells(self) -> int:
        return len(self.count)

    def by_wrong(self, limit: int) -> list[int]:
        """Numbers of the cells with most wrong labels."""
        return [int(i) for i in np.argsort(-self.wrong, kind="stable")[:limit]]


def count_confusions(inputs: ReportInputs, most: int = MOST_CELLS) -> Matrix:
    """The matrix of what models that did not see the images call them; empty where there are none."""
    if not inputs.is_weighed:
        none = np.empty(0, np.int64)
        return Matrix(none, none, none, np.empty(0), np.zeros(inputs.num_classes, np.int64), 0)
    agrees = inputs.predicted == inputs.label
    agreed = np.bincount(inputs.label[agrees], minlength=inputs.num_classes)
    cell = inputs.label[~agrees].astype(np.int64) * inputs.num_classes + inputs.predicted[~agrees]
    cells, at, counts = np.unique(cell, return_inverse=True, return_counts=True)
    wrong = np.bincount(at, weights=inputs.wrong_prob[~agrees], minlength=len(cells))
    order = np.lexsort((cells, -counts))[:most]
    given, predicted = np.divmod(cells[order], inputs.num_classes)
    return Matrix(given, predicted, counts[order], wrong[order], agreed, max(len(cells) - most, 0))


def order_classes(matrix: Matrix, size: np.ndarray) -> list[int]:
    """All classes, so that those that are taken for each other stand side by side.

    Pairs are joined by falling share of images that are mixed up, as in single linkage; a joined row is
    turned so that the two classes that join it come near each other.

    Args:
      size: int [C], images of each class.
    """
    low, high = np.minimum(matrix.given, matrix.predicted), np.maximum(matrix.given, matrix.predicted)
    pair, at = np.unique(low * len(size) + high, return_inverse=True)
    mixed = np.bincount(at, weights=matrix.count, minlength=len(pair))
    low, high = np.divmod(pair, len(size))
    share = mixed / np.maximum(size[low] + size[high], 1)
    row_of = list(range(len(size)))
    rows: dict[int, list[int]] = {label: [label] for label in range(len(size))}
    for i in np.lexsort((pair, -share)):
        a, b = int(low[i]), int(high[i])
        if row_of[a] == row_of[b]:
            continue
        first, second = rows.pop(row_of[a]), rows.pop(row_of[b])
        if first.index(a) < len(first) / 2:
            first.reverse()
        if second.index(b) >= len(second) / 2:
            second.reverse()
        # The shorter one is renamed, so that all joins together take C log C.
        name = row_of[a] if len(first) >= len(second) else row_of[b]
        for label in second if name == row_of[a] else first:
            row_of[label] = name
        rows[name] = first + second
    return [
        label for _, row in sorted(rows.items(), key=lambda item: (-len(item[1]), item[0])) for label in row
    ]
