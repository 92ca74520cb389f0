"""Class weights against unequal class sizes (Sec. 4.1, Eq. 2-4), or by the effective number of samples.

In: the labels of the training images. Out: one weight a class, float32 [C].

  r_j = 1 / N_j                                  (Eq. 2-3, up to a constant that cancels)
  literal: w_j = (1 - alpha) + alpha r_j / sum(r)  (Eq. 4)
  repaired: w_j = (1 - alpha) + alpha N / (C N_j)
  effective number: w_j = s (1 - beta) / (1 - beta^N_j), s such that the mean over images is 1
"""

from typing import TYPE_CHECKING

import numpy as np

from urnet_tf.reweighting import REPAIRED, is_literal

if TYPE_CHECKING:
    from urnet_tf.reweighting.factors import Instances, Recipe


def compute_class_weight(
    labels: np.ndarray, *, num_classes: int, alpha: float, formulas: str = REPAIRED
) -> np.ndarray:
    """The weight of every class, higher for small classes.

    A class without images has r_j = 0, so its weight is 1 - alpha; no image receives it.

    Args:
      labels: int [N], 0..num_classes-1.
      alpha: 0 = all weights equal, 1 = every class has the same sum of weights.
      formulas: "literal" or "repaired".

    Returns:
      float32 [C].

    Source: Eq. 2-4, Sec. 4.1.
    Differs: in "repaired", r_j / sum(r) (which is about 1 / C, so that the paper's weights hardly vary
    when there are many classes) is replaced by N / (C N_j), C counting the classes with images. The
    mean over images is then 1 for every alpha.
    Reading: a class without images takes no part in the sum.

    >>> compute_class_weight(np.array([0, 0, 0, 1]), num_classes=2, alpha=1.0)
    array([0.6666667, 2.       ], dtype=float32)
    """
    sizes = count_labels(labels, num_classes)
    inverse = np.divide(1.0, sizes, out=np.zeros(num_classes), where=sizes > 0)
    if is_literal(formulas):
        share = inverse / max(inverse.sum(), np.finfo(float).tiny)
    else:
        share = inverse * len(labels) / max(np.count_nonzero(sizes), 1)
    return ((1.0 - alpha) + alpha * share).astype(np.float32)


def compute_effective_number_weight(labels: np.ndarray, *, num_classes: int, beta: float) -> np.ndarray:
    """The weight of every class by what its images are worth when they overlap; the mean over images is 1.

    A class of n images counts as (1 - beta^n) / (1 - beta) different ones, never more than
    1 / (1 - beta). A class without images has the weight 0; no image receives it.

    Args:
      labels: int [N], 0..num_classes-1.
      beta: 0 = all weights equal, 1 = every class has the same sum of weights.

    Returns:
      float32 [C].

    Source: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, 2019.
    Differs: theirs sum to C over the classes, so that the learning rate depends on the class sizes.
    """
    sizes = count_labels(labels, num_classes)
    effective = sizes.astype(float) if beta == 1.0 else (1.0 - beta**sizes) / (1.0 - beta)
    inverse = np.divide(1.0, effective, out=np.zeros(num_classes), where=sizes > 0)
    return (inverse * len(labels) / max((inverse * sizes).sum(), np.finfo(float).tiny)).astype(np.float32)


def count_labels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """How many instances every class has: int64 [C].

    Raises:
      ValueError: a label lies outside of 0..num_classes-1.
    """
    labels = np.asarray(labels)
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(f"Expected labels in 0..{num_classes - 1}; received {labels.min()}..{labels.max()}.")
    return np.bincount(labels, minlength=num_classes)


def weigh(instances: "Instances", recipe: "Recipe") -> np.ndarray:
    """The row of `factors.FACTORS`: float32 [N]; settings kind, alpha and effective_beta."""
    settings = recipe.factors["class_weight"]
    labels, num_classes = instances.labels, instances.num_classes
    if settings["kind"] == "effective_number":
        weight = compute_effective_number_weight(
            labels, num_classes=num_classes, beta=settings["effective_beta"]
        )
    else:
        weight = compute_class_weight(
            labels, num_classes=num_classes, alpha=settings["alpha"], formulas=recipe.formulas
        )
    return weight[labels]
