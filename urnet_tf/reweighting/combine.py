"""From factors to the one `sample_weight` that training receives.

In: columns float32 [N]: the class weight u and the evidence e_1 .. e_m that a label is right (cluster,
image-text and self-confidence weights). Out: their product, clipped and scaled once at the end.

  repaired: w_i = clip(c u_i (prod_f e_fi)^(1/m), smallest, largest), c such that mean(w) = 1
  literal: w_i = u_i prod_f e_fi                    (Eq. 9 holds the product)

The paper's weights are negative where a cosine is, and their mean is what it is: whoever reads weights
asks `average_amount` what an average image counts, and takes a negative one for "against its label".
"""

from collections.abc import Sequence

import numpy as np

from urnet_tf.errors import RunError, UsageError
from urnet_tf.reweighting import REPAIRED, is_literal
from urnet_tf.reweighting.class_weight import count_labels


def scale_to_class_mean(
    values: np.ndarray, labels: np.ndarray, *, num_classes: int, floor: float = 0.0
) -> np.ndarray:
    """Divides by the mean of the own class, after lifting small values to a share of that mean.

    Args:
      values: float [N]; negative ones count as 0.
      labels: int [N].
      floor: the smallest value, as a share of the class mean before lifting; 0 = not lifted.

    Returns:
      float32 [N] with mean 1 inside each class. A class whose values are all 0 gets ones.
    """
    values = np.maximum(np.asarray(values, np.float64), 0.0)
    if not np.isfinite(values).all():
        raise ValueError("Expected finite values to weigh by; received NaN or infinity.")
    sizes = np.maximum(count_labels(labels, num_classes), 1)

    def class_mean(column: np.ndarray) -> np.ndarray:
        return np.bincount(labels, weights=column, minlength=num_classes) / sizes

    mean = class_mean(values)
    values = np.maximum(values, floor * mean[labels])
    values = np.where(mean[labels] > 0, values, 1.0)
    mean = class_mean(values)
    return (values / mean[labels]).astype(np.float32)


def share_of_picture(labels: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """1 / n for each of the n copies of a picture in a class, so that together they count once: float32 [N].

    Args:
      labels: int [N].
      pictures: int [N], equal for copies, -1 for what has none.

    Source: not in the paper.
    """
    # One number for both: `np.unique` of columns compares them as bytes, which takes ten times as long.
    keys = np.asarray(labels, np.int64) * (int(np.max(pictures, initial=-1)) + 2) + pictures + 1
    _, group, copies = np.unique(keys, return_inverse=True, return_counts=True)
    return np.where(pictures < 0, 1.0, 1.0 / copies[group]).astype(np.float32)


def combine_weights(
    factors: Sequence[np.ndarray],
    evidence: Sequence[np.ndarray] = (),
    *,
    smallest: float = 0.05,
    largest: float = 10.0,
    formulas: str = REPAIRED,
    unit_mean: bool = False,
    share: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    trusted: np.ndarray | None = None,
) -> np.ndarray:
    """The product of the factors and of the evidence, scaled to mean 1 inside of [smallest, largest].

    Scaling first and clipping afterwards would move the mean, the other way round the bounds. So the
    scale c is solved for: mean(clip(c p, smallest, largest)) = 1 rises with c and has one solution.

    Args:
      factors: float [N] each, like the class weight; at least one.
      evidence: float [N] each, guesses of one and the same thing: whether the label is right.
      smallest: "repaired": the smallest weight, below 1.
      largest: "repaired": the largest weight, above 1.
      unit_mean: "literal": whether the product is scaled to mean 1; "repaired" always is.
      share: float [N], what of a picture an image is, see `share_of_picture`; None = all of it.
      labels: int [N], with `trusted`.
      trusted: bool [N], labels of which people are sure: see `lift_trusted`; None = none.

    Returns:
      float32 [N].

    Raises:
      UsageError: smallest >= 1 or largest <= 1.
      RunError: a "literal" product is to be scaled and its mean is not above 0.
      ValueError: a "repaired" product is negative, not finite, or 0 everywhere.

    Source: Eq. 9, Sec. 4.3, its product.
    Differs: in "repaired" the evidence enters by its geometric mean, since a product of several guesses
    of one thing counts the same evidence several times and leaves few images; the result is clipped
    and scaled once, so that reweighting does not change the learning rate (Keras divides the loss
    by the batch size, not by the sum of weights).
    Reading: the weight multiplies the cross entropy of its image, and the loss of a step is the mean over its
    images (Keras' rule), so that the literal mean of weights scales the learning rate; `unit_mean` undoes it.
    """
    product, of_picture = _product(factors, len(factors[0])), 1.0 if share is None else share
    if is_literal(formulas):
        product = lift_trusted(product * _product(evidence, len(product)), labels, trusted) * of_picture
        return (scale_to_mean_one(product) if unit_mean else product).astype(np.float32)
    if not 0.0 <= smallest < 1.0 < largest:
        raise UsageError(
            f"Expected reweight.combine.smallest < 1 < largest; received {smallest} and {largest}."
        )
    if not all((np.asarray(values) >= 0).all() for values in evidence):
        raise ValueError("Expected non-negative evidence; received a negative or NaN value.")
    product = product * _product(evidence, len(product)) ** (1.0 / max(1, len(evidence)))
    product = lift_trusted(product, labels, trusted) * of_picture
    if not (np.isfinite(product).all() and (product >= 0).all() and product.any()):
        raise ValueError("Expected non-negative finite factors whose product is not 0 everywhere.")
    return _clip_to_mean_one(product / product.mean(), smallest, largest).astype(np.float32)


def lift_trusted(product: np.ndarray, labels: np.ndarray | None, trusted: np.ndarray | None) -> np.ndarray:
    """Trusted labels count as much as what counts most in their class: float [N].

    What the factors guess of such a label is known better, and no image can be worth more to its class than
    one whose label is right. A class whose own factors are all small still counts as it did.

    Args:
      product: float [N], the weights before they are scaled.
      labels: int [N].
      trusted: bool [N]; None = none.

    Source: not in the paper.

    >>> trusted = np.array([True, False, False, True])
    >>> lift_trusted(np.array([0.2, 0.9, 0.5, 0.4]), np.array([0, 0, 1, 1]), trusted)
    array([0.9, 0.9, 0.5, 0.5])
    """
    if labels is None or trusted is None:
        return product
    top = np.full(int(np.max(labels, initial=0)) + 1, -np.inf)
    np.maximum.at(top, labels, product)
    return np.where(trusted, top[labels], product)


def scale_to_mean_one(weights: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Divides weights by their mean: float64 [N].

    Args:
      weights: float [N].
      rows: int [n], the rows whose mean becomes 1; None = all.

    Raises:
      RunError: that mean is not above 0, so that no scale makes it 1.
    """
    weights = np.asarray(weights, np.float64)
    mean = weights.mean() if rows is None else weights[rows].mean()
    if not mean > 0:
        raise RunError(
            f"Expected weights with a mean above 0, to scale it to 1; received {mean:.3g}: most count "
            "against their labels. Set reweight.confidence.enabled=false or reweight.formulas=repaired."
        )
    return weights / mean


def average_amount(weights: np.ndarray) -> float:
    """What an average image counts, for or against its label: the mean of |w|; 1 where all are 0.

    Without negative weights it is their mean.
    """
    return float(np.abs(np.asarray(weights, np.float64)).mean()) or 1.0


def effective_sample_size(weights: np.ndarray) -> float:
    """How many equally weighted images would vary as much: (sum |w|)^2 / sum w^2.

    A negative weight counts by its size: the image moves the network as far, the other way.

    >>> effective_sample_size(np.array([3.0, 1.0, 0.0]))
    1.6
    """
    weights = np.abs(np.asarray(weights, np.float64))
    squares = np.square(weights).sum()
    return float(weights.sum() ** 2 / squares) if squares > 0 else 0.0


def _product(factors: Sequence[np.ndarray], rows: int) -> np.ndarray:
    product = np.ones(rows)
    for factor in factors:
        product *= factor
    return product


def _clip_to_mean_one(product: np.ndarray, smallest: float, largest: float) -> np.ndarray:
    low, high = 0.0, 1.0
    positive_share = np.count_nonzero(product) / product.size
    if positive_share * largest + (1 - positive_share) * smallest <= 1.0:
        return np.where(product > 0, (1 - (1 - positive_share) * smallest) / positive_share, smallest)
    while np.clip(high * product, smallest, largest).mean() < 1.0:
        high *= 2.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        if np.clip(middle * product, smallest, largest).mean() < 1.0:
            low = middle
        else:
            high = middle
    return np.clip(high * product, smallest, largest)
