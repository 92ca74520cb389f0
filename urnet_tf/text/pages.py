"""What the pages of a crawl say of its labels: their texts are encoded and compared with the names.

In: texts, the classes with their names, an encoder. Out: a score a page, see `reweighting.page_text`.

Pages come by class, so that a text that many of them share ("untitled") is among few thousand neighbors: each
different text of a part of the pages is encoded once, and nothing is kept but the scores.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from urnet_tf.reweighting.page_text import compute_page_score
from urnet_tf.reweighting.units import OpenUnits, open_in_memory
from urnet_tf.text.sentences import class_names, unique_texts

_PAGES_A_PART = 16_384  # scored before their scores are kept
_TEXTS_AT_ONCE = 4096  # encoded in one call


def score_pages(
    columns: Sequence[Sequence[str]] | Callable[[int, int], Sequence[Iterable[str]]],
    classes: Sequence[Mapping],
    labels: np.ndarray,
    encode: Callable[[Sequence[str]], np.ndarray],
    *,
    open_units: OpenUnits = open_in_memory,
    report: Callable[[list[int]], Iterable[int]] = lambda parts: parts,
) -> tuple[np.ndarray, dict]:
    """How much nearer each page is to the names of its given label than to those of any other class.

    Args:
      columns: F columns of N texts each: titles, descriptions, tags; "" where there is none. Or a function
        that gives their rows from one to before another, called in order.
      classes: entries with "words" and "queries" (lists of texts), "name" and "id", in label order.
      labels: int [N].
      encode: as `open_sentence_encoder` gives it.
      open_units: keeps the scores of complete parts.
      report: wraps the loop over parts, for a progress bar.

    Returns:
      float32 [N] from -2 to 2, NaN for a page without text; and the shares of pages that have text, and
      of those that are nearer to another class.
    """
    names, name_labels = class_names(classes)
    name_vectors: np.ndarray | None = None
    kept, units = open_units(
        "page_scores", "page_score", -(-len(labels) // _PAGES_A_PART), (len(labels),), np.float32
    )
    for part in report(units.pending()):
        start, stop = part * _PAGES_A_PART, min((part + 1) * _PAGES_A_PART, len(labels))
        pages = columns(start, stop) if callable(columns) else [column[start:stop] for column in columns]
        texts, places = unique_texts(pages)
        kept[start:stop] = np.nan
        if texts:
            name_vectors = encode(names) if name_vectors is None else name_vectors
            vectors = _encode_all(texts, encode, name_vectors.shape[1])
            kept[start:stop] = compute_page_score(
                vectors, places, labels[start:stop], name_vectors, name_labels
            )
        units.complete(part)
    score = np.array(kept)
    known = np.isfinite(score)
    if not known.any():
        return score, {"with_text": 0.0}
    return score, {
        "with_text": float(known.mean()), "nearer_to_another_class": float(np.mean(score[known] < 0)),
    }  # fmt: skip


def _encode_all(texts: Sequence[str], encode: Callable, dim: int) -> np.ndarray:
    """float16 [U, T]."""
    vectors = np.empty((len(texts), dim), np.float16)
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        rows = slice(start, start + _TEXTS_AT_ONCE)
        vectors[rows] = encode(texts[rows])
    return vectors
