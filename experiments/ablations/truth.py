"""The truth about labels: for scoring weights, and for the oracles alone."""

import csv

import numpy as np

from urnet_tf.errors import UsageError


def read_truth(path: str, images: list[str]) -> np.ndarray:
    """Whether the label of each image is right: bool [N].

    Raises:
      UsageError: the file has no such columns or leaves out an image.
    """
    return np.array([given == true for given, true in _read_rows(path, images)])


def read_marks(path: str, images: list[str]) -> np.ndarray:
    """What is known of the label of each image: int8 [N], 1 right, 0 wrong, -1 not known.

    Args:
      path: the truth of all images; or, with a column `eye`, what somebody saw (right,
        wrong or anything else) of some of them.
      images: N paths.

    Raises:
      UsageError: as for `read_truth`.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file)
            if "eye" in (reader.fieldnames or ()):
                seen = {row["path"]: {"right": 1, "wrong": 0}.get(row["eye"], -1) for row in reader}
                return np.array([seen.get(image, -1) for image in images], np.int8)
    except OSError as error:
        raise UsageError(f"Cannot read the truth {path}: {error.strerror}.") from None
    return read_truth(path, images).astype(np.int8)


def read_true_classes(path: str, images: list[str], labels: np.ndarray) -> np.ndarray:
    """The number of the true class of each image, -1 for none of the classes: int64 [N].

    Args:
      path: as for `read_truth`; its names of classes need not be the run's.
      images: N paths.
      labels: int [N], the given classes by the numbers of the run, which tell what the names stand for.

    Raises:
      UsageError: as for `read_truth`, or one name stands for several classes.
    """
    rows, numbers = _read_rows(path, images), {}
    for (given, _), label in zip(rows, labels.tolist(), strict=True):
        if numbers.setdefault(given, label) != label:
            raise UsageError(
                f"Expected the labels of {path} to stand for one class each; {given!r} is given to classes "
                f"{numbers[given]} and {label}. Take the truth of this very crawl."
            )
    return np.array([numbers.get(true, -1) for _, true in rows])


def _read_rows(path: str, images: list[str]) -> list[tuple[str, str]]:
    """(label, true label) of each image."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = {row["path"]: (row["label"], row["true_label"]) for row in csv.DictReader(file)}
        return [rows[image] for image in images]
    except OSError as error:
        raise UsageError(f"Cannot read the truth {path}: {error.strerror}.") from None
    except KeyError as error:
        raise UsageError(
            f"Expected {path} to have path, label and true_label of every training image; {error} is missing."
        ) from None
