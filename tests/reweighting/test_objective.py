"""The trade between large and small classes: by hand, and on classes of planted sizes."""

import numpy as np
import pytest

from urnet_tf.reweighting import objective
from urnet_tf.reweighting.linear_head import LinearHead


def tried_by_hand():
    # One feature, which is the logit of class 1 minus that of class 0; six images of class 0 and two of 1, so
    # that log shares differ by log 3 = 1.0986. Predicted class 1 where x > 0, > .5493, > 1.0986.
    features = np.array([[-1.0], [-0.5], [-0.2], [0.3], [0.4], [0.9], [0.7], [2.0]], np.float32)
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    head = LinearHead(np.array([[0.0, 1.0]], np.float32), np.zeros(2, np.float32))
    return objective.try_strengths(
        features, labels, np.arange(8) % 2, [head, head], np.ones(8), num_classes=2
    )


def test_by_hand():
    balanced, between, plain = tried_by_hand()
    assert (balanced.plain, balanced.balanced) == pytest.approx((5 / 8, (3 / 6 + 1) / 2))
    assert (between.plain, between.balanced) == pytest.approx((7 / 8, (5 / 6 + 1) / 2))
    assert (plain.plain, plain.balanced) == pytest.approx((7 / 8, (6 / 6 + 1 / 2) / 2))
    assert balanced.lost == pytest.approx(2 / 8) and between.lost == plain.lost == 0
    # Differences 1, 1 and six of 0, less their mean .25: squares 2 .5625 + 6 .0625 = 1.5.
    assert balanced.error == pytest.approx(1.96 * np.sqrt(1.5) / 8)


def test_auto_balances_as_far_as_plain_accuracy_does_not_drop_beyond_chance():
    tried = tried_by_hand()
    assert objective.choose_strength(tried, "balanced") == 0.0
    assert objective.choose_strength(tried, "plain") == 1.0
    assert objective.choose_strength(tried, "auto") == 0.0  # .25 lost, .30 is chance
    certain = [objective.Tried(t.strength, t.plain, t.balanced, t.lost, 0.1) for t in tried]
    assert objective.choose_strength(certain, "auto") == 0.5


def test_trust_is_what_an_image_counts():
    features = np.array([[-1.0], [1.0], [1.0]], np.float32)
    head = LinearHead(np.array([[0.0, 1.0]], np.float32), np.zeros(2, np.float32))
    first, *_ = objective.try_strengths(
        features, np.array([0, 0, 1]), np.zeros(3, int), [head], np.array([2.0, 0.0, 1.0]), num_classes=2
    )
    assert first.plain == 1.0 and first.balanced == 1.0


def test_heads_that_saw_an_image_are_not_asked():
    head = LinearHead(np.array([[0.0, 1.0]], np.float32), np.zeros(2, np.float32))
    wrong = LinearHead(-head.kernel, head.bias)
    features, labels = np.array([[-1.0], [1.0]], np.float32), np.array([0, 1])
    first, *_ = objective.try_strengths(
        features, labels, np.array([0, 1]), [head, wrong], np.ones(2), num_classes=2
    )
    assert first.plain == 0.5


def test_the_trade_is_told_with_what_was_taken():
    text = objective.format_trade(tried_by_hand(), 0.5)
    assert "classes alike  each class  75.0 %   each image  62.5 %\n" in text
    assert text.count("<- taken") == 1 and "87.5 %  <- taken" in text


def test_shares_of_classes_without_images_are_finite():
    np.testing.assert_allclose(
        np.exp(objective.log_share(np.array([0, 0, 2]), 3)), np.array([2, 0.5, 1]) / 3.5
    )
