"""The texts that pages and classes come with, each different one once, ready for an encoder."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np


def unique_texts(columns: Sequence[Iterable[str]]) -> tuple[list[str], np.ndarray]:
    """The different texts of a table, and where each of its cells finds its own.

    Pages repeat each other ("untitled"), and encoding is what costs time.

    Args:
      columns: F columns of N texts each: titles, descriptions, tags.

    Returns:
      Texts in the order of their first use, down the columns, and int32 [N, F] positions among them,
      -1 for a text without any sign but spaces.
    """
    number: dict[str, int] = {}
    places = []
    for column in columns:
        stripped = (text.strip() for text in column)
        places.append([number.setdefault(text, len(number)) if text else -1 for text in stripped])
    return list(number), np.array(places, np.int32).T


def class_names(classes: Sequence[Mapping]) -> tuple[list[str], np.ndarray]:
    """All names of all classes: their words and queries.

    Args:
      classes: entries with "words" and "queries" (lists of texts), "name" and "id", in label order.

    Returns:
      M names and the label of each, int64 [M], rising; every class has at least one.
    """
    names, labels = [], []
    for label, entry in enumerate(classes):
        own = [*entry["words"], *entry["queries"]] or [str(entry["name"] or entry["id"])]
        own = list(dict.fromkeys(own))
        names += own
        labels += [label] * len(own)
    return names, np.array(labels, np.int64)
