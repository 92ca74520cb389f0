"""Weights from arrays: against hand-made numbers, and against what the stage writes for the same arrays."""

import dataclasses
import json

import numpy as np
import pytest

import urnet_tf
from urnet_tf.api.recipes import named_recipe
from urnet_tf.errors import UsageError
from urnet_tf.reweighting.class_moments import deal_folds
from urnet_tf.reweighting.judge import out_of_fold_predictions

SIZES, DIM = (12, 20, 9), 6
NAMES = ["lion", "school bus", "pizza"]


@pytest.fixture(scope="module")
def crawl():
    """Three classes in no order, a third of the labels wrong; predictions and features tell the truth."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2], SIZES))
    truth = np.where(rng.random(len(labels)) < 0.3, (labels + 1) % 3, labels)
    probs = np.full((len(labels), 3), 0.1) + 0.05 * rng.random((len(labels), 3))
    probs[np.arange(len(labels)), truth] += 0.7
    return {
        "labels": labels, "pred_probs": probs / probs.sum(axis=1, keepdims=True), "truth": truth,
        "features": np.eye(3, DIM)[truth] * 3 + 0.5 * rng.standard_normal((len(labels), DIM)),
        "texts": [f"my {NAMES[t]}" if i % 5 else None for i, t in enumerate(truth)],
        "class_names": NAMES,
        "sources": [("google", "flickr")[i % 2] for i in range(len(labels))],
        "ranks": np.arange(len(labels)) % 7 + 1,
    }  # fmt: skip


def all_of(crawl, **others):
    return {name: value for name, value in crawl.items() if name != "truth"} | others


def told(table):
    return json.loads(table.schema.metadata[b"urnet_tf"])


def test_everything_known_everything_used(crawl):
    table = urnet_tf.compute_weights(**all_of(crawl))
    assert told(table)["left_out"] == {} and told(table)["predicted_by"] == "second_round"
    columns = {name: table[name].to_numpy() for name in table.column_names if "target" not in name}
    right = crawl["truth"] == crawl["labels"]
    np.testing.assert_array_equal(columns["label"], crawl["labels"])
    np.testing.assert_array_equal(columns["predicted_label"], crawl["truth"])
    for name in ("label_posterior", "right_prob", "sample_weight"):
        assert columns[name][right].mean() > 1.2 * columns[name][~right].mean(), name
    assert columns["sample_weight"].mean(dtype=float) == pytest.approx(1, abs=1e-5)
    for name in ("class_weight", "cluster_weight", "confidence", "self_confidence"):
        assert (columns[name] == 1).all(), name
    product = columns["label_posterior"] * columns["rank_prior"] * columns["page_text"]
    np.testing.assert_allclose(product, columns["right_prob"], rtol=1e-5)
    ids, probs = (np.array(table[f"target_{part}"].to_pylist()) for part in ("ids", "probs"))
    np.testing.assert_array_equal(ids[:, 0], crawl["labels"])
    np.testing.assert_array_equal(probs, np.tile([1, 0], (len(ids), 1)))


def test_sound_uses_its_evidence(crawl):
    table = urnet_tf.compute_weights(**all_of(crawl, recipe="sound"))
    right = crawl["truth"] == crawl["labels"]
    for name in ("cluster_weight", "confidence", "self_confidence", "sample_weight"):
        values = table[name].to_numpy()
        assert values[right].mean() > 1.2 * values[~right].mean(), name


def test_a_table_becomes_a_data_frame(crawl):
    pytest.importorskip("pandas")  # no dependency of ours
    table = urnet_tf.compute_weights(crawl["labels"], crawl["pred_probs"])
    assert table.to_pandas().shape == table.shape


def test_the_order_of_the_images_does_not_matter(crawl):
    """Inside of a class it may, as k-means begins somewhere; classes may come as they like."""
    order = np.argsort(crawl["labels"], kind="stable")
    ordered = {
        name: value if name == "class_names" else np.asarray(value)[order] for name, value in crawl.items()
    }
    folds = deal_folds(crawl["labels"], 3)
    mixed = urnet_tf.compute_weights(**all_of(crawl, folds=folds))
    plain = urnet_tf.compute_weights(**all_of(ordered, folds=folds[order]))
    assert mixed.take(order).equals(plain)


def test_without_more_than_predictions_their_confidence_is_left(crawl):
    own = urnet_tf.Recipe({"self_confidence": {}})
    table = urnet_tf.compute_weights(crawl["labels"], crawl["pred_probs"], recipe=own)
    sound = urnet_tf.compute_weights(crawl["labels"], crawl["pred_probs"], recipe="sound")
    assert set(told(sound)["left_out"]) == {"cluster_weight", "confidence"}
    assert told(sound)["left_out"]["confidence"] == ["features", "class_names"]
    best = urnet_tf.compute_weights(crawl["labels"], crawl["pred_probs"])
    assert set(told(best)["left_out"]) == {"page_text", "rank_prior"}
    prob, weight = best["right_prob"].to_numpy(), best["sample_weight"].to_numpy()
    ratio = (weight / prob)[weight > 0.051]  # the others are lifted to .05
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
    assert len(ratio) > 20
    counts = np.bincount(crawl["labels"])
    balanced = crawl["pred_probs"] / counts
    balanced /= balanced.sum(axis=1, keepdims=True)
    given = balanced[np.arange(len(balanced)), crawl["labels"]]
    np.testing.assert_allclose(table["given_prob"].to_numpy(), given, rtol=1e-5)
    mean = np.bincount(crawl["labels"], weights=given) / counts
    lifted = np.maximum(given, 0.05 * mean[crawl["labels"]])
    lifted_mean = np.bincount(crawl["labels"], weights=lifted) / counts
    expected = lifted / lifted_mean[crawl["labels"]]
    np.testing.assert_allclose(table["sample_weight"].to_numpy(), expected, rtol=1e-4)


def test_class_weights_and_targets_follow_alpha_and_beta(crawl):
    labels, probs = crawl["labels"], crawl["pred_probs"]
    recipe = urnet_tf.Recipe({"self_confidence": {}})
    table = urnet_tf.compute_weights(labels, probs, alpha=0.5, beta=0.6, recipe=recipe)
    expected = 0.5 + 0.5 * len(labels) / (3 * np.bincount(labels))
    np.testing.assert_allclose(table["class_weight"].to_numpy(), expected[labels], rtol=1e-6)
    shares = np.array(table["target_probs"].to_pylist())[:, 0]
    np.testing.assert_allclose(shares, 0.6 + 0.4 * table["given_prob"].to_numpy(), rtol=1e-5)
    own = dataclasses.replace(named_recipe("paper"), target=None)
    table = urnet_tf.compute_weights(**all_of(crawl, recipe=own))
    np.testing.assert_array_equal(table["target_probs"].to_pylist(), [[1, 0]] * len(labels))
    product = np.prod([table[n].to_numpy() for n in ("class_weight", "cluster_weight", "confidence")], axis=0)
    np.testing.assert_allclose(table["sample_weight"].to_numpy(), product, rtol=1e-5)
    raw = np.argmax(probs, axis=1)
    np.testing.assert_array_equal(table["predicted_label"].to_numpy(), raw)


def test_the_paper_asks_a_head_about_the_images_that_it_has_seen(crawl):
    """Without predictions: one fold, classes as frequent as here, equal to the head's own probabilities."""
    labels, features = crawl["labels"], crawl["features"]
    table = urnet_tf.compute_weights(labels, features=features, recipe="paper", class_names=NAMES)
    assert told(table)["predicted_by"] == "baseline" and told(table)["left_out"] == {}
    head = out_of_fold_predictions(features, labels, folds=deal_folds(labels, 5), priors="empirical").head
    logits = features @ head.kernel + head.bias
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    given = table["given_prob"].to_numpy()
    np.testing.assert_allclose(given, probs[np.arange(len(labels)), labels], rtol=1e-3)
    np.testing.assert_array_equal(table["predicted_label"].to_numpy(), probs.argmax(axis=1))
    unseen = urnet_tf.compute_weights(labels, features=features, recipe="paper", class_names=NAMES, folds=5)
    assert given.mean() > unseen["given_prob"].to_numpy().mean() + 0.01
    groups = np.arange(len(labels)) // 2  # copies share a fold while the strength is chosen, too
    copies = urnet_tf.compute_weights(
        labels, features=features, recipe="paper", class_names=NAMES, groups=groups
    )
    assert told(copies)["predicted_by"] == "baseline"
    with pytest.raises(UsageError, match="at least two folds"):
        urnet_tf.compute_weights(labels, features=features, folds=1)


def test_a_judgement_serves_as_predictions(crawl):
    groups = np.arange(len(crawl["labels"])) // 2
    judgement = urnet_tf.out_of_fold_predictions(
        crawl["features"], crawl["labels"], folds=deal_folds(crawl["labels"], 4, groups)
    )
    columns = {"features": crawl["features"], "groups": groups, "rounds": 1}
    once = urnet_tf.compute_weights(crawl["labels"], judgement, **columns)
    np.testing.assert_array_equal(once["given_prob"].to_numpy(), judgement.given_prob)
    again = urnet_tf.compute_weights(crawl["labels"], **columns)  # sums up in another order
    assert again["predicted_label"].equals(once["predicted_label"])
    for name in ("given_prob", "sample_weight"):
        np.testing.assert_allclose(again[name].to_numpy(), once[name].to_numpy(), rtol=2e-3)


def test_copies_share_a_fold(crawl):
    groups = np.random.default_rng(1).integers(0, 10, len(crawl["labels"]))
    folds = deal_folds(crawl["labels"], 3, groups)
    assert all(len(set(folds[groups == group])) == 1 for group in range(10)) and len(set(folds)) == 3
    torn = folds.copy()
    torn[groups == groups[0]] = np.arange((groups == groups[0]).sum()) % 2
    with pytest.raises(UsageError, match="copies of one picture in one fold; received group"):
        urnet_tf.compute_weights(crawl["labels"], crawl["pred_probs"], groups=groups, folds=torn)


def test_rare_classes_that_nobody_predicts_do_not_divide_by_zero():
    probs = np.eye(3)[[0, 0, 1, 2]]  # sure of a class without images
    table = urnet_tf.compute_weights([0, 0, 1, 1], probs)
    assert np.isfinite(table["sample_weight"].to_numpy()).all()
    assert table["predicted_label"].to_pylist() == [0, 0, 1, 2]


@pytest.mark.parametrize("own", [{"cluster_weight": {}}, {"page_text": {}}, {"rank_prior": {}}])
def test_an_own_recipe_asks_for_what_it_needs(crawl, own):
    with pytest.raises(UsageError, match="of your recipe"):
        urnet_tf.compute_weights(crawl["labels"], crawl["pred_probs"], recipe=urnet_tf.Recipe(own))
    table = urnet_tf.compute_weights(**all_of(crawl, recipe=urnet_tf.Recipe(own)))
    (name,) = own
    assert np.isfinite(table[name].to_numpy()).all() and (table["self_confidence"].to_numpy() == 1).all()
    if name != "rank_prior":  # whose ranks tell nothing here
        assert table[name].to_numpy().std() > 0


def test_copies_of_a_picture_count_once_in_their_class_where_the_recipe_says_so(crawl):
    groups = np.arange(len(crawl["labels"]))
    groups[crawl["labels"] == 0] = np.flatnonzero(crawl["labels"] == 0)[0]
    table = urnet_tf.compute_weights(
        crawl["labels"], crawl["pred_probs"], groups=groups, recipe=urnet_tf.Recipe({}, copies_once=True)
    )
    weight, of_first = table["sample_weight"].to_numpy(), crawl["labels"] == 0
    assert weight[of_first] == pytest.approx(weight[~of_first][0] / of_first.sum(), abs=1e-6)
    assert len(set(weight[~of_first])) == 1
