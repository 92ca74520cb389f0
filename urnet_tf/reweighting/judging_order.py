"""Which image a person should judge next, so that a few judgements change the classifier most.

In: P(right) and what models that did not see an image predict for it. Out: an order, and what it can tell of
the share of wrong labels.

  M_c = sum of P over the images labeled c                       what the class c is believed to be made of
  v_i = 2 P_i (1 - P_i) / M_y  +  (1 - P_i) sum over k != y of q_ik / M_k

A judgement moves mass: if the label y is right (P), the image counts 1 instead of P in y; if it is wrong, P
leaves y, and 1 arrives in the class k that it belongs to (q: what the models predict, without y). v is the
expected change, each class counted by its own size, since the classifier counts classes alike.

The order is drawn: image i comes at u_i / z_i, u uniform from 0 to 1, smallest first, and

  z_i = (1 - r) v_i^s / mean(v^s) + r

So valuable images come early, about r of those that come are any, and with which probability each comes is
known: the first n that were judged tell the share of wrong labels in the whole crawl without bias
(`estimate_wrong_share`).

Source: not in the paper. Expected change of a model: Settles, Craven and Ray, 2008 (there of its gradient);
the order and its estimate: priority sampling, Duffield, Lund and Thorup, 2007.
"""

import dataclasses

import numpy as np

_SHARPNESS = 4.0  # s: 0 = any order, more = nearer to the order of values; with 2, half of the gain is lost
_AT_RANDOM = 0.1  # r


@dataclasses.dataclass(frozen=True)
class JudgingOrder:
    """The order in which images are shown.

    order: int64 [N], rows, next first.
    value: float64 [N], by row: what is expected of judging it; the largest is 1.
    size: float64 [N], by row: how much sooner than others it comes, 1 on average.
    key: float64 [N], by row: what the order is sorted by.
    """

    order: np.ndarray
    value: np.ndarray
    size: np.ndarray
    key: np.ndarray


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


def draw_judging_order(value: np.ndarray, *, seed: int = 0, sharpness: float = _SHARPNESS) -> JudgingOrder:
    """Draws an order in which valuable images come early.

    Args:
      value: float [N], see `compute_judging_value`.
      seed: another one gives another order.
      sharpness: 0 = a random order, more = nearer to that of the values.
    """
    value = np.asarray(value, np.float64)
    sharp = (value / max(value.max(initial=0.0), np.finfo(float).tiny)) ** sharpness
    size = (1 - _AT_RANDOM) * sharp / max(sharp.mean(), np.finfo(float).tiny) + _AT_RANDOM
    key = np.random.default_rng([seed, len(value)]).random(len(value)) / size
    return JudgingOrder(np.argsort(key, kind="stable"), value, size, key)


def estimate_wrong_share(
    drawn: JudgingOrder, wrong: np.ndarray, right_prob: np.ndarray
) -> tuple[float, float, float]:
    """The share of wrong labels among all images, by those that were judged first, and its 95 % interval.

    The mean of 1 - P over all images, put right by what the judged ones show that P misses. Each judged image
    stands for 1 / (the probability that it would have been among them) images.

    Args:
      drawn: the order.
      wrong: bool [n], whether the label is wrong of the first n images of the order, without a gap, 2 <= n.
      right_prob: float [N], P(right) of all images, not made with the help of these judgements.
    """
    wrong, right = np.asarray(wrong, np.float64), np.asarray(right_prob, np.float64)
    count, total = len(wrong), len(right)
    rows = drawn.order[:count]
    limit = drawn.key[drawn.order[count]] if count < total else np.inf
    included = np.minimum(drawn.size[rows] * limit, 1.0)
    missed = (wrong - (1 - right[rows])) / included
    share = float((1 - right).mean() + missed.sum() / total)
    # One more that P misses as it usually does may just not have come yet.
    unseen = float((right * (1 - right)).mean()) * (1 - included.min()) / included.min() ** 2
    variance = (float((np.square(missed) * (1 - included)).sum()) + unseen) / total**2
    error = 1.96 * np.sqrt(variance)
    return float(np.clip(share, 0, 1)), float(max(share - error, 0.0)), float(min(share + error, 1.0))
