"""One prediction from several models: mean probability and rank fusion.

In: probabilities float32 [M, B, C] of M models for a block of B images. Out: one score a class,
float32 [B, C], rows sum to 1, the best class largest. Blocks come and go; only the k best of each
row and the probability of the given label are kept (`predictions.Predictions`), so 16 M images x 5000 classes
never lie in memory.

    mean_probability   p(c) = mean over m of p_m(c)
    rank               p(c) proportional to the sum over m of 1 / (60 + rank_m(c)), rank 1 = best
"""

import numpy as np

from urnet_tf.errors import UsageError

RANK_OFFSET = 60  # the constant of the source; large, so that one model's first place does not decide


def mean_probability(probs: np.ndarray) -> np.ndarray:
    """Mean over the models: float32 [M, B, C] → [B, C]."""
    return _checked(probs).mean(axis=0, dtype=np.float64).astype(np.float32)


def rank_fusion(probs: np.ndarray) -> np.ndarray:
    """Reciprocal rank fusion: float32 [M, B, C] → [B, C], rows sum to 1.

    It needs no calibrated models: only the order of each model's classes counts. The scores say
    which class is best, not how sure that is (at 60 + rank they are nearly flat). Equal
    probabilities share the mean of their ranks.

    Source: Cormack, Clarke, Buettcher, Reciprocal Rank Fusion outperforms Condorcet and individual
    Rank Learning Methods, SIGIR 2009.
    Differs: shared ranks on ties; scores are divided by their sum.
    """
    probs = _checked(probs)
    scores = np.zeros(probs.shape[1:], np.float64)
    for member in probs:
        scores += 1.0 / (RANK_OFFSET + _ranks(member))
    return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)


FUSIONS = {"mean_probability": mean_probability, "rank": rank_fusion}


def fuse(probs: np.ndarray, fusion: str) -> np.ndarray:
    """Applies one of `FUSIONS` to float32 [M, B, C].

    Raises:
      UsageError: the fusion is unknown or the shape is wrong.
    """
    if fusion not in FUSIONS:
        raise UsageError(f"Expected a fusion of {', '.join(FUSIONS)}; received {fusion!r}.")
    return FUSIONS[fusion](probs)


def _ranks(probs: np.ndarray) -> np.ndarray:
    """1-based ranks of each row's classes, largest probability first, ties share their mean rank."""
    order = np.argsort(-probs, axis=1, kind="stable")
    ordered = np.take_along_axis(probs, order, axis=1)
    places = np.arange(probs.shape[1])
    starts = np.concatenate([np.ones((len(probs), 1), bool), ordered[:, 1:] != ordered[:, :-1]], axis=1)
    ends = np.concatenate([starts[:, 1:], np.ones((len(probs), 1), bool)], axis=1)
    first = np.maximum.accumulate(np.where(starts, places, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, places, probs.shape[1])[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(probs.shape, np.float64)
    np.put_along_axis(ranks, order, 1 + (first + last) / 2, axis=1)
    return ranks


def _checked(probs: np.ndarray) -> np.ndarray:
    probs = np.asarray(probs)
    if probs.ndim != 3 or not len(probs):
        raise UsageError(f"Expected probabilities [models, images, classes]; received shape {probs.shape}.")
    return probs
