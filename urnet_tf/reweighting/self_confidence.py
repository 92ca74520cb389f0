"""Self-confidence: how probable is the given label to models that did not see the image?

In: out-of-fold probabilities. Out: a weight an instance.

Source: not in the paper.
"""

from typing import TYPE_CHECKING

import numpy as np

from urnet_tf.reweighting.combine import scale_to_class_mean

if TYPE_CHECKING:
    from urnet_tf.reweighting.factors import Instances, Recipe


def compute_self_confidence_weight(
    given_prob: np.ndarray, labels: np.ndarray, *, num_classes: int, floor: float = 0.05
) -> np.ndarray:
    """The probability of the given label relative to its class: float32 [N], mean 1 inside each class.

    Args:
      given_prob: float [N], out-of-fold probability of the given label.
      floor: smallest value, as a share of the class mean.
    """
    return scale_to_class_mean(given_prob, labels, num_classes=num_classes, floor=floor)


def weigh(instances: "Instances", recipe: "Recipe") -> np.ndarray:
    """The row of `factors.FACTORS`: float32 [N]; setting floor."""
    return compute_self_confidence_weight(
        instances.prediction.given_prob, instances.labels, num_classes=instances.num_classes,
        floor=recipe.factors["self_confidence"]["floor"],
    )  # fmt: skip
