"""What callers hand in is checked here, once, so that the functions behind trust their input.

Every error says what was expected, what came, and what to do about it.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from urnet_tf.errors import UsageError
from urnet_tf.text_rules import quote

_BLOCK_VALUES = 4_000_000  # probabilities looked at, or features, at a time


def check_labels(labels: Sequence[int] | np.ndarray, num_classes: int | None) -> tuple[np.ndarray, int]:
    """Labels int64 [N] and the number of classes, which is one more than the largest label where it is None.

    Raises:
      UsageError: no labels, texts, one-hot rows, no whole numbers, or a label outside of 0..C-1.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind in "USOT":
        raise UsageError(
            f"Expected labels as whole numbers from 0; received {labels.dtype.name} like "
            f"{quote(labels.ravel()[:1].tolist())}. Number them: "
            "class_names, labels = np.unique(labels, return_inverse=True)."
        )
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise UsageError(
            f"Expected one label an image, [N]; received shape {labels.shape}. For one-hot rows give "
            "labels.argmax(axis=1)."
        )
    if labels.ndim != 1 or not labels.size:
        raise UsageError(f"Expected one label an image, [N]; received shape {labels.shape}.")
    if labels.dtype.kind not in "iu":
        raise UsageError(
            f"Expected labels as whole numbers from 0; received {labels.dtype.name}. Convert them: "
            "labels.astype(int)."
        )
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest < 0:
        raise UsageError(
            f"Expected labels from 0; received {smallest} for {int((labels < 0).sum())} of {labels.size} "
            "images. Leave out images without a label."
        )
    if num_classes is None:
        num_classes = largest + 1
    if smallest == 1 and largest == num_classes:
        raise UsageError(
            f"Expected labels in 0..{num_classes - 1}; received 1..{largest}, which start at 1. "
            "Give labels - 1."
        )
    if largest >= num_classes:
        raise UsageError(
            f"Expected labels in 0..{num_classes - 1} for {num_classes} classes; received {largest}. "
            "Give probabilities and names of all classes, in the order of the labels."
        )
    return labels.astype(np.int64), num_classes


def check_probs(pred_probs: np.ndarray, rows: int) -> np.ndarray:
    """Probabilities float [N, C]; a memory map stays one.

    Raises:
      UsageError: another shape, NaN, logits, logarithms, or rows that are all 0 or do not sum to 1.
    """
    probs = np.asanyarray(pred_probs)
    if probs.ndim != 2 or probs.shape[1] < 2 or probs.dtype.kind != "f":
        raise UsageError(
            f"Expected probabilities float [N, C] of 2 classes or more; received {probs.dtype.name} "
            f"{probs.shape}. Give the softmax of a model that did not see the image."
        )
    check_length("pred_probs", len(probs), rows)
    tolerance = 2e-2 if probs.dtype == np.float16 else 1e-3
    for start, block in blocks_of(probs):
        block = block.astype(np.float64)
        _check_finite("probabilities", start, block)
        if (block.max(axis=1) <= 0).all() and np.allclose(np.exp(block).sum(axis=1), 1.0, atol=tolerance):
            raise UsageError(
                "Expected probabilities; received numbers of 0 and less whose exponentials sum to 1: "
                "logarithms. Give np.exp(pred_probs)."
            )
        outside = (block < 0) | (block > 1 + tolerance)
        if outside.any():
            row = start + int(outside.any(axis=1).argmax())
            raise UsageError(
                f"Expected probabilities from 0 to 1; received {block[outside][0]:.4g} in row {row}: logits, "
                "perhaps. Give their softmax."
            )
        total = block.sum(axis=1)
        if (total == 0).any():
            raise UsageError(
                f"Expected rows of probabilities that sum to 1; received all zeros in row "
                f"{start + int((total == 0).argmax())}. Leave out images without a prediction."
            )
        wrong = np.abs(total - 1) > tolerance
        if wrong.any():
            raise UsageError(
                f"Expected rows of probabilities that sum to 1; received {total[wrong][0]:.4g} in row "
                f"{start + int(wrong.argmax())}. Give a softmax, or rows divided by their sums."
            )
    return probs


def check_features(features: np.ndarray, rows: int) -> np.ndarray:
    """Features float [N, D]; a memory map stays one.

    Raises:
      UsageError: another shape, or a number that is not finite.
    """
    features = np.asanyarray(features)
    if features.ndim != 2 or 0 in features.shape or features.dtype.kind != "f":
        raise UsageError(
            f"Expected features float [N, D], a row an image; received {features.dtype.name} "
            f"{features.shape}."
        )
    check_length("features", len(features), rows)
    for start, block in blocks_of(features):
        _check_finite("features", start, block)
    return features


def check_column(name: str, values: Sequence | np.ndarray, rows: int) -> np.ndarray:
    """A column of anything, [N]."""
    values = np.asarray(values)
    if values.ndim != 1:
        raise UsageError(f"Expected `{name}` [N], one an image; received shape {values.shape}.")
    check_length(name, len(values), rows)
    return values


def check_ranks(ranks: Sequence[int] | np.ndarray, rows: int) -> np.ndarray:
    """Places in the results of a search, int64 [N], from 1."""
    ranks = check_column("ranks", ranks, rows)
    if ranks.dtype.kind not in "iu" or ranks.min() < 1:
        raise UsageError(
            "Expected `ranks` as whole numbers from 1, the first result of a query; received "
            f"{ranks.dtype.name} from {ranks.min()}."
        )
    return ranks.astype(np.int64)


def check_texts(texts: Sequence[str] | Sequence[Sequence[str]], rows: int) -> list[list[str]]:
    """Columns of N texts each; from texts [N], or rows of the same number of texts [N][F]. None is "".

    Raises:
      UsageError: another length, rows of different lengths, or no texts.
    """
    texts = list(texts)
    check_length("texts", len(texts), rows)
    plain = [
        ("" if text is None else text,) if text is None or isinstance(text, str) else text for text in texts
    ]
    widths = {len(row) if isinstance(row, Sequence | np.ndarray) else 0 for row in plain}
    cells = {type(cell) for row in plain for cell in row} if widths and 0 not in widths else {float}
    if len(widths) != 1 or not all(issubclass(kind, str | type(None)) for kind in cells):
        raise UsageError(
            "Expected `texts` as one text an image, or as rows of equally many texts (title, tags ...); "
            f"received {quote(texts[0])}. Give '' where a text is missing."
        )
    return [["" if cell is None else cell for cell in column] for column in zip(*plain, strict=True)]


def check_names(class_names: Sequence[str] | Sequence[Sequence[str]], num_classes: int) -> list[dict]:
    """The classes as stages know them: dictionaries with label, id, name, words, queries.

    Args:
      class_names: a text a class, or several (synonyms, queries).

    Raises:
      UsageError: another number of classes, or a class without a name.
    """
    names = [
        list(name) if isinstance(name, Sequence) and not isinstance(name, str) else [name]
        for name in class_names
    ]
    if (
        len(names) != num_classes
        or not all(names)
        or not all(isinstance(n, str) for row in names for n in row)
    ):
        raise UsageError(
            f"Expected `class_names` with a name, or several, for each of {num_classes} classes, in label "
            f"order; received {len(names)}, like {quote(names[:1])}."
        )
    return [
        {"label": label, "id": row[0], "name": row[0], "words": row, "queries": []}
        for label, row in enumerate(names)
    ]


def check_groups_share_folds(groups: np.ndarray, folds: np.ndarray) -> None:
    """Refuses copies of one picture in several folds: the judge of one would know the label of the other."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    torn = folds != folds[first][group]
    if torn.any():
        row = int(torn.argmax())
        raise UsageError(
            f"Expected copies of one picture in one fold; received group {quote(groups[row])} in the folds "
            f"{folds[first][group][row]} and {folds[row]}. Give a number of `folds` to deal."
        )


def check_share(name: str, value: float | None) -> float | None:
    """A number from 0 to 1, or None."""
    if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
        raise UsageError(f"Expected `{name}` from 0 to 1; received {quote(value)}.")
    return value


def check_length(name: str, count: int, rows: int) -> None:
    """One entry an image."""
    if count != rows:
        raise UsageError(
            f"Expected `{name}` with one row for each of {rows} labels; received {count}. Give both in "
            "one order."
        )


def blocks_of(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first row, rows [n, ...]) until all were there."""
    step = max(1, _BLOCK_VALUES // max(1, values.shape[1]))
    for start in range(0, len(values), step):
        yield start, np.asarray(values[start : start + step])


def _check_finite(what: str, start: int, block: np.ndarray) -> None:
    bad = ~np.isfinite(block).all(axis=1)
    if bad.any():
        raise UsageError(
            f"Expected finite {what}; received NaN or infinity in row {start + int(bad.argmax())}. Compute "
            "them again, in float32 where float16 overflows, or leave these images out."
        )
