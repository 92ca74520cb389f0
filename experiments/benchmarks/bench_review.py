r"""What judgements are worth: accuracy against how many images a person has judged, and in which order.

  python experiments/benchmarks/bench_review.py --workdir runs/webtiny --truth webtiny_truth.csv

Needs a finished run with fitted heads on frozen features, whose held images have right labels, and its truth
(a list of path, label and true_label of the training images; -1 = none of the classes). A simulated person
judges the images one after the other and is right, or errs in `--errors` of them: calls a wrong label right,
or takes a right one for that of any class or none. Then everything behind the features is fitted again as the
stages do it: the judge, P(right) calibrated on what was judged by chance, the second round and the last head.

Orders: `queue` is that of `urnet review`, of the most valuable next; `random`; `doubtful`, the smallest
P(right) first; `cleanlab`, its label quality scores, the lowest first; `activelab`, what cleanlab's ActiveLab
would have judged again next. Both get the same out-of-fold probabilities. Prints top-1, each class alike, and
what a number of judgements in each order is worth in judgements at random. --out appends rows as JSON lines,
and what is there already is not computed again.
"""

import collections
import csv
import dataclasses
import json
import os
import pathlib

import numpy as np
from absl import app, flags

from urnet_tf import config as config_lib, schema, store
from urnet_tf.errors import UsageError
from urnet_tf.reweighting import factors, judge, objective, recipe
from urnet_tf.reweighting.judged_labels import describe_anchors
from urnet_tf.reweighting.judging_order import compute_judging_value, draw_judging_order
from urnet_tf.stages.effects import trains
from urnet_tf.stages.reweight import read_recipe

ORDERS = ("queue", "random", "doubtful", "cleanlab", "activelab")
DRAWN = ("queue", "random")  # those that differ by seed


def define_flags():
    """Not when this is imported, as by tests, beside others with flags of these names."""
    flags.DEFINE_string("workdir", None, "a finished run", required=True)
    flags.DEFINE_string("truth", None, "list of path, label and true_label", required=True)
    flags.DEFINE_list("budgets", ["0", "50", "100", "200", "500", "1000"], "numbers of judgements")
    flags.DEFINE_list("orders", list(ORDERS), "which of " + ", ".join(ORDERS))
    flags.DEFINE_list("errors", ["0", "0.05"], "shares of judgements that are wrong")
    flags.DEFINE_integer("seeds", 3, "of orders that are drawn", lower_bound=1)
    flags.DEFINE_multi_string("set", [], "settings that replace those of the run", short_name="s")
    flags.DEFINE_string("out", None, "file that rows are appended to")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run knows of its N training and n held images."""

    config: config_lib.Config
    features: np.ndarray  # [N, D]
    labels: np.ndarray  # int [N]
    truth: np.ndarray  # int [N], -1 = none of the classes
    num_classes: int
    folds: np.ndarray  # int [N]
    sources: np.ndarray
    ranks: np.ndarray
    page_score: np.ndarray | None
    held: np.ndarray  # features [n, D]
    held_labels: np.ndarray

    def take(self, rows, labels):
        """The images of some rows, with other labels int [N]."""
        return dataclasses.replace(
            self, features=self.features[rows], labels=labels[rows], truth=self.truth[rows],
            folds=self.folds[rows], sources=self.sources[rows], ranks=self.ranks[rows],
            page_score=None if self.page_score is None else self.page_score[rows],
        )  # fmt: skip


def main(_):
    chosen = flags.FLAGS
    run = read_run(chosen.workdir, chosen.truth, chosen.set)
    print(
        f"{len(run.labels):,} training images of {run.num_classes} classes, "
        f"{100 * np.mean(run.labels != run.truth):.1f} % with a wrong label; {len(run.held_labels):,} held "
        "images"
    )
    rows = read_rows(chosen.out)
    before = fit(run, run.labels, np.zeros(len(run.labels), bool), None)
    for budget in map(int, chosen.budgets):
        for error in map(float, chosen.errors):
            for name in chosen.orders if budget else ["none"]:
                for seed in range(chosen.seeds if name in DRAWN else 1):
                    key = {"order": name, "judgements": budget, "error": error, "seed": seed}
                    if any(key.items() <= row.items() for row in rows):
                        continue
                    order, by_chance = order_images(name, run, before, seed)
                    rows.append(key | measure(run, order[:budget], by_chance, error, seed))
                    tell(rows[-1], chosen.out)
    print(format_table(rows, [float(error) for error in chosen.errors]))


def read_run(root, truth_path, overrides=()):
    """Reads a work directory; writes nothing there."""
    workdir = store.Workdir(root)
    config = config_lib.load_config(os.path.join(root, "config.yaml"), list(overrides))
    if config.model.mode != "frozen" or trains(config, "train") or trains(config, "baseline"):
        raise UsageError("Expected a run with model.mode=frozen and fitted heads.")
    table = store.read_table(workdir.checked("pack", "instances.parquet"))
    splits, labels = store.column(table, "split"), store.column(table, "label").astype(np.int64)
    count = int((splits == schema.TRAIN).sum())
    with open(truth_path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        true_labels = {row["path"]: int(row["true_label"]) for row in csv.DictReader(file)}
    known = (splits == schema.TEST) & (labels >= 0)
    held = np.flatnonzero(known if known.any() else (splits == schema.VAL) & (labels >= 0))
    features = store.read_array(workdir.checked("features", "features.npy"))
    pages = config.reweight.page_text.enabled
    return Run(
        config, np.asarray(features[:count], np.float32), labels[:count],
        np.array([true_labels[path] for path in store.column(table, "path")[:count]]),
        len(store.read_json(workdir.checked("pack", "classes.json"))),
        np.asarray(store.read_array(workdir.checked("baseline", "fold.npy"))).astype(np.int64),
        store.codes_of(table.column("source"))[0][:count].astype(np.int64),
        store.column(table, "rank")[:count],
        np.asarray(store.read_array(workdir.checked("reweight", "page_score.npy"))) if pages else None,
        np.asarray(features[held], np.float32), labels[held],
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What was fitted: P(right) and the last predictions of the training images, and the head."""

    right_prob: np.ndarray
    prediction: factors.Prediction
    head: object
    probs: np.ndarray  # [N, C], out of fold, of the unweighted judge


def fit(run, labels, trusted, judged, top_k=5):
    """Everything behind the features, as the stages baseline, reweight and train do it.

    Args:
      labels: int [N], as judged.
      trusted: bool [N].
      judged: (features [m, D] of judged images that are out of training, the given labels of trusted and of
        these images, whether they are right, whether they were judged by chance); None = nobody has judged.
    """
    shared = {"folds": run.folds, "num_classes": run.num_classes}
    kind = run.config.baseline.head

    def predict(author, weight, kept):
        found = judge.out_of_fold_predictions(
            run.features, labels, kind=kind, sample_weight=weight, top_k=kept, **shared
        )
        ids, probs = found.topk_ids[:, :top_k], found.topk_probs[:, :top_k]
        anchors = None
        if judged is not None:
            left, given, right, by_chance = judged
            others = judge.predict_others(found, left, top_k=top_k)
            seen = [
                np.concatenate([mine[trusted], more]) for mine, more in zip((ids, probs), others, strict=True)
            ]
            anchors = describe_anchors(given, *seen, right, by_chance, num_classes=run.num_classes)
        return factors.Prediction(author, found.given_prob, ids, probs, anchors), found

    first, found = predict(schema.BALANCED_BASELINE, None, run.num_classes)
    probs = np.empty((len(labels), run.num_classes), np.float32)
    np.put_along_axis(probs, found.topk_ids, found.topk_probs, axis=1)
    instances = factors.Instances(
        labels, run.num_classes, first, run.folds, sources=run.sources, ranks=run.ranks,
        page_score=run.page_score, trusted=trusted if trusted.any() else None,
    )  # fmt: skip
    weighed = recipe.apply_recipe(
        instances, read_recipe(run.config),
        lambda weights: predict(schema.SECOND_ROUND, np.maximum(weights, 0), top_k)[0],
    )  # fmt: skip
    trust = np.maximum(weighed.sample_weight, 0.0)
    last = judge.out_of_fold_predictions(
        run.features, labels, kind=run.config.train.head, sample_weight=trust, trust=trust, **shared
    )
    tried = objective.try_strengths(
        run.features, labels, last.folds, last.heads, trust, num_classes=run.num_classes
    )
    strength = objective.choose_strength(tried, run.config.train.objective)
    prior = strength * objective.log_share(labels, run.num_classes)
    return Fitted(weighed.right_prob, weighed.prediction, (last.head, prior), probs)


def order_images(name, run, before, seed):
    """The order in which a person judges, by what is known before anybody has: int [N].

    And whether an image has its place in it by chance: bool [N], by image.
    """
    nobody = np.zeros(len(run.labels), bool)
    if name == "none":
        return np.empty(0, np.int64), nobody
    if name == "random":
        return np.random.default_rng(seed).permutation(len(run.labels)), ~nobody
    if name == "doubtful":
        return np.argsort(before.right_prob, kind="stable"), nobody
    if name == "queue":
        value = compute_judging_value(
            before.right_prob, run.labels, before.prediction.topk_ids, before.prediction.topk_probs,
            num_classes=run.num_classes,
        )  # fmt: skip
        drawn = draw_judging_order(value, seed=seed)
        return drawn.order, drawn.at_random
    probs = before.probs / before.probs.sum(axis=1, keepdims=True)
    if name == "cleanlab":
        from cleanlab.rank import get_label_quality_scores

        return np.argsort(get_label_quality_scores(run.labels, probs), kind="stable"), nobody
    from cleanlab.multiannotator import get_active_learning_scores

    scores, _ = get_active_learning_scores(run.labels[:, None], probs)
    return np.argsort(scores, kind="stable"), nobody


def say(run, order, error, seed):
    """What the person says of the images of an order: labels int [n], -1 = none of the classes."""
    generator = np.random.default_rng([seed, 1])
    said, given = run.truth[order].copy(), run.labels[order]
    errs = generator.random(len(order)) < error
    any_other = (given + generator.integers(1, run.num_classes + 1, len(order))) % (run.num_classes + 1)
    any_other = np.where(any_other == run.num_classes, -1, any_other)
    return np.where(errs, np.where(said == given, any_other, given), said)


def measure(run, order, by_chance, error, seed):
    """A row: accuracies and shares of wrong labels, in percent, with the first images of an order judged."""
    said = say(run, order, error, seed)
    labels, trusted, kept = run.labels.copy(), np.zeros(len(run.labels), bool), np.ones(len(run.labels), bool)
    labels[order], trusted[order[said >= 0]], kept[order[said < 0]] = said, True, False
    rows, left = np.flatnonzero(kept), order[said < 0]
    judged = None
    if len(order):
        given = np.concatenate([run.labels[rows][trusted[rows]], run.labels[left]])
        right = np.concatenate([(labels == run.labels)[rows][trusted[rows]], np.zeros(len(left), bool)])
        chance = np.concatenate([by_chance[rows][trusted[rows]], by_chance[left]])
        judged = run.features[left], given, right, chance
    ranks = np.where(labels != run.labels, 0, run.ranks)  # of another class's query
    part = dataclasses.replace(run, ranks=ranks).take(rows, labels)
    found = fit(part, part.labels, trusted[rows], judged)
    head, prior = found.head
    hits = (head.logits(run.held) + prior).argmax(axis=1) == run.held_labels
    by_class = [hits[run.held_labels == label].mean() for label in np.unique(run.held_labels)]
    open_rows = ~trusted[rows]
    return {
        "balanced_top1": 100 * float(np.mean(by_class)), "top1": 100 * float(hits.mean()),
        "wrong_among_judged": 100 * float((run.labels != run.truth)[order].mean()) if len(order) else None,
        "wrong_left": 100 * float((part.labels != part.truth)[open_rows].mean()),
        "wrong_left_estimate": 100 * float(1 - found.right_prob[open_rows].mean()),
    }  # fmt: skip


def tell(row, path):
    """A line on the screen, and one in the file."""
    print(" ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                   for name, value in row.items()), flush=True)  # fmt: skip
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def read_rows(path):
    """The rows of an earlier call."""
    if not path or not pathlib.Path(path).exists():
        return []
    return [json.loads(line) for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines()]


def format_table(rows, errors):
    """Means over seeds by order and number of judgements, for each share of errors."""
    lines = []
    for error in errors:
        found = collections.defaultdict(list)
        for row in rows:
            if row["error"] == error:
                found[row["order"], row["judgements"]].append(row["balanced_top1"])
        budgets = sorted({budget for _, budget in found})
        means = {key: float(np.mean(values)) for key, values in found.items()}
        lines.append(f"\nA person who errs in {error:.0%}: top-1, each class alike, in percent")
        lines.append(f"{'order':<12}" + "".join(f"{budget:>9,}" for budget in budgets))
        for name in ORDERS:
            if any(order == name for order, _ in found):
                cells = [means.get((name, budget), means.get(("none", budget))) for budget in budgets]
                lines.append(
                    f"{name:<12}" + "".join("".rjust(9) if c is None else f"{c:9.2f}" for c in cells)
                )
        for name in ORDERS:
            worths = [f"{budget} for {text}" for budget in budgets
                      if (text := worth(means, name, budget)) and name != "random"]  # fmt: skip
            if worths:
                lines.append(f"{name}, in judgements at random: " + ", ".join(worths))
    return "\n".join(lines)


def worth(means, name, budget):
    """How many judgements at random reach what so many of an order reach; None where that cannot be told.

    Between the measured numbers it is interpolated, on a curve that is made to rise.
    """
    reached = means.get((name, budget))
    places = sorted(count for order, count in means if order == "random")
    if reached is None or not places or not budget:
        return None
    start = means.get(("none", 0))
    curve = ([(0, start)] if start is not None else []) + [
        (place, means["random", place]) for place in places
    ]
    counts, values = np.array(curve, float).T
    values = np.maximum.accumulate(values)
    if reached > values[-1]:
        return f"more than {counts[-1]:.0f}"
    at = int(np.searchsorted(values, reached))
    if at == 0:
        return "0"
    share = (reached - values[at - 1]) / max(values[at] - values[at - 1], 1e-12)
    return f"{counts[at - 1] + share * (counts[at] - counts[at - 1]):.0f}"


if __name__ == "__main__":
    define_flags()
    app.run(main)
