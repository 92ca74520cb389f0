"""What the source and the search rank alone say about a label: P(right | source, rank).

Search engines put what they trust first, and some sources are cleaner than others. Neither is known
beforehand, so both are read off the crawl (see `evidence`): in each source, how P(right) falls with the rank.
A source whose ranks say nothing counts as a whole, ranks that are not known count alike.

Source: not in the paper, which keeps the first 15 Flickr results and drops the others (Table 1).
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from urnet_tf.reweighting.factors import Instances, Recipe


def rank_column(ranks: np.ndarray) -> np.ndarray:
    """Ranks as a column that rises with what they promise: float64 [N], NaN where a rank is below 1."""
    ranks = np.asarray(ranks, np.float64)
    return np.where(ranks >= 1, -ranks, np.nan)


def weigh(instances: "Instances", recipe: "Recipe") -> np.ndarray:
    """The row of `factors.FACTORS`: float32 [N]. By how much source and rank change P(right), as a factor."""
    return instances.share_of_evidence("rank_prior", recipe)
