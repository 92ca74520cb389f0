"""What a page says of its image's label: title, description, tags.

In: vectors of the pages' texts and of the classes' names. Out: a score a page, and what it tells.

  a_c(i) = max over the texts f of page i and the names m of class c of  cos(f, m)
  s_i    = a_y(i) - max_{c != y} a_c(i)                     the score: own class against the nearest other

A search engine returns an image because its page names the query: that a page agrees with its label
says little, that it names another class says more, and how much differs by source. So nothing is
assumed of what a score is worth: `evidence` reads it off the crawl, by source. Generic words
("IMG_4711") are about as far from all classes, which puts them in the middle; pages without text say
nothing.

Source: not in the paper.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from urnet_tf.reweighting.factors import Instances, Recipe

_CHUNK = 1024  # rows scored at a time: [rows, F, M] numbers


def compute_page_score(
    text_vectors: np.ndarray,
    texts: np.ndarray,
    labels: np.ndarray,
    name_vectors: np.ndarray,
    name_labels: np.ndarray,
    *,
    report: Callable[[range], Iterable[int]] = lambda chunks: chunks,
) -> np.ndarray:
    """How much nearer each page is to the names of its given label than to those of any other class.

    Args:
      text_vectors: float [U, T], L2-normalized, may be a memory map; rows of zeros say nothing.
      texts: int [N, F], the texts of each page as rows of `text_vectors`; -1 = none.
      labels: int [N].
      name_vectors: float32 [M, T], L2-normalized.
      name_labels: int [M], rising; every class has a name.
      report: wraps the loop over chunks, for a progress bar.

    Returns:
      float32 [N] from -2 to 2; NaN for a page without text.

    Raises:
      ValueError: fewer than two classes, or names that are not sorted by class.
    """
    labels = np.asarray(labels)
    starts = np.flatnonzero(np.diff(name_labels, prepend=-1))
    num_classes = len(starts)
    if num_classes < 2 or not np.array_equal(np.asarray(name_labels)[starts], np.arange(num_classes)):
        raise ValueError("Expected names of two or more classes, by class, none left out.")
    score = np.full(len(labels), np.nan, np.float32)
    for start in report(range(0, len(labels), _CHUNK)):
        rows = slice(start, start + _CHUNK)
        used, place = np.unique(texts[rows], return_inverse=True)
        place = place.reshape(np.shape(texts[rows]))
        vectors = np.asarray(text_vectors[np.maximum(used, 0)], np.float32)
        near = np.maximum.reduceat(vectors @ name_vectors.T, starts, axis=1)
        near[(used < 0) | ~vectors.any(axis=1)] = -np.inf
        near = near[place].max(axis=1)
        each = np.arange(len(near))
        own = near[each, labels[rows]]  # a copy
        near[each, labels[rows]] = -np.inf
        told = np.isfinite(own)
        score[start + each[told]] = own[told] - near[told].max(axis=1)
    return score


def weigh(instances: "Instances", recipe: "Recipe") -> np.ndarray | None:
    """The row of `factors.FACTORS`: float32 [N], None where no page has text.

    By how much the page changes P(right), as a factor.
    """
    if instances.page_score is None:
        return None
    return instances.share_of_evidence("page_text", recipe)
