"""Soft labels: the given label beside the predicted one (Sec. 4.5, Eq. 10).

In: given labels and what the baseline predicts. Out: sparse targets (class ids and their
probabilities), K = 2 for one predicted label, 1 + k for k of them. Nothing of size N x C is made.

  y~_i = beta e(given) + (1 - beta) e(predicted)   (hard bootstrapping)

In "repaired" the share 1 - beta is multiplied by the probability of the predicted label.
"""

import numpy as np

from urnet_tf.reweighting import REPAIRED, is_literal


def compute_soft_targets(
    given: np.ndarray,
    predicted: np.ndarray,
    predicted_prob: np.ndarray,
    *,
    beta: float,
    formulas: str = REPAIRED,
) -> tuple[np.ndarray, np.ndarray]:
    """The two entries of every instance's target.

    Where both labels agree, the second entry repeats the id with probability 0. beta = 1 switches
    soft labels off.

    Args:
      given: int [N].
      predicted: int [N].
      predicted_prob: float [N], what the model gives the predicted label; "literal" does not look at it.
      beta: smallest share of the given label.

    Returns:
      ids int32 [N, 2] and probs float32 [N, 2].

    Source: Eq. 10, Sec. 4.5, with the cluster weight of Eq. 6 that is "0 otherwise".
    Differs: in "literal" that 0 removes the predicted label's term, so a row on which the labels
    disagree sums to beta, not to 1: its loss is multiplied by beta and nothing else happens. In
    "repaired" the cluster weight is a scalar of the instance (part of its sample weight) and rows sum
    to 1. There the predicted label has a share of (1 - beta) times its probability: the likeliest class of
    a model that is unsure is often wrong, too.
    Reading: the predicted label is the likeliest class of the baseline, whatever its probability.
    """
    given, predicted = np.asarray(given), np.asarray(predicted)
    agree = given == predicted
    ids = np.stack([given, predicted], axis=-1).astype(np.int32)
    if is_literal(formulas):
        first = np.where(agree, 1.0, beta)
        second = np.zeros_like(first)
    else:
        second = np.where(agree, 0.0, (1.0 - beta) * np.asarray(predicted_prob, np.float64))
        first = 1.0 - second
    return ids, np.stack([first, second], axis=-1).astype(np.float32)


def compute_distribution_targets(
    given: np.ndarray, given_prob: np.ndarray, topk_ids: np.ndarray, topk_probs: np.ndarray, *, beta: float
) -> tuple[np.ndarray, np.ndarray]:
    """The given label beside all that other models suppose, each instance with a share of its own.

      y~_i = beta_i e(given) + (1 - beta_i) P_i,   beta_i = beta + (1 - beta) p_i

    P_i are the out-of-fold probabilities of the k likeliest classes, divided by their sum; p_i is that
    of the given label. So a label that other models believe in stays as it is, and only a doubted one
    gives up a share of 1 - beta. As each P_i comes from models that did not see the image, training on
    it distils the ensemble of the folds.

    Args:
      given: int [N].
      given_prob: float [N].
      topk_ids: int [N, k].
      topk_probs: float [N, k]; not all 0 in a row.
      beta: smallest share of the given label.

    Returns:
      ids int32 [N, 1 + k] and probs float32 [N, 1 + k]; rows sum to 1. An id may occur twice.

    Source: after Eq. 10; soft bootstrapping, Reed et al., 2015.
    """
    share = beta + (1.0 - beta) * np.asarray(given_prob, np.float64)
    predicted = topk_probs / np.sum(topk_probs, axis=1, keepdims=True, dtype=np.float64)
    ids = np.concatenate([np.asarray(given)[:, None], topk_ids], axis=1).astype(np.int32)
    probs = np.concatenate([share[:, None], (1.0 - share)[:, None] * predicted], axis=1)
    return ids, probs.astype(np.float32)
