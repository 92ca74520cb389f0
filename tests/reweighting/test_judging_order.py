"""Which image to judge next: values by hand, and what the first of an order tell of all."""

import numpy as np
import pytest

from urnet_tf.reweighting.judging_order import (
    compute_judging_value,
    draw_judging_order,
    estimate_wrong_share,
)


def test_values_by_hand():
    right = np.array([1.0, 0.5, 0.0, 0.5])
    labels = np.array([0, 0, 0, 1])
    ids = np.array([[0, 1], [0, 1], [1, 0], [0, 1]])
    probs = np.array([[0.9, 0.1], [0.6, 0.3], [0.8, 0.1], [0.5, 0.2]])
    # Class 0 is made of 1.5 images, class 1 of .5, which count as 1. The only other class gets all of q.
    by_hand = np.array([0.0, 0.5 / 1.5 + 0.5 / 1, 1 / 1, 0.5 / 1 + 0.5 / 1.5])
    value = compute_judging_value(right, labels, ids, probs, num_classes=2)
    np.testing.assert_allclose(value, by_hand / by_hand.max())


def test_nothing_is_to_be_learned_where_all_is_known():
    certain = np.ones(4), np.zeros(4, int), np.zeros((4, 1), int), np.ones((4, 1))
    value = compute_judging_value(*certain, num_classes=1)
    assert not value.any()
    assert sorted(draw_judging_order(value).order) == [0, 1, 2, 3]


def test_an_order_holds_each_image_once_and_valuable_ones_come_first():
    value = np.linspace(0, 1, 1000) ** 2
    drawn = draw_judging_order(value, seed=3)
    assert sorted(drawn.order) == list(range(1000))
    first = value[drawn.order[:100]]
    assert np.median(first) > 0.8 and drawn.size.mean() == pytest.approx(1.0)
    assert (first < 0.3).any(), "every image may come"
    again = draw_judging_order(value, seed=3)
    assert (again.order == drawn.order).all() and (draw_judging_order(value).order != drawn.order).any()
    shuffled = draw_judging_order(value, sharpness=0.0)
    assert abs(np.corrcoef(shuffled.order, np.arange(1000))[0, 1]) < 0.1


@pytest.mark.parametrize("judged", [100, 400])
def test_the_first_of_an_order_tell_the_share_without_bias(judged):
    """Although wrong labels come far more often in them, and P is wrong on purpose."""
    generator = np.random.default_rng(0)
    right_prob = generator.beta(2, 1, 2000)
    wrong = generator.random(2000) < 1 - right_prob**1.5
    value = 1 - right_prob
    found, inside = [], []
    for seed in range(150):
        drawn = draw_judging_order(value, seed=seed)
        share, low, high = estimate_wrong_share(drawn, wrong[drawn.order[:judged]], right_prob)
        found.append(share)
        inside.append(low <= wrong.mean() <= high)
    error = 4 * np.std(found) / np.sqrt(len(found))
    assert np.mean(found) == pytest.approx(wrong.mean(), abs=error)
    assert abs((1 - right_prob).mean() - wrong.mean()) > 2 * error, "P alone does not tell it"
    assert wrong[drawn.order[:judged]].mean() > wrong.mean() + 0.1, "nor do the judged ones"
    assert np.mean(inside) > 0.88


def test_all_judged_is_the_share_itself():
    wrong = np.arange(50) % 3 == 0
    drawn = draw_judging_order(np.linspace(0.1, 1, 50))
    share, low, high = estimate_wrong_share(drawn, wrong[drawn.order], np.full(50, 0.9))
    assert (share, low, high) == pytest.approx((wrong.mean(),) * 3)
