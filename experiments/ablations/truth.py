"""The truth about labels: for scoring weights, and for the oracle alone."""

import csv

import numpy as np

from urnet_tf.errors import UsageError


def read_truth(path: str, images: list[str]) -> np.ndarray:
    """Whether the label of each image is right: bool [N].

    Raises:
      UsageError: the file has no such columns or leaves out an image.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            right = {row["path"]: row["label"] == row["true_label"] for row in csv.DictReader(file)}
        return np.array([right[image] for image in images])
    except OSError as error:
        raise UsageError(f"Cannot read the truth {path}: {error.strerror}.") from None
    except KeyError as error:
        raise UsageError(
            f"Expected {path} to have path, label and true_label of every training image; {error} is missing."
        ) from None
