"""Logistic regression: its gradient, its optimum beside scikit-learn's, targets, weights, hostile input."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from urnet_tf.errors import UsageError
from urnet_tf.reweighting import logistic
from urnet_tf.reweighting.logistic import LogisticProblem


def draw(rows=120, dim=5, classes=3, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.append(np.arange(classes), generator.integers(0, classes, rows - classes))
    return 2.0 + 0.7 * generator.normal(size=(classes, dim))[labels] + generator.normal(
        size=(rows, dim)
    ), labels


def log_probs(logits):
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def random_targets(rows, classes, seed=1):
    generator = np.random.default_rng(seed)
    return generator.integers(0, classes, (rows, 3)), generator.dirichlet(np.ones(3), rows)


@pytest.mark.parametrize("without_fold", [None, 1])
def test_gradient_is_that_of_finite_differences(without_fold):
    features, labels = draw(rows=40)
    generator = np.random.default_rng(2)
    problem = LogisticProblem(
        features,
        labels,
        folds=np.arange(40) % 3,
        sample_weight=generator.random(40),
        targets=random_targets(40, 3),
        prior_logits=np.array([0.3, -1.0, 0.1]),
        block_rows=16,
    )
    point = generator.normal(size=(6, 3))

    def loss(at):
        return problem.objective(at[:-1], at[-1], strength=0.2, without_fold=without_fold)[0]

    _, by_kernel, by_bias = problem.objective(point[:-1], point[-1], strength=0.2, without_fold=without_fold)
    gradient = np.vstack([by_kernel, by_bias])
    for index in np.ndindex(point.shape):
        step = np.zeros(point.shape)
        step[index] = 1e-5
        slope = (loss(point + step) - loss(point - step)) / 2e-5
        assert gradient[index] == pytest.approx(slope, abs=1e-7)


def test_loss_by_hand():
    # Centered features -1 and 1, mean square 1: x = -1, 1. Scores of the first image: 0 and -1.
    problem = LogisticProblem(np.array([[3.0], [5.0]]), np.array([0, 1]), prior_logits=np.zeros(2))
    loss, _, _ = problem.objective(np.array([[0.0, 1.0]]), np.zeros(2), strength=0.5)
    assert loss == pytest.approx(np.log(1 + np.exp(-1)) + 0.25)


@pytest.mark.parametrize("strength", [1.0, 0.01])
def test_optimum_is_sklearns(strength):
    features, labels = draw()
    weight = np.random.default_rng(3).random(len(labels))
    problem = LogisticProblem(features, labels, sample_weight=weight, prior_logits=np.zeros(3))
    head = problem.fit(strength, tolerance=1e-8)
    # Theirs sums the loss over images and does not scale: C = 1 / (strength sum(w)) on x / rms.
    rms = np.sqrt(np.square(features - np.average(features, axis=0)).sum(axis=1).mean())
    theirs = LogisticRegression(C=1 / (strength * weight.sum()), tol=1e-10, max_iter=10000)
    theirs.fit(features / rms, labels, sample_weight=weight)
    np.testing.assert_allclose(
        log_probs(head.logits(features)), theirs.predict_log_proba(features / rms), atol=1e-5
    )


def test_without_a_fold_is_fitting_the_rest():
    features, labels = draw()
    folds = np.arange(len(labels)) % 3
    rest = folds != 1
    # Scaled by the whole's mean square either way, so the strength is the same.
    whole = LogisticProblem(features, labels, folds=folds, prior_logits=np.zeros(3))
    alone = LogisticProblem(
        features[rest], labels[rest], prior_logits=np.zeros(3), moments=_moments(features)
    )
    np.testing.assert_allclose(
        whole.fit(0.05, without_fold=1, tolerance=1e-8).kernel,
        alone.fit(0.05, tolerance=1e-8).kernel,
        atol=1e-6,
    )


def test_a_fold_with_all_images_of_a_class_leaves_the_rest():
    features, labels = draw()
    labels = np.append(labels[:-2], [3, 3])
    folds = (labels == 3).astype(int)
    whole = LogisticProblem(
        features, labels, folds=folds, prior_logits=np.zeros(4), moments=_moments(features)
    )
    alone = LogisticProblem(features[:-2], labels[:-2], prior_logits=np.zeros(3), moments=_moments(features))
    np.testing.assert_allclose(
        whole.fit(0.05, without_fold=1, tolerance=1e-8).kernel[:, :3],
        alone.fit(0.05, tolerance=1e-8).kernel,
        atol=1e-6,
    )


def _moments(features):
    return logistic.sum_moments(features, np.zeros(len(features), int))


def test_weights_are_copies_of_rows():
    features, labels = draw()
    weight = np.random.default_rng(5).integers(0, 3, len(labels))
    rows = np.repeat(np.arange(len(labels)), weight)
    moments = _moments(features)
    weighted = LogisticProblem(features, labels, sample_weight=0.2 * weight, moments=moments)
    copied = LogisticProblem(features[rows], labels[rows], moments=moments)
    np.testing.assert_allclose(
        weighted.fit(0.02, tolerance=1e-8).kernel, copied.fit(0.02, tolerance=1e-8).kernel, atol=1e-6
    )


def test_soft_targets_are_weighted_copies_of_rows():
    features, labels = draw()
    ids, probs = random_targets(len(labels), 3)
    soft = LogisticProblem(features, labels, targets=(ids, probs))
    copied = LogisticProblem(
        np.repeat(features, 3, axis=0), ids.ravel(), sample_weight=probs.ravel(), moments=_moments(features)
    )
    np.testing.assert_allclose(
        soft.fit(0.02, tolerance=1e-8).kernel, copied.fit(0.02, tolerance=1e-8).kernel, atol=1e-6
    )


def test_prior_logits_are_added_while_fitting_only():
    features, labels = draw()
    prior = np.array([0.0, 1.0, -2.0])
    plain = LogisticProblem(features, labels, prior_logits=np.zeros(3)).fit(0.1, tolerance=1e-8)
    adjusted = LogisticProblem(features, labels, prior_logits=prior).fit(0.1, tolerance=1e-8)
    # The bias is free, so that the optimum is the same one and the head lacks the prior.
    np.testing.assert_allclose(
        log_probs(adjusted.logits(features) + prior), log_probs(plain.logits(features)), atol=1e-5
    )


def test_logits_are_class_balanced_by_default():
    features, labels = draw()
    share = np.bincount(labels) / len(labels)
    default = LogisticProblem(features, labels).fit(0.1, tolerance=1e-8)
    given = LogisticProblem(features, labels, prior_logits=np.log(share)).fit(0.1, tolerance=1e-8)
    np.testing.assert_allclose(default.bias, given.bias, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_scale_and_origin_of_the_features_do_not_matter(scale):
    features, labels = draw()
    plain = LogisticProblem(features, labels).fit(0.01, tolerance=1e-8)
    moved = LogisticProblem(scale * (features - 9.0), labels).fit(0.01, tolerance=1e-8)
    np.testing.assert_allclose(
        moved.logits(scale * (features - 9.0)), plain.logits(features), rtol=1e-5, atol=1e-5
    )


def test_blocks_and_reading_again_change_nothing(monkeypatch, tmp_path):
    features, labels = draw()
    np.save(tmp_path / "features.npy", features.astype(np.float16))
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    held = LogisticProblem(mapped.astype(np.float32), labels).fit(0.02, tolerance=1e-5)
    monkeypatch.setattr(logistic, "_HELD_BYTES", 0)
    read = LogisticProblem(mapped, labels, block_rows=11).fit(0.02, tolerance=1e-5)
    np.testing.assert_allclose(read.kernel, held.kernel, atol=1e-4)


def test_the_start_changes_the_time_only():
    features, labels = draw()
    problem = LogisticProblem(features, labels, folds=np.arange(len(labels)) % 2)
    near = problem.fit(0.03, tolerance=1e-8)
    calls, objective = [], problem.objective
    problem.objective = lambda *a, **k: calls.append(1) or objective(*a, **k)
    cold = problem.fit(0.03, tolerance=1e-6)
    from_nothing, calls[:] = len(calls), []
    warm = problem.fit(0.03, start=near, tolerance=1e-6)
    assert len(calls) < from_nothing / 2
    np.testing.assert_allclose(warm.kernel, cold.kernel, atol=1e-5)


def test_a_class_without_images_is_never_likely():
    features, labels = draw()
    head = LogisticProblem(features, labels, num_classes=5).fit(0.05, tolerance=1e-8)
    fewer = LogisticProblem(features, labels).fit(0.05, tolerance=1e-8)
    probs = np.exp(log_probs(head.logits(features)))
    assert probs[:, 3:].max() < 1e-6
    np.testing.assert_allclose(probs[:, :3], np.exp(log_probs(fewer.logits(features))), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.7])
def test_constant_features_tell_only_how_frequent_classes_are(value):
    labels = np.repeat([0, 1], [30, 10])
    problem = LogisticProblem(np.full((40, 5), value, np.float32), labels, prior_logits=np.zeros(2))
    probs = np.exp(log_probs(problem.fit(0.1, tolerance=1e-7).logits(np.full((1, 5), value))))
    np.testing.assert_allclose(probs, [[0.75, 0.25]], atol=1e-4)


def test_one_class_alone_is_certain():
    head = LogisticProblem(np.eye(4), np.ones(4, int), num_classes=2).fit(0.1)
    assert np.exp(log_probs(head.logits(np.eye(4))))[:, 1].min() > 1 - 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.full((4, 2), np.nan)}, "finite features"),
        ({"targets": (np.zeros((3, 1), int), np.ones((3, 1)))}, "both \\[4, K\\]"),
        ({"targets": (np.full((4, 1), 3), np.ones((4, 1)))}, "ids in 0..2"),
        ({"targets": (np.zeros((4, 1), int), np.full((4, 1), np.nan))}, "probabilities of 0 or more"),
        ({"prior_logits": np.zeros(2)}, "3 finite prior_logits"),
        ({"prior_logits": np.array([0, 0, -np.inf])}, "3 finite prior_logits"),
    ],
)
def test_what_is_refused(change, message):
    arguments = {"features": np.eye(4, 2), "labels": np.array([0, 1, 2, 0])} | change
    with pytest.raises(UsageError, match=message):
        LogisticProblem(**arguments)


def test_a_strength_of_nothing_and_a_fold_of_all_are_refused():
    problem = LogisticProblem(np.eye(4, 2), np.array([0, 1, 2, 0]))
    with pytest.raises(UsageError, match="a strength above 0; received 0"):
        problem.fit(0)
    with pytest.raises(UsageError, match="outside of fold 0"):
        problem.fit(0.1, without_fold=0)
