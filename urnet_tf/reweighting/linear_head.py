"""A fitted linear classifier as one Dense layer, and how features are read to fit it.

Features come as an array or a memory map of float16, float32 or float64 [N, D] and are read in blocks of
rows, so that a file larger than the memory does.

Source: not in the paper.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from urnet_tf.errors import UsageError

BLOCK_ROWS = 4096
# How far the bias of a class without images lies below the others', before a temperature of up to about 30.
ABSENT_NATS = 1000.0


class LinearHead(NamedTuple):
    """logits = features @ kernel + bias, for features as they were given (nothing to normalize).

    kernel: float32 [D, C] (float64 where it was fitted on float64 features).
    bias: [C], likewise.
    """

    kernel: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """The logits of features [n, D]: [n, C] in the kernel's dtype."""
        return np.asarray(features, self.kernel.dtype) @ self.kernel + self.bias

    def scaled(self, temperature: float) -> "LinearHead":
        """The head whose logits are divided by the temperature."""
        return LinearHead(
            (self.kernel / temperature).astype(self.kernel.dtype),
            (self.bias / temperature).astype(self.bias.dtype),
        )


def check_rows(features: np.ndarray, labels: np.ndarray, num_classes: int | None) -> tuple[np.ndarray, int]:
    """The labels as int64 [N] and the number of classes.

    Raises:
      UsageError: features that are not [N, D] with N, D > 0, another number of labels, or a label outside
        of 0..num_classes-1.
    """
    labels = np.asarray(labels)
    if np.ndim(features) != 2 or 0 in features.shape:
        raise UsageError(
            f"Expected features [N, D] of at least one image; received shape {np.shape(features)}. "
            "Give one row an image."
        )
    if labels.shape != (len(features),) or labels.dtype.kind not in "iu":
        raise UsageError(
            f"Expected one whole number as label for each of {len(features)} images; received {labels.dtype} "
            f"{labels.shape}. Give labels in the order of the features."
        )
    known = int(labels.max()) + 1 if num_classes is None else int(num_classes)
    if labels.min() < 0 or labels.max() >= known:
        raise UsageError(
            f"Expected labels in 0..{known - 1}; received {labels.min()}..{labels.max()}. "
            "Leave out images without a label, or raise num_classes."
        )
    return labels.astype(np.int64), known


def check_weight(sample_weight: np.ndarray | None, rows: int) -> np.ndarray:
    """The weights as float64 [N]; ones for None.

    Raises:
      UsageError: another length, a negative or infinite weight, NaN, or nothing but zeros.
    """
    if sample_weight is None:
        return np.ones(rows)
    weight = np.asarray(sample_weight, np.float64)
    if weight.shape != (rows,) or not np.isfinite(weight).all() or (weight < 0).any() or not weight.any():
        raise UsageError(
            f"Expected {rows} finite weights of 0 or more, one above 0; received shape {weight.shape}, "
            f"from {weight.min(initial=0):.3g} to {weight.max(initial=0):.3g}. Give one weight an image."
        )
    return weight


def read_blocks(
    features: np.ndarray,
    rows: np.ndarray | None = None,
    *,
    dtype: type = np.float32,
    block_rows: int = BLOCK_ROWS,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (rows int64 [n], features [n, D] of the dtype), block by block in the order of rows.

    Raises:
      UsageError: a feature is NaN or infinite.
    """
    count = len(features) if rows is None else len(rows)
    for start in range(0, count, block_rows):
        stop = min(count, start + block_rows)
        chosen = np.arange(start, stop) if rows is None else np.asarray(rows[start:stop])
        # A slice of a memory map is read in order; rows of an array are copied one by one.
        block: np.ndarray = np.asarray(features[start:stop] if rows is None else features[chosen], dtype)
        if not np.isfinite(block).all():
            bad = chosen[~np.isfinite(block).all(axis=1)][0]
            raise UsageError(
                f"Expected finite features; received NaN or infinity for image {bad}. "
                "Compute the features again, in float32 where float16 overflows."
            )
        yield chosen, block
