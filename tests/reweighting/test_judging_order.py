"""Which image to judge next: values by hand, and what the first of an order tell of all."""

import numpy as np
import pytest

from urnet_tf.reweighting.judging_order import (
    compute_judging_value,
    draw_judging_order,
    estimate_shows_class,
    estimate_wrong_share,
)


def test_values_by_hand():
    right = np.array([1.0, 0.5, 0.0, 0.5])
    labels = np.array([0, 0, 0, 1])
    ids = np.array([[0, 1], [0, 1], [1, 0], [0, 1]])
    probs = np.array([[0.9, 0.1], [0.6, 0.3], [0.8, 0.1], [0.5, 0.2]])
    shows = estimate_shows_class(right, probs[:, 0])
    # Class 0 is made of 1.5 images, class 1 of .5, which count as 1. The only other class gets all of q.
    by_hand = shows * np.array([0.0, 0.5 / 1, 1 / 1, 0.5 / 1.5])
    value = compute_judging_value(right, labels, ids, probs, num_classes=2)
    np.testing.assert_allclose(value, by_hand / by_hand.max())


def test_images_of_no_class_are_those_that_no_class_is_likely_for():
    """Ten sure images are rightly labeled, ten are wrong and as sure; of ten unsure ones all are wrong."""
    right = np.repeat([0.999, 0.001, 0.001], 10)
    best = np.tile(np.linspace(0.8, 0.9, 10), 3)
    best[20:] -= 0.5
    found = estimate_shows_class(right, best)
    # Each image is told from its neighbors by P itself, so neighbors are taken together here.
    assert found[10:20].mean() > 0.9 > 0.1 > found[20:].mean()
    assert (
        np.diff(found[np.argsort(best, kind="stable")]) >= 0
    ).all() and found.min() >= 0 <= found.max() <= 1
    assert len(estimate_shows_class(np.empty(0), np.empty(0))) == 0
    np.testing.assert_allclose(estimate_shows_class(np.full(8, 0.7), np.full(8, 0.5)), 1.0)


def test_a_class_that_may_not_be_there_is_worth_less():
    """Two wrong labels: of one image the models are as sure as of right ones, of the other not at all."""
    right = np.array([0.001, 0.001, *[0.999] * 40])
    labels = np.array([0, 0, *[0, 1] * 20])
    ids = np.tile([0, 1], (42, 1))
    ids[:2] = [1, 0]
    probs = np.tile([0.9, 0.1], (42, 1))
    probs[1] = [0.3, 0.2]
    value = compute_judging_value(right, labels, ids, probs, num_classes=2)
    assert value[0] == 1.0 and value[1] < 0.1


def test_nothing_is_to_be_learned_where_all_is_known():
    certain = np.ones(4), np.zeros(4, int), np.zeros((4, 1), int), np.ones((4, 1))
    value = compute_judging_value(*certain, num_classes=1)
    assert not value.any()
    assert sorted(draw_judging_order(value).order) == [0, 1, 2, 3]


def test_an_order_holds_each_image_once_and_every_tenth_is_any():
    value = np.linspace(0, 1, 1000) ** 2
    drawn = draw_judging_order(value, seed=3)
    assert sorted(drawn.order) == list(range(1000))
    tenth = np.arange(1000) % 10 == 9
    assert (drawn.at_random[drawn.order] == tenth).all()
    assert (drawn.rank == 999 - np.arange(1000)).all()
    best = drawn.rank[drawn.order[~tenth]]
    assert (np.diff(best) > 0).all() and best[0] == 0, "the others stay in order"
    assert best[89] < 100, "of the first hundred only those that came by chance are missing"
    assert 350 < drawn.rank[drawn.order[tenth][:40]].mean() < 650
    assert (draw_judging_order(value, seed=3).order == drawn.order).all()
    assert (draw_judging_order(value).order != drawn.order).any()


def test_an_estimate_by_hand():
    value = np.arange(40, 0, -1.0)
    drawn = draw_judging_order(value, seed=1)
    rows = drawn.order[:20]
    (first, second), known = rows[[9, 19]], 18 + np.sum(rows[[9, 19]] < 18)
    right = np.full(40, 0.95)
    wrong = np.zeros(20, bool)
    wrong[0] = True  # the most valuable one
    assert first >= known and second >= known, "a seed for which this is simple"
    share, low, high = estimate_wrong_share(drawn, wrong, right)
    # Of 18 one is wrong; of the other 22 the model says .05 each, and two of them say .05 less.
    assert share == pytest.approx(1 / 40)
    variance = (0.0025 + 0.0025 + 0.0475) / 3 / 2 * (1 - 2 / 22)
    assert high - share == pytest.approx(4.302653 * 22 / 40 * variance**0.5, rel=1e-5)
    assert low == 0.0
    wrong[9] = True  # the first at random
    assert estimate_wrong_share(drawn, wrong, right)[0] == pytest.approx((1 + 22 * (0.05 + 0.45)) / 40)


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
