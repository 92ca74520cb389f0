"""Soft labels: the given label beside the supposed one (Sec. 4.5, Eq. 10).

In: given labels and what the baseline predicts. Out: sparse targets, K = 2 (class ids and their
probabilities). Nothing of size N x C is made.

  y~_i = beta e(given) + (1 - beta) e(supposed)   (hard bootstrapping)
"""

import numpy as np

from urnet_tf.reweighting import SOUND, is_literal


def compute_soft_targets(
    given: np.ndarray, supposed: np.ndarray, *, beta: float, fidelity: str = SOUND
) -> tuple[np.ndarray, np.ndarray]:
    """The two entries of every instance's target.

    Where both labels agree, the second entry repeats the id with probability 0. beta = 1 switches
    soft labels off.

    Args:
      given: int [N].
      supposed: int [N].
      beta: share of the given label.

    Returns:
      ids int32 [N, 2] and probs float32 [N, 2].

    Source: Eq. 10, Sec. 4.5, with the cluster weight of Eq. 6 that is "0 otherwise".
    Differs: in "paper" that 0 removes the supposed label's term, so a row on which the labels
    disagree sums to beta, not to 1: its loss is multiplied by beta and nothing else happens. In
    "sound" the cluster weight is a scalar of the instance (part of its sample weight), the
    supposed label keeps its share, and rows sum to 1.
    """
    given, supposed = np.asarray(given), np.asarray(supposed)
    agree = given == supposed
    ids = np.stack([given, supposed], axis=-1).astype(np.int32)
    first = np.where(agree, 1.0, beta)
    second = np.zeros_like(first) if is_literal(fidelity) else 1.0 - first
    return ids, np.stack([first, second], axis=-1).astype(np.float32)
