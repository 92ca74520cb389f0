"""Self-confidence weights, and the share of right labels by the confident joint."""

import numpy as np
import pytest

from urnet_tf.reweighting.self_confidence import compute_self_confidence_weight, estimate_clean_rate


def test_weight_by_hand():
    weights = compute_self_confidence_weight(
        np.array([0.9, 0.3, 0.0, 0.5]), np.array([0, 0, 0, 1]), num_classes=2, floor=0.05
    )
    # Class 0: mean 0.4, floor 0.02: 0.9, 0.3, 0.02 with mean 1.22 / 3.
    np.testing.assert_allclose(weights, [2.7 / 1.22, 0.9 / 1.22, 0.06 / 1.22, 1.0], rtol=1e-5)


def test_clean_rate_by_hand():
    # Thresholds: class 0 (0.9 + 0.7 + 0.2) / 3 = 0.6, class 1 (0.8 + 0.4) / 2 = 0.6.
    labels = np.array([0, 0, 0, 1, 1])
    probs = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.2, 0.8], [0.6, 0.4]])
    # Counted: 0 kept, 1 kept, 2 looks like class 1, 3 kept, 4 looks like class 0 (0.6 reaches 0.6).
    topk_ids = np.argsort(-probs, axis=1)
    topk_probs = np.take_along_axis(probs, topk_ids, axis=1)
    given = probs[np.arange(5), labels]
    rate = estimate_clean_rate(given, topk_ids, topk_probs, labels, num_classes=3)
    assert rate == pytest.approx((3 * 2 / 3 + 2 * 1 / 2) / 5)


def test_clean_rate_of_a_good_classifier_is_the_planted_one():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 10, 5000)
    wrong = generator.random(5000) < 0.3
    labels = np.where(wrong, (truth + generator.integers(1, 10, 5000)) % 10, truth)
    probs = np.full((5000, 10), 0.02) + generator.random((5000, 10)) * 0.01
    probs[np.arange(5000), truth] += generator.uniform(0.5, 1.0, 5000)
    probs /= probs.sum(axis=1, keepdims=True)
    ids = np.argsort(-probs, axis=1)[:, :3]
    rate = estimate_clean_rate(
        probs[np.arange(5000), labels], ids, np.take_along_axis(probs, ids, 1), labels, num_classes=10
    )
    assert rate == pytest.approx(1 - wrong.mean(), abs=0.01)


def test_clean_rate_of_nothing_counted_is_one():
    rate = estimate_clean_rate(
        np.zeros(2), np.zeros((2, 1), int), np.ones((2, 1)), np.array([0, 0]), num_classes=1
    )
    assert rate == 1.0
