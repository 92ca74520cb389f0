"""What the pages of a crawl say of its labels: their texts are encoded and compared with names or pictures.

In: texts, the classes with their names, an encoder. Out: a score a page, see `reweighting.page_text`; or,
with vectors of the pictures, how well these fit, see `reweighting.page_fit`.

Pages come by class, so that a text that many of them share ("untitled") is among few thousand neighbors: each
different text of a part of the pages is encoded once, and nothing is kept but the scores.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from urnet_tf.reweighting.page_fit import compute_page_fit
from urnet_tf.reweighting.page_text import compute_page_score
from urnet_tf.reweighting.units import OpenUnits, open_in_memory
from urnet_tf.text.sentences import class_names, unique_texts

_PAGES_A_PART = 16_384  # scored before their scores are kept
_TEXTS_AT_ONCE = 4096  # encoded in one call

Columns = Sequence[Sequence[str]] | Callable[[int, int], Sequence[Iterable[str]]]


def score_pages(
    columns: Columns,
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

    def score(rows: slice, texts: list[str], places: np.ndarray) -> np.ndarray:
        nonlocal name_vectors
        name_vectors = encode(names) if name_vectors is None else name_vectors
        vectors = _encode_all(texts, encode, name_vectors.shape[1])
        return compute_page_score(vectors, places, labels[rows], name_vectors, name_labels)

    kept = _by_parts(columns, score, "page_score", len(labels), open_units, report)
    known = np.isfinite(kept)
    if not known.any():
        return kept, {"with_text": 0.0}
    return kept, {
        "with_text": float(known.mean()), "nearer_to_another_class": float(np.mean(kept[known] < 0)),
    }  # fmt: skip


def compare_pages(
    columns: Columns,
    image_vectors: np.ndarray,
    rows: int,
    encode: Callable[[Sequence[str]], np.ndarray],
    *,
    open_units: OpenUnits = open_in_memory,
    report: Callable[[list[int]], Iterable[int]] = lambda parts: parts,
) -> np.ndarray:
    """How well each picture fits the text of its own page: float32 [N] from -1 to 1, NaN without text.

    Args:
      columns: see `score_pages`.
      image_vectors: float [N or more, E], of any length; may be a memory map.
      rows: N.
      encode: n texts → float32 [n, E] in the space of the images, L2-normalized.
      open_units, report: see `score_pages`.
    """

    def compare(some: slice, texts: list[str], places: np.ndarray) -> np.ndarray:
        vectors = _encode_all(texts, encode, image_vectors.shape[1])
        return compute_page_fit(vectors, places, image_vectors[some])

    return _by_parts(columns, compare, "page_fit", rows, open_units, report)


def _by_parts(
    columns: Columns,
    score: Callable[[slice, list[str], np.ndarray], np.ndarray],
    name: str,
    count: int,
    open_units: OpenUnits,
    report: Callable[[list[int]], Iterable[int]],
) -> np.ndarray:
    """What `score` says of the pages' different texts, part by part: float32 [N], NaN without text."""
    parts = -(-count // _PAGES_A_PART)
    kept, units = open_units(f"{name}s", name, parts, (count,), np.float32)
    for part in report(units.pending()):
        start, stop = part * _PAGES_A_PART, min((part + 1) * _PAGES_A_PART, count)
        pages = columns(start, stop) if callable(columns) else [column[start:stop] for column in columns]
        texts, places = unique_texts(pages)
        kept[start:stop] = np.nan
        if texts:
            kept[start:stop] = score(slice(start, stop), texts, places)
        units.complete(part)
    return np.array(kept)


def _encode_all(texts: Sequence[str], encode: Callable, dim: int) -> np.ndarray:
    """float16 [U, T]."""
    vectors = np.empty((len(texts), dim), np.float16)
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        rows = slice(start, start + _TEXTS_AT_ONCE)
        vectors[rows] = encode(texts[rows])
    return vectors
