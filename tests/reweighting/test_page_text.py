"""What pages say about the label of their image: scores by hand, calibration on planted noise."""

import numpy as np
import pytest

from urnet_tf.reweighting.page_text import (
    _isotonic_means,
    calibrate_page_score,
    compute_page_score,
    compute_page_text_weight,
)

NAMES = np.eye(4, dtype=np.float32)[:3]  # class 0 has the names e0 and e1, class 1 the name e2
NAME_LABELS = np.array([0, 0, 1])


def test_score_by_hand():
    vectors = np.array([[0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], np.float32)
    texts = np.array([[0, -1], [0, -1], [0, 1], [1, 2], [2, -1], [3, -1], [-1, -1]])
    labels = np.array([0, 1, 0, 0, 1, 0, 0])
    score = compute_page_score(vectors, texts, labels, NAMES, NAME_LABELS)
    # own: the nearer of two names; two texts: the nearest of each class; nothing in common: 0.
    np.testing.assert_allclose(score, [0.8, -0.8, -0.2, -1.0, 0.0, np.nan, np.nan], rtol=1e-6)
    assert score.dtype == np.float32


def test_score_does_not_depend_on_the_chunk(monkeypatch):
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((20, 4)).astype(np.float32)
    texts, labels = generator.integers(-1, 20, (50, 3)), generator.integers(0, 2, 50)
    whole = compute_page_score(vectors, texts, labels, NAMES, NAME_LABELS)
    monkeypatch.setattr("urnet_tf.reweighting.page_text._CHUNK", 7)
    parts = compute_page_score(vectors, texts, labels, NAMES, NAME_LABELS)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


@pytest.mark.parametrize("name_labels", [[0, 1, 0], [0, 0, 0], [1, 1, 2], [0, 0, 2]])
def test_names_by_class_are_expected(name_labels):
    with pytest.raises(ValueError, match="two or more classes"):
        compute_page_score(NAMES, np.zeros((1, 1), int), np.zeros(1, int), NAMES, np.array(name_labels))


def test_isotonic_means_are_sklearns_where_bins_are_single_scores():
    from sklearn.isotonic import IsotonicRegression

    generator = np.random.default_rng(1)
    score = np.repeat(np.arange(10.0), 40)
    values = score * 0.1 + generator.standard_normal(400)
    expected = IsotonicRegression().fit(score, values).predict(np.arange(10.0))
    np.testing.assert_allclose(_isotonic_means(score, values, np.arange(10.0)), expected, rtol=1e-9)


def planted(telling, rows=6000, seed=0):
    """Source 0 names what the image shows in `telling` of its pages, source 1 never; 30 % wrong labels."""
    generator = np.random.default_rng(seed)
    labels = np.sort(generator.integers(0, 6, rows))
    right = generator.random(rows) < 0.7
    sources = generator.integers(0, 2, rows)
    tells = (sources == 0) & (generator.random(rows) < telling)
    score = np.where(tells & ~right, -0.5, 0.5) + 0.2 * generator.standard_normal(rows)
    given_prob = np.clip(np.where(right, 0.5, 0.2) + 0.2 * generator.standard_normal(rows), 0, 1)
    given_prob *= (1 + labels) / 6  # classes differ in how well they are known
    return score.astype(np.float32), labels, sources, given_prob, generator.integers(0, 4, rows), right


def test_a_source_counts_as_far_as_it_tells():
    score, labels, sources, given_prob, folds, right = planted(0.8)
    expected = calibrate_page_score(score, labels, sources, given_prob, folds, num_classes=6)
    first, second = sources == 0, sources == 1
    assert expected[first & (score < -0.3)].mean() < 0.65 < 1.0 < expected[first & (score > 0.3)].mean()
    assert expected[second].std() < 0.1 < expected[first].std()
    weight = compute_page_text_weight(expected, labels, num_classes=6)
    means = np.bincount(labels, weights=weight) / np.bincount(labels)
    np.testing.assert_allclose(means, 1.0, rtol=1e-5)
    assert weight.dtype == np.float32 and weight[right].mean() > weight[~right].mean() + 0.1


def test_no_row_is_judged_by_itself():
    score, labels, sources, given_prob, folds, _ = planted(0.8, rows=600)
    expected = calibrate_page_score(score, labels, sources, given_prob, folds, num_classes=6)
    row, other = np.flatnonzero((labels == labels[0]) & (sources == sources[0]))[:2]
    changed = given_prob.copy()
    changed[row] += 0.3
    changed[other] -= 0.3  # the class mean stays
    folds[other] = folds[row]
    before = calibrate_page_score(score, labels, sources, given_prob, folds, num_classes=6)
    after = calibrate_page_score(score, labels, sources, changed, folds, num_classes=6)
    same_fold = folds == folds[row]
    np.testing.assert_allclose(after[same_fold], before[same_fold], rtol=1e-12)
    assert not np.allclose(after[~same_fold], before[~same_fold])
    assert np.isfinite(expected).all()


def test_pages_without_text_get_the_mean_of_such_pages():
    score, labels, sources, given_prob, folds, right = planted(0.8)
    blank = ~right & (sources == 0) & (folds != 0) | (np.arange(len(score)) % 10 == 0)
    score[blank] = np.nan
    one_fold = np.zeros_like(folds)
    expected = calibrate_page_score(score, labels, sources, given_prob, one_fold, num_classes=6)
    relative = given_prob / (np.bincount(labels, weights=given_prob) / np.bincount(labels))[labels]
    for source in (0, 1):
        rows = blank & (sources == source)
        np.testing.assert_allclose(expected[rows], relative[rows].mean(), rtol=1e-12)


def test_no_text_at_all_and_unknown_classes_are_neutral():
    labels, sources = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])
    nothing = np.full(4, np.nan, np.float32)
    expected = calibrate_page_score(
        nothing, labels, sources, np.array([0.5, 0.5, 0, 0]), np.array([0, 1, 0, 1]), num_classes=3
    )
    np.testing.assert_allclose(expected, 1.0)
    np.testing.assert_allclose(compute_page_text_weight(expected, labels, num_classes=3), 1.0)
