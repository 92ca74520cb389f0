"""What the pages of a crawl say of its labels: each text is encoded once and compared with the names.

In: texts, the classes with their names, an encoder. Out: a score a page, see `reweighting.page_text`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from urnet_tf.reweighting.page_text import compute_page_score
from urnet_tf.reweighting.units import OpenUnits, open_in_memory
from urnet_tf.text.sentences import class_names, unique_texts

_TEXTS_A_PART = 4096  # encoded before they are kept


def score_pages(
    columns: Sequence[Iterable[str]],
    classes: Sequence[Mapping],
    labels: np.ndarray,
    encode: Callable[[Sequence[str]], np.ndarray],
    *,
    open_units: OpenUnits = open_in_memory,
    report: Callable[[list[int]], Iterable[int]] = lambda parts: parts,
) -> tuple[np.ndarray, dict]:
    """How much nearer each page is to the names of its given label than to those of any other class.

    Args:
      columns: F columns of N texts each: titles, descriptions, tags; "" where there is none.
      classes: entries with "words" and "queries" (lists of texts), "name" and "id", in label order.
      labels: int [N].
      encode: as `open_sentence_encoder` gives it.
      open_units: keeps the vectors of complete parts.
      report: wraps the loop over parts, for a progress bar.

    Returns:
      float32 [N] from -2 to 2, NaN for a page without text; and the shares of pages that have text, and
      of those that are nearer to another class.
    """
    texts, places = unique_texts(columns)
    if not texts:
        return np.full(len(labels), np.nan, np.float32), {"with_text": 0.0}
    names, name_labels = class_names(classes)
    name_vectors = encode(names)
    shape = (len(texts), name_vectors.shape[1])
    parts = -(-len(texts) // _TEXTS_A_PART)
    vectors, units = open_units("pages", "page_vectors", parts, shape, np.float16)
    for part in report(units.pending()):
        rows = slice(part * _TEXTS_A_PART, (part + 1) * _TEXTS_A_PART)
        vectors[rows] = encode(texts[rows])
        units.complete(part)
    score = compute_page_score(vectors, places, labels, name_vectors, name_labels)
    known = np.isfinite(score)
    nearer = float(np.mean(score[known] < 0)) if known.any() else 0.0
    return score, {"with_text": float(known.mean()), "nearer_to_another_class": nearer}
