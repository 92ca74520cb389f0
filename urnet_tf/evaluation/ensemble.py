"""One prediction from several models: mean probability and rank fusion.

In: probabilities float32 [M, B, C] of M models for a block of B images. Out: one score a class,
float32 [B, C], rows sum to 1, the best class largest. Blocks come and go; only the k best of each
row and the probability of the given label are kept (`predictions.Predictions`), so 16 M images x 5000 classes
never lie in memory.

    mean_probability   p(c) = mean over m of p_m(c)
    rank               p(c) proportional to the sum over m of 1 / (60 + rank_m(c)), rank 1 = best, for the
                       classes that a model has among its 50 best, which are ranked among each other
"""

import numpy as np

from urnet_tf.errors import UsageError
from urnet_tf.evaluation.metrics import top_k

RANKED = 50  # best classes of a model that join the ranking: sorting thousands took most of an evaluation
RANK_OFFSET = 60  # the constant of the source; large, so that one model's first place does not decide


def mean_probability(probs: np.ndarray) -> np.ndarray:
    """Mean over the models: float32 [M, B, C] → [B, C]."""
    return _checked(probs).mean(axis=0, dtype=np.float64).astype(np.float32)


def rank_fusion(probs: np.ndarray) -> np.ndarray:
    """Reciprocal rank fusion: float32 [M, B, C] → [B, C], rows sum to 1.

    It needs no calibrated models: only the order of each model's classes counts. The scores say
    which class is best, not how sure that is (at 60 + rank they are nearly flat). Equal
    probabilities share the mean of their ranks. A class that no model has among its `RANKED` best scores
    0; ranks are those among the others.

    Source: Cormack, Clarke, Buettcher, Reciprocal Rank Fusion outperforms Condorcet and individual
    Rank Learning Methods, SIGIR 2009.
    Differs: shared ranks on ties; classes of the lowest ranks are left out; scores are divided by their sum.
    """
    probs = _checked(probs)
    ids = _candidates(probs)
    first = np.concatenate([np.ones((len(ids), 1), bool), ids[:, 1:] != ids[:, :-1]], axis=1)
    scores = np.zeros(ids.shape, np.float64)
    for member in probs:
        # Repetitions of a class come behind all others.
        values = np.where(first, np.take_along_axis(member, ids, axis=1), -np.inf)
        scores += 1.0 / (RANK_OFFSET + _shared_ranks(values))
    fused = np.zeros(probs.shape[1:], np.float64)
    fused[np.nonzero(first)[0], ids[first]] = scores[first]
    return (fused / fused.sum(axis=1, keepdims=True)).astype(np.float32)


FUSIONS = {"mean_probability": mean_probability, "rank": rank_fusion}


def fuse(probs: np.ndarray, fusion: str) -> np.ndarray:
    """Applies one of `FUSIONS` to float32 [M, B, C].

    Raises:
      UsageError: the fusion is unknown or the shape is wrong.
    """
    if fusion not in FUSIONS:
        raise UsageError(f"Expected a fusion of {', '.join(FUSIONS)}; received {fusion!r}.")
    return FUSIONS[fusion](probs)


def _candidates(probs: np.ndarray) -> np.ndarray:
    """int [B, K]: the classes that are ranked, ascending; all of them where that is no more work."""
    members, rows, classes = probs.shape
    if classes <= members * RANKED:
        return np.broadcast_to(np.arange(classes), (rows, classes))
    return np.sort(np.concatenate([top_k(member, RANKED)[0] for member in probs], axis=1), axis=1)


def _shared_ranks(values: np.ndarray) -> np.ndarray:
    """1-based ranks float64 of each row of values [B, K], largest first; equal ones share their mean rank."""
    width, order = values.shape[1], np.argsort(-values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    places = np.arange(width)
    starts = np.concatenate([np.ones((len(ordered), 1), bool), ordered[:, 1:] != ordered[:, :-1]], axis=1)
    ends = np.concatenate([starts[:, 1:], np.ones((len(ordered), 1), bool)], axis=1)
    first = np.maximum.accumulate(np.where(starts, places, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, places, width)[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(values.shape, np.float64)
    np.put_along_axis(ranks, order, 1 + (first + last) / 2, axis=1)
    return ranks


def _checked(probs: np.ndarray) -> np.ndarray:
    probs = np.asarray(probs)
    if probs.ndim != 3 or not len(probs):
        raise UsageError(f"Expected probabilities [models, images, classes]; received shape {probs.shape}.")
    return probs
