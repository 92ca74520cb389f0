"""Words of classes beside pictures: by hand, and on labels of which it is known which are wrong."""

import dataclasses

import numpy as np
import pytest

from urnet_tf.reweighting import factors, recipe, zero_shot
from urnet_tf.reweighting.evidence import update_right_prob
from urnet_tf.reweighting.label_posterior import score_pairs
from urnet_tf.schema import BALANCED_BASELINE

CLASSES, ROWS = 6, 3000
BOTH = factors.Recipe({"label_posterior": {}, "zero_shot": {}})


def auroc(score, right):
    """The share of pairs of a right and a wrong label that the score puts in order."""
    order = np.argsort(np.argsort(score)) + 1
    count = right.sum()
    return (order[right].sum() - count * (count + 1) / 2) / (count * (~right).sum())


def surprise(prob, right):
    prob = np.clip(prob, 1e-3, 1 - 1e-3)
    return -np.where(right, np.log(prob), np.log1p(-prob)).mean()


def make(kind, seed=0):
    """40 % of the labels are wrong; models see the truth badly, the texts as `kind` says."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, CLASSES, ROWS)
    wrong = generator.random(ROWS) < 0.4
    labels = np.where(wrong, (truth + generator.integers(1, CLASSES, ROWS)) % CLASSES, truth)
    texts = zero_shot.unit_rows(generator.normal(size=(CLASSES, 32)))
    logits = 1.5 * np.eye(CLASSES)[truth] + generator.normal(size=(ROWS, CLASSES))
    images = {
        "tells": np.eye(CLASSES)[truth] @ texts * 2 + generator.normal(size=(ROWS, 32)) * 0.7,
        "noise": generator.normal(size=(ROWS, 32)),
        "lies": -np.eye(CLASSES)[truth] @ texts * 2 + generator.normal(size=(ROWS, 32)) * 0.7,
        "repeats": logits @ np.linalg.pinv(texts).T,  # cosines that are the models' own logits
    }[kind]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    order = np.argsort(-probs, axis=1)[:, :4]
    prediction = factors.Prediction(
        BALANCED_BASELINE, probs[np.arange(ROWS), labels], order.astype(np.int32),
        np.take_along_axis(probs, order, axis=1),
    )  # fmt: skip
    instances = factors.Instances(
        labels, CLASSES, prediction, np.arange(ROWS) % 4, np.zeros(ROWS, int), np.ones(ROWS, int),
        image_text=zero_shot.ImageText(images, texts, 20.0 if kind != "repeats" else 5.0),
    )  # fmt: skip
    return instances, ~wrong


def test_images_beside_texts_by_hand():
    # Cosines .6 and .8, 1 and 0, 0 and 1 of two images with three classes: the third text is -the first.
    images = np.array([[3.0, 4.0], [2.0, 0.0]])
    texts = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], np.float32)
    found = zero_shot.ImageText(images, texts, 10.0).compare(np.array([0, 2]), np.array([[1], [0]]))
    np.testing.assert_allclose(found.cosine, [0.6, -1.0], rtol=1e-6)
    weights = np.exp(np.array([[6.0, 8.0, -6.0], [10.0, 0.0, -10.0]]))
    np.testing.assert_allclose(
        found.given_prob, weights[[0, 1], [0, 2]] / weights.sum(axis=1), rtol=1e-5, atol=1e-9
    )
    assert found.best.tolist() == [1, 0]
    # Given: 6 against 8, -10 against 10. Planted: 8 against 6, 10 against 0. Left: class 2 of the first,
    # class 1 of the second.
    np.testing.assert_allclose(found.margin, [-2.0, -20.0], rtol=1e-5)
    np.testing.assert_allclose(found.planted, [[2.0, -14.0], [10.0, -10.0]], rtol=1e-4)


def test_chunks_and_one_by_one_are_the_same(monkeypatch):
    instances, _ = make("tells")
    found = instances.image_text.compare(instances.labels, instances.prediction.topk_ids)
    monkeypatch.setattr(zero_shot, "_CHUNK", 7)
    again = instances.image_text.compare(instances.labels[:100], instances.prediction.topk_ids[:100])
    for field in dataclasses.fields(found):
        np.testing.assert_allclose(
            getattr(found, field.name)[:100], getattr(again, field.name), rtol=1e-3, atol=1e-4
        )
    logits = (
        20.0 * zero_shot.unit_rows(instances.image_text.image_vectors) @ instances.image_text.class_vectors.T
    )
    for row in range(50):
        own = instances.labels[row]
        others = np.delete(logits[row], own).max()
        assert found.margin[row] == pytest.approx(logits[row, own] - others, abs=1e-3)
        left = [k for k in range(CLASSES) if k != own and k not in instances.prediction.topk_ids[row]]
        if left:
            mean = np.log(np.exp(logits[row, left]).mean())
            assert found.planted[row, -1] == pytest.approx(mean - logits[row].max(), abs=1e-3)


def test_texts_that_tell_make_p_better():
    instances, right = make("tells")
    column = instances.image_text.compare(instances.labels, instances.labels[:, None]).given_prob
    assert auroc(column, right) > 0.97
    before = recipe.apply_recipe(instances, factors.Recipe({"label_posterior": {}})).right_prob
    weighed = recipe.apply_recipe(instances, BOTH)
    assert auroc(weighed.right_prob, right) > 0.97 > auroc(before, right) + 0.05
    assert surprise(weighed.right_prob, right) < 0.5 * surprise(before, right)
    assert weighed.right_prob.mean() == pytest.approx(right.mean(), abs=0.04)
    product = weighed.factors["label_posterior"] * weighed.factors["zero_shot"]
    np.testing.assert_allclose(product, weighed.right_prob, rtol=1e-4)
    assert weighed.factors["zero_shot"][right].mean() > 2 * weighed.factors["zero_shot"][~right].mean()


@pytest.mark.parametrize("kind", ["noise", "lies", "repeats"])
def test_texts_that_add_nothing_move_nothing(kind):
    instances, _ = make(kind)
    prob, (own, second) = instances.by_texts
    assert (own, second) == (1.0, 0.0)
    np.testing.assert_array_equal(prob, instances.posterior.prob)
    assert (recipe.apply_recipe(instances, BOTH).factors["zero_shot"] == 1).all()


def test_what_the_models_have_seen_already_is_not_counted_twice():
    instances, right = make("repeats")
    margin = instances.image_text.compare(instances.labels, instances.labels[:, None]).margin
    twice = update_right_prob(
        instances.posterior.prob, margin, instances.sources, instances.folds, relative_to_group=True
    )
    assert surprise(twice, right) > surprise(instances.posterior.prob, right) + 0.1
    np.testing.assert_array_equal(instances.by_texts[0], instances.posterior.prob)


def test_trusted_labels_stay_and_teach_nothing():
    instances, _ = make("tells")
    trusted = np.arange(ROWS) < 500
    known = dataclasses.replace(instances, trusted=trusted)
    changed = np.array(instances.image_text.image_vectors)
    changed[trusted] = 0.0
    other = dataclasses.replace(
        known, image_text=dataclasses.replace(instances.image_text, image_vectors=changed)
    )
    assert (known.by_texts[0][trusted] == 1).all() and known.by_texts[1][1] > 0
    np.testing.assert_array_equal(known.by_texts[0], other.by_texts[0])


def test_weights_are_those_of_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    instances, _ = make("tells")
    seen = instances.prediction
    score, planted, share = score_pairs(
        seen.given_prob, seen.topk_ids, seen.topk_probs, instances.labels, CLASSES
    )
    beside = instances.image_text.compare(instances.labels, seen.topk_ids)
    share = share * instances.posterior.prob[:, None]  # planted labels are wrong where the given one is right
    own, second = zero_shot.weigh_scores(score, beside.margin, planted, beside.planted, share)
    given = np.stack([score, beside.margin], axis=1)
    other = np.stack([planted.ravel(), beside.planted.ravel()], axis=1)
    weight = np.concatenate([np.ones(ROWS), share.ravel() * ROWS / share.sum()])
    model = LogisticRegression(C=25.0, tol=1e-10, max_iter=1000).fit(
        np.clip(np.concatenate([given, other]), -20, 20), np.arange(len(weight)) < ROWS, weight
    )
    np.testing.assert_allclose([own, second], model.coef_[0], rtol=1e-4)


def test_few_images_and_equal_ones_change_nothing():
    texts = zero_shot.ImageText(np.zeros((4, 3)), np.eye(3, dtype=np.float32), 50.0)
    prediction = factors.Prediction(
        "baseline", np.full(4, 0.4), np.tile([0, 1], (4, 1)), np.full((4, 2), 0.4)
    )
    instances = factors.Instances(
        np.array([0, 1, 2, 0]), 3, prediction, np.zeros(4, int), np.zeros(4, int), np.ones(4, int),
        image_text=texts,
    )  # fmt: skip
    np.testing.assert_array_equal(instances.by_texts[0], instances.posterior.prob)
    many = np.tile(instances.labels, 25)
    prediction = factors.Prediction(
        "baseline", np.full(100, 0.4), np.tile([0, 1], (100, 1)), np.full((100, 2), 0.4)
    )
    equal = factors.Instances(
        many, 3, prediction, np.arange(100) % 4, np.zeros(100, int), np.ones(100, int),
        image_text=dataclasses.replace(texts, image_vectors=np.ones((100, 3))),
    )  # fmt: skip
    np.testing.assert_array_equal(equal.by_texts[0], equal.posterior.prob)
