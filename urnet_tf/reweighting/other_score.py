"""A column of someone else as evidence: the scores of another tool, of another model, or of a person's rules.

Nothing is assumed of what a score is worth, but that more means more probably right: how much it moves P is
read off the crawl (see `evidence`), and a column with which P does not rise moves nothing. Pictures and score
are taken to be independent given whether the label is right, so what the score knows of the picture should
not be what the models here have seen anyway.

Source: not in the paper.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from urnet_tf.reweighting.factors import Instances, Recipe


def rises_with(score: np.ndarray, right_prob: np.ndarray) -> float:
    """Spearman's correlation of a score and P(right), from -1 to 1; 0 where either is the same everywhere.

    Args:
      score: float [N], NaN where it is not known.
      right_prob: float [N], P(right) without the score.

    >>> rises_with(np.array([1.0, 2.0, np.nan, 3.0]), np.array([0.1, 0.5, 0.4, 0.9]))
    1.0
    """
    from scipy import stats

    known = np.isfinite(score)
    if known.sum() < 2 or np.ptp(score[known]) == 0 or np.ptp(right_prob[known]) == 0:
        return 0.0
    return round(float(stats.spearmanr(score[known], right_prob[known]).statistic), 6)


def weigh(instances: "Instances", recipe: "Recipe") -> np.ndarray | None:
    """The row of `factors.FACTORS`: float32 [N], None where there is no score.

    By how much the score changes P(right), as a factor.
    """
    if instances.other_score is None:
        return None
    return instances.share_of_evidence("other_score", recipe)
