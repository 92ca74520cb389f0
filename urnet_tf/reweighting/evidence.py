"""How a column moves the probability that a label is right, as far as the crawl itself shows that it does.

In: P_i from the pictures (see `label_posterior`), a column and groups of images. Out: P_i with the column.

  m(s)  = E[P | s, group of i]                    rising in s: isotonic regression, from the other folds
  P'_i  = sigmoid(logit P_i + logit m(s_i) - logit m_0)

m_0 is the mean of P, over the group of i or over all images. Where P does not rise with the column, m is flat
and P' = P; how much an image moves is read off the crawl and never assumed. Picture and column are taken to
be independent given whether the label is right, so columns made of the pictures do not belong here.

Source: not in the paper. Isotonic regression: Ayer et al., 1955; for calibration: Zadrozny and Elkan, 2002.
"""

import numpy as np

from urnet_tf.reweighting.isotonic import isotonic_steps

_MIN_ROWS = 20  # the fewest in a bin where there are ten times as many
_FEWEST_ROWS = 5  # in a bin of very few
_OWN_ROWS = 200  # of a group that is calibrated by itself
_MAX_BINS = 200
_CERTAIN = 1e-3  # no column is surer than this
_ZERO = 1e-6  # nothing is so sure that no column could move it


def update_right_prob(
    right_prob: np.ndarray,
    column: np.ndarray,
    groups: np.ndarray,
    folds: np.ndarray,
    *,
    relative_to_group: bool,
) -> np.ndarray:
    """P(right) when the column is known, too: float64 [N].

    What an image's column is worth is learned from the images of the other folds, so its own probability
    does not come back as evidence. A group with few images is calibrated together with all others.

    Args:
      right_prob: float [N], P(right) without the column.
      column: float [N], more = more probably right; NaN = not known, which moves nothing in the group.
      groups: int [N], like the number of the source; each has a function m of its own.
      folds: int [N]; with all equal, an image is judged by itself too.
      relative_to_group: compare with the mean of the image's own group; else with the mean of all images, so
        that groups which are more often right move up.
    """
    right_prob, folds = np.asarray(right_prob, np.float64), np.asarray(folds)
    known = np.isfinite(column)
    odds = _logit(right_prob, _ZERO)
    for group in np.unique(groups):
        for told in (True, False):
            mine = (groups == group) & (known == told)
            like = mine if mine.sum() >= _OWN_ROWS else known == told
            for fold in np.unique(folds[mine]):
                asked = mine & (folds == fold)
                learn, everyone = _others(like, folds, fold), _others(np.ones_like(like), folds, fold)
                mean = right_prob[learn].mean()
                expected = _isotonic_means(column[learn], right_prob[learn], column[asked]) if told else mean
                odds[asked] += _logit(expected) - _logit(
                    mean if relative_to_group else right_prob[everyone].mean()
                )
    return 1.0 / (1.0 + np.exp(-odds))


def _others(rows: np.ndarray, folds: np.ndarray, fold: int) -> np.ndarray:
    others = rows & (folds != fold)
    return others if others.any() else rows


def _logit(prob: np.ndarray, nearest: float = _CERTAIN) -> np.ndarray:
    prob = np.clip(prob, nearest, 1.0 - nearest)
    return np.log(prob) - np.log1p(-prob)


def _isotonic_means(column: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The rising step function nearest to the values, at the asked places of the column.

    Bins of equal counts first: a row alone at an end would otherwise be a step of its own.
    """
    rows = min(max(len(column) // 10, _FEWEST_ROWS), _MIN_ROWS)
    bins = max(1, min(_MAX_BINS, len(column) // rows))
    edges = np.unique(np.quantile(column, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf"))
    bin_of = np.searchsorted(edges, column)
    counts = np.bincount(bin_of, minlength=len(edges) + 1)
    sums = np.bincount(bin_of, weights=values, minlength=len(edges) + 1)
    return isotonic_steps(sums, counts)[np.searchsorted(edges, asked)]
