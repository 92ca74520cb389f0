"""Seconds of joining the predictions of several models: sorting all classes beside the best ones only.

python experiments/benchmarks/bench_fusion.py [--classes 5000] [--members 5] [--images 512]

What `evaluate` does with the probabilities of a block of images, besides computing them: rank fusion, and the
five best classes of each model. "sorted" sorts all classes of every image, as was done before; the ratios
are of user CPU seconds within one run, the median of paired rounds.
"""

import os

import numpy as np
from absl import app, flags

from urnet_tf.evaluation import ensemble, metrics

_CLASSES = flags.DEFINE_multi_integer("classes", [59, 1000, 5000], "classes; may be repeated")
_MEMBERS = flags.DEFINE_integer("members", 5, "models")
_IMAGES = flags.DEFINE_integer("images", 512, "images of a block")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "paired measurements")


def main(_):
    print(f"{_MEMBERS.value} models, {_IMAGES.value} images: user seconds, median of {_ROUNDS.value} rounds")
    print(f"{'classes':>8}  {'step':<12}{'sorted':>9}{'best only':>11}{'ratio':>8}  same five best")
    for classes in _CLASSES.value:
        probs = draw_probs(_MEMBERS.value, _IMAGES.value, classes)
        steps = {
            "rank fusion": (sorted_rank_fusion, ensemble.rank_fusion, probs),
            "top 5": (sorted_top_5, lambda block: metrics.top_k(block, 5), probs.mean(axis=0)),
        }
        for name, (before, now, block) in steps.items():
            times = [
                [user_seconds(function, block) for function in (before, now)] for _ in range(_ROUNDS.value)
            ]
            sorted_s, best_s = np.median(times, axis=0)
            ratio = np.median([slow / fast for slow, fast in times])
            same = (five_best(before(block)) == five_best(now(block))).all(axis=1).mean()
            print(f"{classes:>8}  {name:<12}{sorted_s:>9.3f}{best_s:>11.3f}{ratio:>8.1f}  {100 * same:.2f} %")


def draw_probs(members, images, classes):
    """float32 [M, n, C] of models that agree in part."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(images, classes))
    logits = 3 * (shared + 0.2 * rng.normal(size=(members, images, classes)))
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    return (probs / probs.sum(-1, keepdims=True)).astype(np.float32)


def sorted_top_5(probs):
    ids = np.argsort(-probs, axis=1, kind="stable")[:, :5]
    return ids.astype(np.int32), np.take_along_axis(probs, ids, axis=1)


def sorted_rank_fusion(probs):
    """Reciprocal rank fusion over all classes, ties sharing their mean rank."""
    scores = np.zeros(probs.shape[1:])
    places = np.arange(probs.shape[2])
    for member in probs:
        order = np.argsort(-member, axis=1, kind="stable")
        ordered = np.take_along_axis(member, order, axis=1)
        starts = np.concatenate([np.ones((len(ordered), 1), bool), ordered[:, 1:] != ordered[:, :-1]], axis=1)
        ends = np.concatenate([starts[:, 1:], np.ones((len(ordered), 1), bool)], axis=1)
        first = np.maximum.accumulate(np.where(starts, places, 0), axis=1)
        last = np.minimum.accumulate(np.where(ends, places, len(places))[:, ::-1], axis=1)[:, ::-1]
        ranks = np.empty(ordered.shape)
        np.put_along_axis(ranks, order, 1 + (first + last) / 2, axis=1)
        scores += 1.0 / (ensemble.RANK_OFFSET + ranks)
    return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)


def five_best(result):
    """int [n, 5] of what either step gives."""
    return result[0] if isinstance(result, tuple) else sorted_top_5(result)[0]


def user_seconds(function, block):
    start = os.times().user
    function(block)
    return max(os.times().user - start, 0.01)  # the clock's step


if __name__ == "__main__":
    app.run(main)
