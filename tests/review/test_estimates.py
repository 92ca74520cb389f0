"""What judgements tell: numbers by hand, and intervals that hold the truth as often as they say."""

import numpy as np
import pytest

from urnet_tf.review.estimates import FEWEST, auroc_of, count_missing, estimate_share, share_of

NONE = np.zeros(8, bool)


def test_without_judgements_the_models_speak():
    share = estimate_share(np.full(8, 0.25), NONE, NONE, NONE, prior_sd=0.05)
    assert share.share == pytest.approx(0.25)
    assert share.low == pytest.approx(0.25 - 1.96 * 0.05) and share.high == pytest.approx(0.25 + 1.96 * 0.05)
    unknown = estimate_share(np.full(8, 0.25), NONE, NONE, NONE, prior_sd=None)
    assert unknown.width > 0.7


def test_chosen_images_count_as_what_they_are():
    judged = np.arange(8) < 4
    share = estimate_share(np.full(8, 0.5), judged & (np.arange(8) < 1), judged, NONE, prior_sd=0.1)
    assert share.share == pytest.approx((1 + 4 * 0.5) / 8)
    assert share.width == pytest.approx(2 * 1.96 * 0.1 / 2)
    whole = estimate_share(np.full(8, 0.5), np.arange(8) < 3, ~NONE, NONE, prior_sd=0.1)
    assert whole.share == pytest.approx(3 / 8) and whole.width < 1e-4


def test_a_large_sample_outweighs_the_models_and_a_small_one_does_not():
    rng = np.random.default_rng(0)
    total, models, truth = 20_000, np.full(20_000, 0.2), 0.5
    wrong = rng.random(total) < truth
    few, many = (np.arange(total) < n for n in (5, 800))
    small = estimate_share(models, wrong, few, few, prior_sd=0.05)
    large = estimate_share(models, wrong, many, many, prior_sd=0.05)
    assert abs(small.share - 0.2) < 0.08 and abs(large.share - wrong.mean()) < 0.07
    assert large.width < small.width / 1.5


def test_the_last_image_of_a_crawl_leaves_little_in_doubt():
    sampled = np.arange(100) < 99
    wrong = np.arange(100) % 3 == 0
    share = estimate_share(np.full(100, 0.3), wrong, sampled, sampled, prior_sd=None)
    assert abs(share.share - wrong.mean()) < 0.01 and share.width < 0.02
    half = np.arange(100) < 50
    expected = 2 * 1.96 * wrong.std() / np.sqrt(50) * np.sqrt(0.5)
    assert estimate_share(np.full(100, 0.3), wrong, half, half, prior_sd=None).width == pytest.approx(
        expected, rel=0.1
    )


def test_what_was_found_stays_found():
    judged = np.arange(8) < 6
    share = estimate_share(np.full(8, 0.01), judged, judged, NONE, prior_sd=0.3, others=[(0.0, 1e-3)])
    assert share.low >= 6 / 8 and share.share >= 6 / 8 and share.high <= 1


@pytest.mark.parametrize("count", [30, 100, 400])
def test_intervals_hold_the_truth_as_often_as_they_say(count):
    rng = np.random.default_rng(count)
    total, inside = 4000, []
    for _ in range(300):
        off = rng.normal(0, 0.4)  # models that are wrong about the whole crawl, by about the prior
        odds = rng.normal(-1, 2, total)
        models, true = 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(-odds - off))
        wrong = rng.random(total) < true
        sampled = np.zeros(total, bool)
        sampled[rng.choice(total, count, replace=False)] = True
        share = estimate_share(models, wrong, sampled, sampled, prior_sd=0.05)
        inside.append(share.low <= wrong.mean() <= share.high)
    assert 0.91 <= np.mean(inside) <= 0.99


def test_how_many_more_images_is_told_about_rightly():
    rng = np.random.default_rng(1)
    total, width = 10_000, 0.06
    models = rng.beta(0.6, 1.2, total)
    wrong = rng.random(total) < models
    order, none = rng.permutation(total), np.zeros(total, bool)
    missing = count_missing(models, wrong, none, width)
    sampled = none.copy()
    sampled[order[:missing]] = True
    assert abs(estimate_share(models, wrong, sampled, sampled, prior_sd=None).width - width) < 0.01
    assert count_missing(models, wrong, sampled, width) < missing / 5
    assert count_missing(np.full(20, 0.5), np.zeros(20, bool), np.zeros(20, bool), width) <= 20


def test_a_share_of_hits_by_wilson():
    share = share_of(np.array([True] * 8 + [False] * 2))
    assert (share.share, share.low, share.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=2e-4)
    assert np.isnan(share_of(np.zeros(0, bool)).share)
    assert share_of(np.ones(10, bool)).low == pytest.approx(0.7225, abs=1e-3)


def test_the_area_under_the_curve_has_an_interval_that_never_vanishes():
    wrong = np.arange(40) < 10
    perfect = auroc_of(np.where(wrong, 0.9, 0.1), wrong)
    assert perfect.share == 1.0 and 0.8 < perfect.low < 0.98
    assert auroc_of(np.full(40, 0.5), wrong).share == pytest.approx(0.5)
    assert auroc_of(np.linspace(0, 1, 40), np.arange(40) < FEWEST - 1) is None
    rng = np.random.default_rng(2)
    inside = []
    for _ in range(300):
        chosen = rng.random(80) < 0.4
        area = auroc_of(rng.normal(0, 1, 80) + chosen, chosen)
        inside.append(area.low <= 0.7602 <= area.high)
    assert 0.9 <= np.mean(inside) <= 1.0
