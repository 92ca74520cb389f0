"""Metrics against numbers worked out by hand and against literal definitions."""

import math

import numpy as np
import pytest

from urnet_tf.errors import UsageError
from urnet_tf.evaluation import metrics


def test_top_k_breaks_ties_by_the_smaller_class():
    ids, probs = metrics.top_k(np.array([[0.2, 0.4, 0.4, 0.0], [0.25, 0.25, 0.25, 0.25]], np.float32), 3)
    assert ids.tolist() == [[1, 2, 0], [0, 1, 2]]
    assert probs[0].tolist() == pytest.approx([0.4, 0.4, 0.2])
    assert ids.dtype == np.int32 and probs.dtype == np.float32


def test_top_k_gives_what_a_stable_sort_of_all_classes_gives():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 6, (50, 40)).astype(np.float32)  # ties everywhere, at the last place too
    for probs in (coarse, rng.random((50, 40)).astype(np.float32), np.where(coarse == 3, np.nan, coarse)):
        for k in (1, 3, 39, 40):
            expected = np.argsort(-probs, axis=1, kind="stable")[:, :k]
            np.testing.assert_array_equal(metrics.top_k(probs, k)[0], expected)


def test_top_k_with_more_places_than_classes_gives_all_classes():
    ids, probs = metrics.top_k(np.array([[0.3, 0.7]]), 5)
    assert ids.tolist() == [[1, 0]]
    assert metrics.top_k_hits(np.array([0]), ids, 5).tolist() == [True]
    with pytest.raises(UsageError, match="k = 0"):
        metrics.top_k(probs, 0)


def test_top_k_hits_by_hand():
    top_ids = np.array([[3, 1, 0], [0, 2, 1], [2, 3, 0]])
    assert metrics.top_k_hits(np.array([1, 0, 1]), top_ids, 1).tolist() == [False, True, False]
    assert metrics.top_k_hits(np.array([1, 0, 1]), top_ids, 2).tolist() == [True, True, False]
    with pytest.raises(UsageError, match="Expected labels"):
        metrics.top_k_hits(np.array([1, 0]), top_ids, 1)


def test_balanced_mean_by_hand():
    # class 0: 1 of 4 right, class 1: 1 of 1, class 2: no image → (0.25 + 1) / 2
    values, labels = np.array([1, 0, 0, 0, 1]), np.array([0, 0, 0, 0, 1])
    assert metrics.balanced_mean(values, labels, 3) == pytest.approx(0.625)
    assert np.isnan(metrics.mean_per_class(values, labels, 3)[2])
    assert math.isnan(metrics.balanced_mean(np.array([]), np.array([], int), 3))


def test_balanced_top5_equals_the_official_definition():
    rng = np.random.default_rng(0)
    num_classes, n = 23, 400
    labels = rng.integers(0, num_classes - 2, n) // 2 * 2 % num_classes  # unequal sizes, empty classes
    probs = rng.random((n, num_classes))
    probs[np.arange(n), labels] += 0.3
    top_ids, _ = metrics.top_k(probs, 5)
    errors = []  # literally: error of each class over its images, then the mean over classes
    for c in range(num_classes):
        images = [i for i in range(n) if labels[i] == c]
        if images:
            wrong = [min(0 if labels[i] == guess else 1 for guess in top_ids[i]) for i in images]
            errors.append(sum(wrong) / len(wrong))
    balanced = metrics.balanced_mean(metrics.top_k_hits(labels, top_ids, 5), labels, num_classes)
    assert balanced == pytest.approx(1 - sum(errors) / len(errors), abs=1e-12)
    assert len(errors) < num_classes


def test_per_class_table_by_hand():
    labels = np.array([0, 0, 0, 2])
    top_ids = np.array([[1, 0, 2, 3, 4], [3, 1, 2, 4, 5], [0, 1, 2, 3, 4], [2, 0, 1, 3, 4]])
    table = metrics.per_class_table(labels, top_ids, 6)
    assert table["n"].tolist() == [3, 0, 1, 0, 0, 0]
    assert table["top1"][[0, 2]].tolist() == pytest.approx([1 / 3, 1.0])
    assert table["top5"][[0, 2]].tolist() == pytest.approx([2 / 3, 1.0])
    assert np.isnan(table["top1"][1])
    assert table["confused_with"].tolist() == [1, -1, -1, -1, -1, -1]  # 1 and 3 tie: the smaller


def test_confusion_counts_are_the_cells_of_the_matrix():
    true, predicted, count = metrics.confusion_counts(
        np.array([0, 0, 0, 1, 4999]), np.array([2, 2, 0, 1, 0]), 5000
    )
    assert list(zip(true.tolist(), predicted.tolist(), count.tolist(), strict=True)) == [
        (0, 2, 2), (0, 0, 1), (1, 1, 1), (4999, 0, 1),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="labels"):
        metrics.confusion_counts(np.array([0]), np.array([5000]), 5000)


def test_expected_calibration_error_by_hand():
    # two bins: (0, .5] holds .5 and .3 with accuracy .5; (.5, 1] holds .9 and .8 with accuracy 1
    confidence, correct = np.array([0.5, 0.3, 0.9, 0.8]), np.array([True, False, True, True])
    assert metrics.expected_calibration_error(confidence, correct, 2) == pytest.approx(0.5 * 0.1 + 0.5 * 0.15)
    assert metrics.expected_calibration_error(np.array([0.0, 1.0]), np.array([False, True]), 15) == 0.0
    assert math.isnan(metrics.expected_calibration_error(np.array([]), np.array([]), 15))


def test_reliability_curve_by_hand_and_the_error_is_its_distance():
    # bins of a tenth: .11 and .2 in (.1, .2], .95 and 1 in (.9, 1]
    confidence, correct = np.array([0.11, 0.2, 0.95, 1.0]), np.array([False, True, True, True])
    curve = metrics.reliability_curve(confidence, correct, 10)
    assert curve["count"].tolist() == [2, 2]
    assert curve["confidence"] == pytest.approx([0.155, 0.975])
    assert curve["accuracy"].tolist() == [0.5, 1.0]
    assert metrics.expected_calibration_error(confidence, correct, 10) == pytest.approx((0.345 + 0.025) / 2)


def test_auroc_by_hand_and_with_ties():
    assert metrics.auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])) == pytest.approx(0.75)
    assert metrics.auroc(np.array([1, 1, 1, 1]), np.array([0, 1, 0, 1])) == pytest.approx(0.5)
    # pairs (positive, negative): (2,1) win, (2,2) half, (3,1) win, (3,2) win → 3.5 / 4
    assert metrics.auroc(np.array([2, 3, 1, 2]), np.array([1, 1, 0, 0])) == pytest.approx(0.875)
    assert math.isnan(metrics.auroc(np.array([1.0, 2.0]), np.array([1, 1])))
    with pytest.raises(UsageError, match="finite"):
        metrics.auroc(np.array([np.nan, 1.0]), np.array([0, 1]))


def test_interval_of_an_accuracy_by_hand():
    # One class, 2 of 4 right: 3 of 6 with two more, then (2 + 2 / 2) / 6 = .5; variance .25 / 4.
    low, high = metrics.accuracy_interval([1, 1, 0, 0], [0] * 4, 1, balanced=False)
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.25, 0.5 + 1.96 * 0.25))
    # A second class with 1 of 1: all have 4 of 7; the classes (2 + 8/7) / 6 and (1 + 8/7) / 3.
    first, second = (2 + 8 / 7) / 6, (1 + 8 / 7) / 3
    variances = np.array([first * (1 - first) / 4, second * (1 - second)])
    low, high = metrics.accuracy_interval([1, 1, 0, 0, 1], [0, 0, 0, 0, 2], 3, balanced=True)
    assert (low, high) == pytest.approx((0.75 - 1.96 * np.sqrt(variances.sum() / 4), 1.0))
    low, _ = metrics.accuracy_interval([1, 1, 0, 0, 1], [0, 0, 0, 0, 2], 3, balanced=False)
    assert low == pytest.approx(0.6 - 1.96 * np.sqrt(variances @ [0.64, 0.04]))


def test_interval_of_a_difference_by_hand():
    # 1, 0, 0, -1: the mean is 0 and of squares with two more images (2 + 1) / 6 = .5.
    found = metrics.accuracy_interval([1, 0, 0, -1], [0] * 4, 1, balanced=False, difference=True)
    assert found == pytest.approx((-1.96 * np.sqrt(0.125), 1.96 * np.sqrt(0.125)))
    assert metrics.accuracy_interval([0] * 100, [0] * 100, 1, balanced=True, difference=True)[1] < 0.02
    assert all(math.isnan(end) for end in metrics.accuracy_interval([], np.zeros(0, int), 2, balanced=True))


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("sizes", [[200] * 5, [300, 40, 12, 5, 5, 3], [2] * 60])
def test_nine_of_ten_intervals_hold_the_truth(sizes, balanced):
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    inside = 0
    for _ in range(300):
        chance = generator.beta(6, 2, len(sizes))
        hits = generator.random(len(labels)) < chance[labels]
        low, high = metrics.accuracy_interval(hits, labels, len(sizes), balanced=balanced)
        inside += low <= (chance.mean() if balanced else chance[labels].mean()) <= high
    assert 270 <= inside <= 299


def test_summarize_leaves_out_unlabeled_instances():
    top_ids = np.array([[0, 1], [1, 0], [1, 0], [0, 1]])
    top_probs = np.array([[1.0, 0.0]] * 4)
    figures = metrics.summarize(np.array([0, 0, 1, -1]), top_ids, top_probs, 2)
    assert figures["n"] == 3
    assert figures["top1"] == pytest.approx(2 / 3)
    assert figures["balanced_top1"] == pytest.approx(0.75)
    assert figures["top5"] == figures["balanced_top5"] == 1.0
    assert figures["ece"] == pytest.approx(1 / 3)
    assert sorted(figures["intervals"]) == ["balanced_top1", "balanced_top5", "top1", "top5"]
    for name, (low, high) in figures["intervals"].items():
        assert low < figures[name] <= high, name
    assert math.isnan(metrics.summarize(np.array([-1]), top_ids[:1], top_probs[:1], 2)["top1"])
