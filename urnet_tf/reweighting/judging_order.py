"""Which image a person should judge next, so that a few judgements change the classifier most.

In: P(right) and what models that did not see an image predict for it. Out: an order, and what it can tell of
the share of wrong labels.

  M_c = sum of P over the images labeled c                       what the class c is believed to be made of
  v_i = (1 - P_i) h_i  sum over k != y of q_ik / M_k

v is the expected gain of right images, each class counted by its own size, since the classifier counts
classes alike: if the label y is wrong (1 - P) and the image shows one of the classes all the same (h), 1
arrives in the class k that it belongs to (q: what the models predict, without y). To confirm a label, or to
take an image out of y, changes what y is expected to be made of by nothing: it counted P before.

h is not known either, but wrong labels among images that the models are as sure of as of rightly labeled ones
cannot be images of none of the classes. With s the probability of the likeliest class,

  r(s) = density of s, each image counting 1 - P / density of s, each counting P          falling in s
  h_i  = min r / r(s_i)                                      min over parts of the images from the top

Images are shown in the order of v, but every tenth is any one of those not shown yet, at random. So the first
n that were judged are two strata: all of the most valuable ones, and a random sample of the rest; together
they tell the share of wrong labels in the whole crawl without bias (`estimate_wrong_share`).

Source: not in the paper. Expected change of a model: Settles, Craven and Ray, 2008 (there of its gradient).
The share of images of a class by the lowest ratio of densities is that of `label_posterior`.
The estimate is that of a stratified sample, with P as what is known beforehand of each image (a difference
estimator: Cochran, Sampling Techniques, 1977).
"""

import dataclasses

import numpy as np

from urnet_tf.reweighting.isotonic import isotonic_steps

_EVERY = 10  # image of an order is one at random
_TOPS = np.arange(0.1, 0.95, 0.1)  # parts of the images, by the likeliest class, where r is looked at
_LEAST = 1e-3  # no label is surer


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
    """The right images that a judgement should bring a class, by its size: float64 [N], the largest 1.

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
    shows_class = estimate_shows_class(right, np.asarray(topk_probs)[:, 0])
    value = (1 - right) * shows_class * (others / mass[ids]).sum(axis=1)
    return value / max(value.max(initial=0.0), np.finfo(float).tiny)


def estimate_shows_class(right_prob: np.ndarray, best_prob: np.ndarray) -> np.ndarray:
    """The probability that an image shows one of the classes if its label is wrong: float64 [N].

    Of the wrongly labeled images of three crawls .59 did; this said .52 to .65 in all, .63 to .78 of those
    that did and .29 to .46 of the others. Where all do, as where people chose the labels, it is too low: .59.

    Args:
      right_prob: float [N], P(the given label is right).
      best_prob: float [N], of the likeliest class.
    """
    if not len(right_prob):
        return np.empty(0)
    levels, level_of = np.unique(best_prob, return_inverse=True)
    right = np.clip(np.asarray(right_prob, np.float64), _LEAST, 1 - _LEAST)
    given, wrong = (np.bincount(level_of, part / part.sum()) for part in (right, 1 - right))
    among = np.clip(isotonic_steps(given, given + wrong), _LEAST, 1 - _LEAST)  # 1 / (1 + r)
    given_above, wrong_above = np.cumsum(given[::-1]), np.cumsum(wrong[::-1])
    tops = np.minimum(np.searchsorted(given_above, _TOPS), len(levels) - 1)
    lowest = min(1.0, float((wrong_above[tops] / given_above[tops]).min()))
    return np.minimum(lowest * among / (1 - among), 1.0)[level_of]


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
