"""How columns move P(right): by hand, against scikit-learn, and on planted noise."""

import dataclasses

import numpy as np
import pytest

from urnet_tf.evaluation.metrics import auroc
from urnet_tf.reweighting.evidence import _isotonic_means, update_right_prob
from urnet_tf.reweighting.factors import Instances, Prediction, Recipe
from urnet_tf.reweighting.rank_prior import rank_column


def odds(prob):
    return np.asarray(prob) / (1 - np.asarray(prob))


def test_isotonic_means_are_sklearns_where_bins_are_single_scores():
    from sklearn.isotonic import IsotonicRegression

    generator = np.random.default_rng(1)
    score = np.repeat(np.arange(10.0), 40)
    values = score * 0.1 + generator.standard_normal(400)
    expected = IsotonicRegression().fit(score, values).predict(np.arange(10.0))
    np.testing.assert_allclose(_isotonic_means(score, values, np.arange(10.0)), expected, rtol=1e-9)


@pytest.mark.parametrize("relative_to_group", [False, True])
def test_by_hand(relative_to_group):
    # Group 0: columns 1 and 2 with means .4 and .8, together .6. Group 1: one column, mean .3. All: .45.
    group = np.repeat([0, 1], 400)
    column = np.concatenate([np.repeat([1.0, 2.0], 200), np.ones(400)])
    prob = np.concatenate([np.tile([0.3, 0.5], 100), np.tile([0.7, 0.9], 100), np.full(400, 0.3)])
    found = update_right_prob(prob, column, group, np.zeros(800, int), relative_to_group=relative_to_group)
    means = np.where(group == 1, 0.3, np.where(column == 1, 0.4, 0.8))
    base = np.where(group == 1, 0.3, 0.6) if relative_to_group else 0.45
    np.testing.assert_allclose(odds(found), odds(prob) * odds(means) / odds(base), rtol=1e-9)


def test_a_falling_column_is_flat():
    # More of the column never lowers P: both halves share the mean of all, which moves nothing.
    column, prob = np.repeat([1.0, 2.0], 200), np.repeat([0.8, 0.4], 200)
    found = update_right_prob(prob, column, np.zeros(400, int), np.zeros(400, int), relative_to_group=False)
    np.testing.assert_allclose(found, prob, rtol=1e-9)


def test_few_images_learn_from_other_groups():
    column = np.concatenate([np.repeat([1.0, 2.0], 200), [1.0, 2.0]])
    prob = np.concatenate([np.repeat([0.4, 0.8], 200), [0.5, 0.5]])
    group = np.concatenate([np.zeros(400, int), [1, 1]])
    found = update_right_prob(prob, column, group, np.zeros(402, int), relative_to_group=True)
    assert found[-2] < 0.4 < 0.6 < found[-1]


def planted(telling, rows=6000, seed=0):
    """Group 0 tells what the image shows in `telling` of its rows, group 1 never; 30 % wrong labels."""
    generator = np.random.default_rng(seed)
    right = generator.random(rows) < 0.7
    groups = generator.integers(0, 2, rows)
    tells = (groups == 0) & (generator.random(rows) < telling)
    column = np.where(tells & ~right, -0.5, 0.5) + 0.2 * generator.standard_normal(rows)
    # What the pictures tell: odds from a normal score, so that P is calibrated.
    score = np.where(right, 1.0, -1.0) + generator.standard_normal(rows)
    prob = 1 / (1 + np.exp(-2 * score - np.log(0.7 / 0.3)))
    return prob, column, groups, generator.integers(0, 4, rows), right


def test_a_group_counts_as_far_as_it_tells_and_stays_calibrated():
    prob, column, groups, folds, right = planted(0.8)
    found = update_right_prob(prob, column, groups, folds, relative_to_group=True)
    first, second = groups == 0, groups == 1
    assert auroc(found[first], right[first]) > auroc(prob[first], right[first]) + 0.02
    assert np.abs(found - prob)[second].max() < 0.1 < np.abs(found - prob)[first].max()
    for low, high in [(0.0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 1.0)]:
        here = (found >= low) & (found < high)
        assert right[here].mean() == pytest.approx(found[here].mean(), abs=0.06)


def test_nothing_is_judged_by_itself():
    prob, column, groups, folds, _ = planted(0.8, rows=600)
    changed, row = prob.copy(), 5
    changed[row] = 0.999 if prob[row] < 0.5 else 0.001
    before = update_right_prob(prob, column, groups, folds, relative_to_group=True)
    after = update_right_prob(changed, column, groups, folds, relative_to_group=True)
    same_fold = folds == folds[row]
    others = same_fold & (np.arange(600) != row)
    np.testing.assert_allclose(after[others], before[others], rtol=1e-12)
    assert not np.allclose(after[~same_fold], before[~same_fold])
    # What the column said of the row itself is the same, too.
    np.testing.assert_allclose(odds(after[row]) / odds(changed[row]), odds(before[row]) / odds(prob[row]))


def test_what_is_not_known_moves_nothing_inside_of_its_group():
    prob, column, groups, folds, _ = planted(0.8)
    column = np.where(np.arange(6000) % 5 == 0, np.nan, column)
    found = update_right_prob(prob, column, groups, folds, relative_to_group=True)
    np.testing.assert_allclose(found[::5], prob[::5], rtol=1e-4)
    nothing = update_right_prob(prob, np.full(6000, np.nan), groups, folds, relative_to_group=True)
    np.testing.assert_allclose(nothing, prob, rtol=1e-4)


def test_first_ranks_and_clean_sources_move_up():
    generator = np.random.default_rng(0)
    sources, ranks = generator.integers(0, 2, 4000), generator.integers(1, 101, 4000)
    right = generator.random(4000) < np.where(sources == 0, 0.9 - 0.005 * ranks, 0.4)
    prob = 1 / (1 + np.exp(-2 * (np.where(right, 1.0, -1.0) + generator.standard_normal(4000))))
    found = update_right_prob(
        prob, rank_column(ranks), sources, generator.integers(0, 4, 4000), relative_to_group=False
    )
    assert auroc(found, right) > auroc(prob, right)
    shift = np.log(odds(found)) - np.log(odds(prob))
    assert shift[(sources == 0) & (ranks < 20)].mean() > shift[(sources == 0) & (ranks > 80)].mean() + 0.3
    assert shift[sources == 0].mean() > shift[sources == 1].mean() + 0.3


def test_ranks_below_one_are_not_known():
    np.testing.assert_array_equal(rank_column(np.array([1, 5, 0, -1])), [-1.0, -5.0, np.nan, np.nan])


def known(rows=600):
    prob, column, groups, folds, _ = planted(0.8, rows=rows)
    labels = np.arange(rows) % 3
    topk = np.stack([labels, (labels + 1) % 3], axis=1)
    prediction = Prediction("x", prob, topk, np.stack([prob, 1 - prob], axis=1))
    ranks = np.random.default_rng(2).integers(1, 50, rows)
    return Instances(labels, 3, prediction, folds, groups, ranks, page_score=column.astype(np.float32))


def test_the_product_of_the_evidence_is_the_posterior():
    instances = known()
    recipe = Recipe({"label_posterior": {}, "rank_prior": {}, "page_text": {}})
    probs = instances.right_probs(recipe)
    assert list(probs) == ["label_posterior", "rank_prior", "page_text"]
    product = instances.posterior.prob.astype(float)
    for name in ("rank_prior", "page_text"):
        product = product * instances.share_of_evidence(name, recipe)
    np.testing.assert_allclose(product, probs["page_text"], rtol=1e-5)
    assert np.std(probs["page_text"] - probs["rank_prior"]) > 0.01


def test_evidence_that_is_off_or_not_known_is_left_out():
    instances = known()
    assert list(instances.right_probs(Recipe({"page_text": {}}))) == ["label_posterior", "page_text"]
    bare = dataclasses.replace(instances, page_score=None)
    assert list(bare.right_probs(Recipe({"page_text": {}}))) == ["label_posterior"]
