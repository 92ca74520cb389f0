"""Which image a person should judge next, so that a few judgements change the classifier most.

In: P(right) and what models that did not see an image predict for it. Out: an order, and what it can tell of
the share of wrong labels.

  M_c = sum of P over the images labeled c                       what the class c is believed to be made of
  v_i = 2 P_i (1 - P_i) / M_y  +  (1 - P_i) sum over k != y of q_ik / M_k

A judgement moves mass: if the label y is right (P), the image counts 1 instead of P in y; if it is wrong, P
leaves y, and 1 arrives in the class k that it belongs to (q: what the models predict, without y). v is the
expected change, each class counted by its own size, since the classifier counts classes alike.

Images are shown in the order of v, but every tenth is any one of those not shown yet, at random. So the first
n that were judged are two strata: all of the most valuable ones, and a random sample of the rest; together
they tell the share of wrong labels in the whole crawl without bias (`estimate_wrong_share`).

Source: not in the paper. Expected change of a model: Settles, Craven and Ray, 2008 (there of its gradient).
The estimate is that of a stratified sample, with P as what is known beforehand of each image (a difference
estimator: Cochran, Sampling Techniques, 1977).
"""

import dataclasses

import numpy as np

_EVERY = 10  # image of an order is one at random


@dataclasses.dataclass(frozen=True)
class JudgingOrder:
    """The order in which images are shown.

    order: int64 [N], rows, next first.
    value: float64 [N], by row: what is expected of judging it; the largest is 1.
    rank: int64 [N], by row: its place in the order of values alone.
    at_random: bool [N], by row: whether it has its place by chance.
    """

    order: np.ndarray
    value: np.ndarray
    rank: np.ndarray
    at_random: np.ndarray


def compute_judging_value(
    right_prob: np.ndarray,
    labels: np.ndarray,
    topk_ids: np.ndarray,
    topk_probs: np.ndarray,
    *,
    num_classes: int,
) -> np.ndarray:
    """How much a judgement is expected to change what the classes are made of: float64 [N], the largest 1.

    Args:
      right_prob: float [N], P(the given label is right).
      labels: int [N].
      topk_ids: int [N, K], the classes that models find likeliest which did not see the image.
      topk_probs: float [N, K], their probabilities.
      num_classes: C.
    """
    right, labels = np.asarray(right_prob, np.float64), np.asarray(labels)
    ids = np.asarray(topk_ids)
    mass = np.maximum(np.bincount(labels, right, minlength=num_classes), 1.0)
    others = np.where(ids == labels[:, None], 0.0, np.asarray(topk_probs, np.float64))
    others /= np.maximum(others.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    value = 2 * right * (1 - right) / mass[labels] + (1 - right) * (others / mass[ids]).sum(axis=1)
    return value / max(value.max(initial=0.0), np.finfo(float).tiny)


def draw_judging_order(value: np.ndarray, *, seed: int = 0) -> JudgingOrder:
    """An order in which valuable images come first, and every tenth is any one.

    Args:
      value: float [N], see `compute_judging_value`.
      seed: of those at random.
    """
    value = np.asarray(value, np.float64)
    by_value = np.argsort(-value, kind="stable")
    rank = np.empty(len(value), np.int64)
    rank[by_value] = np.arange(len(value))
    chance = np.random.default_rng([seed, len(value)]).permutation(len(value))
    order, at_random = np.empty(len(value), np.int64), np.zeros(len(value), bool)
    next_best, next_any = iter(by_value.tolist()), iter(chance.tolist())
    for place in range(len(value)):
        is_any = place % _EVERY == _EVERY - 1
        source = next_any if is_any else next_best
        row = next(row for row in source if rank[row] >= 0)
        order[place], at_random[row] = row, is_any
        rank[row] = ~rank[row]  # shown
    return JudgingOrder(order, value, ~rank, at_random)


def estimate_wrong_share(
    drawn: JudgingOrder, wrong: np.ndarray, right_prob: np.ndarray
) -> tuple[float, float, float]:
    """The share of wrong labels among all images, by those that were judged first, and its 95 % interval.

    Of the most valuable images all are known. Of the others the share is the mean of 1 - P, put right by what
    those at random among them show that P misses.

    Args:
      drawn: the order.
      wrong: bool [n], whether the label is wrong of the first n images of the order, without a gap, 1 <= n.
      right_prob: float [N], P(right) of all images, not made with the help of these judgements.
    """
    from scipy import stats

    wrong, right = np.asarray(wrong, np.float64), np.asarray(right_prob, np.float64)
    rows, total = drawn.order[: len(wrong)], len(right)
    best = rows[~drawn.at_random[rows]]
    known = int(drawn.rank[best].max(initial=-1)) + 1  # so many of the most valuable ones
    rest = drawn.rank >= known
    sampled = drawn.rank[rows] >= known
    left, seen = total - known, int(sampled.sum())
    if not left:
        return (share := float(wrong.mean())), share, share
    missed = wrong[sampled] - (1 - right[rows[sampled]])
    expected = float((1 - right[rest]).mean())
    share = (wrong[~sampled].sum() + left * (expected + (missed.mean() if seen else 0.0))) / total
    # One more that P misses as it usually does may just not have come yet.
    usual = float((right[rest] * (1 - right[rest])).mean())
    variance = (np.square(missed).sum() + usual) / (seen + 1) / max(seen, 1) * (1 - seen / left)
    error = float(stats.t.ppf(0.975, max(seen, 2))) * left / total * float(np.sqrt(variance))
    return float(np.clip(share, 0, 1)), float(max(share - error, 0.0)), float(min(share + error, 1.0))
