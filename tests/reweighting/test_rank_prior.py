"""P(right | source, rank): by hand, and on planted ranks."""

import numpy as np
import pytest

from urnet_tf.evaluation.metrics import auroc
from urnet_tf.reweighting.rank_prior import compute_rank_prior


def test_by_hand():
    # One class. Source 0 by rank: .6, .2, .4: the last two break the order and share their mean .3.
    # Source 1: .5 and .7 rise, so both become .6. The mean of all is (.6 + .3 + .3 + .6 + .6) / 5 = .48.
    prior = compute_rank_prior(
        np.array([0.6, 0.2, 0.4, 0.5, 0.7]), np.zeros(5, int), np.array([0, 0, 0, 1, 1]),
        np.array([1, 2, 3, 1, 2]), num_classes=1,
    )  # fmt: skip
    np.testing.assert_allclose(prior * 0.48, [0.6, 0.3, 0.3, 0.6, 0.6], rtol=1e-6)


def test_equal_ranks_count_by_their_number():
    # Rank 1 holds .3 three times, rank 2 .7 once: both get (.9 + .7) / 4 = .4.
    prior = compute_rank_prior(
        np.array([0.3, 0.3, 0.3, 0.7]), np.zeros(4, int), np.zeros(4, int), np.array([1, 1, 1, 2]),
        num_classes=1,
    )  # fmt: skip
    np.testing.assert_allclose(prior, 1.0)


def test_finds_a_clean_source_and_clean_top_ranks():
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 500)
    sources, ranks = generator.integers(0, 2, 2000), generator.integers(1, 101, 2000)
    right = generator.random(2000) < np.where(sources == 0, 0.9 - 0.005 * ranks, 0.4)
    given_prob = np.where(right, 0.7, 0.2) + 0.1 * generator.standard_normal(2000)
    prior = compute_rank_prior(given_prob, labels, sources, ranks, num_classes=4)
    assert auroc(prior, right) > 0.6
    assert prior[sources == 0].mean() > 1.3 * prior[sources == 1].mean()
    assert np.bincount(labels, prior) / 500 == pytest.approx([1, 1, 1, 1], abs=1e-5)
    order = np.argsort(ranks[(sources == 0) & (labels == 0)])
    assert (np.diff(prior[(sources == 0) & (labels == 0)][order]) <= 1e-6).all()


def test_nothing_known_is_neutral():
    prior = compute_rank_prior(
        np.full(6, 0.5), np.array([0, 0, 0, 1, 1, 1]), np.zeros(6, int), np.arange(6), num_classes=2
    )
    np.testing.assert_allclose(prior, 1.0)
