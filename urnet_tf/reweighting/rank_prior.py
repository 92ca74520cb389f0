"""What the source and the search rank alone say about a label: P(right | source, rank).

Search engines put what they trust first, and some sources are cleaner than others. Neither is known
beforehand, so both are read off the crawl: in each source, the out-of-fold probability of the given
label as a falling function of the rank. A source whose ranks say nothing gets a flat one.

  prior = argmin over functions f_s that fall with the rank of sum_i (given_prob_i - f_s(rank_i))^2
"""

from typing import TYPE_CHECKING

import numpy as np

from urnet_tf.reweighting.combine import scale_to_class_mean
from urnet_tf.reweighting.isotonic import isotonic_steps

if TYPE_CHECKING:
    from urnet_tf.reweighting.factors import Instances, Recipe


def compute_rank_prior(
    given_prob: np.ndarray,
    labels: np.ndarray,
    sources: np.ndarray,
    ranks: np.ndarray,
    *,
    num_classes: int,
    floor: float = 0.05,
) -> np.ndarray:
    """The prior relative to its class: float32 [N], mean 1 inside each class.

    It is a base rate and no evidence about the single image, so it multiplies the weight like the
    class weight does and takes no part in the mean over the evidence.

    Args:
      given_prob: float [N], out-of-fold probability of the given label.
      labels: int [N].
      sources: int [N], a number for each source.
      ranks: int [N], 1 = the first result of its query.
      floor: smallest value, as a share of the class mean.

    Source: not in the paper, which keeps the first 15 Flickr results and drops the others (Table 1).
    """
    given_prob, ranks = np.asarray(given_prob, np.float64), np.asarray(ranks)
    prior = np.empty(len(ranks))
    for source in np.unique(sources):
        rows = np.flatnonzero(np.asarray(sources) == source)
        _, place, count = np.unique(ranks[rows], return_inverse=True, return_counts=True)
        sums = np.bincount(place, weights=given_prob[rows])
        prior[rows] = isotonic_steps(sums, count, increasing=False)[place]
    return scale_to_class_mean(prior, labels, num_classes=num_classes, floor=floor)


def weigh(instances: "Instances", recipe: "Recipe") -> np.ndarray:
    """The row of `factors.FACTORS`: float32 [N]; setting floor.

    What the pages explain is not counted twice.
    """
    unexplained = instances.prediction.given_prob
    if "page_text" in recipe.factors and instances.expected_of_page is not None:
        unexplained = unexplained / np.maximum(
            instances.expected_of_page, recipe.factors["page_text"]["floor"]
        )
    return compute_rank_prior(
        unexplained, instances.labels, instances.sources, instances.ranks,
        num_classes=instances.num_classes, floor=recipe.factors["rank_prior"]["floor"],
    )  # fmt: skip
