"""Instance weights from what a page says of its image: title, description, tags.

In: vectors of the pages' texts and of the classes' names, and how probable the given label is to
image models that did not see the image. Out: a score a page, and what it tells about the label.

  a_c(i) = max over the texts f of page i and the names m of class c of  cos(f, m)
  s_i    = a_y(i) - max_{c != y} a_c(i)                     the score: own class against the nearest other
  g_i    = p_i / mean of p over the class of i              p_i: out-of-fold probability of the given label
  w_i    = E[g | s_i, source of i], rising in s             isotonic regression, per source, cross-fitted

A search engine returns an image because its page names the query: that a page agrees with its label
says little, that it names another class says more, and how much differs by source. So nothing is
assumed of what a score is worth: g measures it. Where the pages tell nothing, w is the same for
all. Generic words ("IMG_4711") are about as far from all classes, which puts them in the middle;
rows without text get the mean g of such rows.

Source: not in the paper. Isotonic regression: Ayer et al., 1955; for calibration: Zadrozny and Elkan, 2002.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from urnet_tf.reweighting.class_weight import count_labels
from urnet_tf.reweighting.combine import scale_to_class_mean
from urnet_tf.reweighting.isotonic import isotonic_steps

if TYPE_CHECKING:
    from urnet_tf.reweighting.factors import Instances, Recipe

_CHUNK = 1024  # rows scored at a time: [rows, F, M] numbers
_MIN_ROWS = 20  # the fewest in a bin, and in a source that is calibrated by itself ten times that
_MAX_BINS = 200


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


def calibrate_page_score(
    score: np.ndarray,
    labels: np.ndarray,
    sources: np.ndarray,
    given_prob: np.ndarray,
    folds: np.ndarray,
    *,
    num_classes: int,
) -> np.ndarray:
    """What image models think of the label of pages with such a score, relative to its class.

    A row is judged by the rows of the other folds, so its own probability does not come back as
    evidence of its page. A source with few pages is calibrated together with all others.

    Args:
      score: float [N]; NaN for a page without text.
      labels: int [N].
      sources: int [N], the number of the source.
      given_prob: float [N], out-of-fold probability of the given label.
      folds: int [N]; with all equal, a row is judged by itself too.

    Returns:
      float64 [N], about 1 on average.
    """
    labels, folds = np.asarray(labels), np.asarray(folds)
    sizes = np.maximum(count_labels(labels, num_classes), 1)
    mean = np.bincount(labels, weights=given_prob, minlength=num_classes) / sizes
    relative = np.divide(given_prob, mean[labels], out=np.ones(len(labels)), where=mean[labels] > 0)

    with_text = np.isfinite(score)
    expected = np.ones(len(labels))
    for source in np.unique(sources):
        for told in (False, True):
            wanted = (sources == source) & (with_text == told)
            known = wanted if wanted.sum() >= 10 * _MIN_ROWS else with_text == told
            for fold in np.unique(folds[wanted]):
                ask = wanted & (folds == fold)
                learn = known & (folds != fold)
                learn = learn if learn.any() else known
                if told:
                    expected[ask] = _isotonic_means(score[learn], relative[learn], score[ask])
                else:
                    expected[ask] = relative[learn].mean()
    return expected


def compute_page_text_weight(
    expected: np.ndarray, labels: np.ndarray, *, num_classes: int, floor: float = 0.05
) -> np.ndarray:
    """The weight of every instance from its page: float32 [N], mean 1 inside each class.

    Args:
      expected: float [N], see `calibrate_page_score`.
      floor: smallest value, as a share of the class mean.
    """
    return scale_to_class_mean(expected, labels, num_classes=num_classes, floor=floor)


def weigh(instances: "Instances", recipe: "Recipe") -> np.ndarray | None:
    """The row of `factors.FACTORS`: float32 [N], None where no page has text; setting floor."""
    if instances.expected_of_page is None:
        return None
    return compute_page_text_weight(
        instances.expected_of_page, instances.labels, num_classes=instances.num_classes,
        floor=recipe.factors["page_text"]["floor"],
    )  # fmt: skip


def _isotonic_means(score: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The rising step function nearest to the values, at the asked scores.

    Bins of equal counts first: a row alone at an end would otherwise be a step of its own.
    """
    bins = max(1, min(_MAX_BINS, len(score) // _MIN_ROWS))
    edges = np.unique(np.quantile(score, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf"))
    bin_of = np.searchsorted(edges, score)
    counts = np.bincount(bin_of, minlength=len(edges) + 1)
    sums = np.bincount(bin_of, weights=values, minlength=len(edges) + 1)
    return isotonic_steps(sums, counts)[np.searchsorted(edges, asked)]
