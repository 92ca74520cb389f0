"""Linear discriminant analysis with shrinkage, for all images or without any fold.

In: the sums of class_moments.py. Out: one Dense layer. With the class means m_c and ONE covariance S of the
images about the mean of their own class,

  A = (1 - s) S + s tr(S) / D I        (s = shrinkage)
  kernel_c = A^-1 m_c                  bias_c = -1/2 m_c' A^-1 m_c + log prior_c

Nothing is drawn at random; the time is linear in the number of images, and does not depend on the scale of
the features. Which shrinkage is right depends on how many labels are wrong: judge.py chooses it.

Source: not in the paper.
"""

import numpy as np

from urnet_tf.errors import UsageError
from urnet_tf.reweighting.class_moments import ClassMoments
from urnet_tf.reweighting.linear_head import ABSENT_NATS, LinearHead

PRIORS = ("equal", "empirical")


def fit_discriminant(
    moments: ClassMoments, *, shrinkage: float, without_fold: int | None = None, priors: str = "equal"
) -> LinearHead:
    """The head fitted on the images of all folds or of all but one.

    A class without images gets a logit far below the others. Features that are all the same give the priors.

    Args:
      shrinkage: above 0 (the covariance of few images has no inverse) up to 1, the nearest class mean.
      without_fold: this fold's images do not count.
      priors: "equal" for class-balanced logits, "empirical" for those of the classes' weights.

    Raises:
      UsageError: a shrinkage outside of (0, 1], unknown priors, or no image outside of the fold.

    Source: Friedman, Regularized Discriminant Analysis, 1989, with one covariance; the target of Ledoit
    and Wolf, 2004. Differs: the shrinkage is the caller's. Ledoit and Wolf's own estimate is .03 to .1 on
    features of networks, where labels are wrong far too little: .7 to .9 classified best.
    """
    from scipy import linalg

    if priors not in PRIORS:
        raise UsageError(f"Expected priors of {' or '.join(PRIORS)}; received {priors!r}.")
    if not 0.0 < shrinkage <= 1.0:
        raise UsageError(
            f"Expected a shrinkage above 0 up to 1; received {shrinkage}. Take .5 where in doubt."
        )
    weight, sums, second = moments.without(without_fold)
    total, present = weight.sum(), weight > 0
    means = sums / np.where(present, weight, 1.0)[:, None]
    within = (second - sums.T @ means) / total
    middle = sums.sum(axis=0) / total
    means = np.where(present[:, None], means - middle, 0.0)
    middle = moments.origin + middle

    spread = np.trace(within) / len(within)
    if spread > 1e-24 * np.square(middle).mean():
        within *= 1.0 - shrinkage
        within[np.diag_indices_from(within)] += shrinkage * spread
        kernel = linalg.cho_solve(linalg.cho_factor(within, overwrite_a=True, check_finite=False), means.T)
    else:
        kernel = np.zeros(means.T.shape)
    bias = -0.5 * np.einsum("cd,dc->c", means, kernel)
    if priors == "empirical":
        bias += np.log(np.where(present, weight / total, 1.0))
    bias[~present] = bias[present].min() - ABSENT_NATS
    # What is the same for all classes changes no probability; without it float32 keeps more digits.
    kernel -= kernel[:, present].mean(axis=1, keepdims=True)
    bias -= bias[present].mean() + middle @ kernel
    return LinearHead(kernel.astype(np.float32), bias.astype(np.float32))
