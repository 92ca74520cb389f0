"""Moments by fold and class: by hand, in blocks, from a memory map, with weights, and what is refused."""

import numpy as np
import pytest

from urnet_tf.errors import UsageError
from urnet_tf.reweighting.class_moments import deal_folds, sum_moments


def test_moments_by_hand():
    features = np.array([[1.0, 0.0], [3.0, 2.0], [0.0, 4.0]], np.float32)
    moments = sum_moments(
        features,
        np.array([0, 0, 2]),
        folds=np.array([0, 1, 1]),
        sample_weight=np.array([1.0, 2.0, 1.0]),
    )
    origin = np.array([4 / 3, 2.0])
    np.testing.assert_allclose(moments.origin, origin)
    np.testing.assert_array_equal(moments.weight, [[1, 0, 0], [0, 0, 1]] + np.array([[0, 0, 0], [2, 0, 0]]))
    np.testing.assert_allclose(moments.sums[1, 0], 2 * (np.array([3.0, 2.0]) - origin))
    weight, sums, second = moments.without(1)
    np.testing.assert_array_equal(weight, [1, 0, 0])
    np.testing.assert_allclose(sums[0], [1 - 4 / 3, -2.0])
    np.testing.assert_allclose(second, np.outer([-1 / 3, -2], [-1 / 3, -2]), atol=1e-12)


def test_mean_and_covariance_are_numpys():
    features = np.random.default_rng(0).normal(5.0, 2.0, (50, 4))
    weight = np.random.default_rng(1).integers(1, 4, 50)
    moments = sum_moments(
        features,
        np.arange(50) % 3,
        folds=np.arange(50) % 4,
        sample_weight=weight,
    )
    mean, covariance = moments.mean_and_covariance()
    np.testing.assert_allclose(mean, np.average(features, axis=0, weights=weight))
    np.testing.assert_allclose(covariance, np.cov(features.T, fweights=weight, ddof=0), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_blocks_and_memory_maps_change_nothing(tmp_path, dtype):
    generator = np.random.default_rng(2)
    features = generator.normal(3.0, 1.0, (101, 6)).astype(dtype)
    labels, folds = generator.integers(0, 5, 101), generator.integers(0, 3, 101)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    whole = sum_moments(features.astype(np.float64), labels, folds=folds)
    blocks = sum_moments(mapped, labels, folds=folds, block_rows=7)
    for name in ("origin", "weight", "sums", "second"):
        np.testing.assert_allclose(getattr(blocks, name), getattr(whole, name), rtol=1e-12, atol=1e-11)


def test_an_absent_class_leaves_no_rounding_error():
    # In float64, 0.1 + 0.2 + 0.3 - 0.3 is not 0.1 + 0.2; a class of the left-out fold alone must be 0.
    features = np.random.default_rng(3).normal(size=(6, 2))
    moments = sum_moments(
        features,
        np.array([0, 0, 0, 1, 1, 1]),
        folds=np.array([0, 1, 2, 2, 2, 2]),
        sample_weight=np.array([1.0, 1.0, 1.0, 0.1, 0.2, 0.3]),
    )
    weight, sums, _ = moments.without(2)
    np.testing.assert_array_equal(weight, [2, 0])
    np.testing.assert_array_equal(sums[1], 0.0)


def test_folds_share_every_class_evenly():
    labels = np.repeat([0, 1, 2, 3], [7, 1, 12, 5])
    counts = np.zeros((3, 4), int)
    np.add.at(counts, (deal_folds(labels, 3), labels), 1)
    assert (np.ptp(counts, axis=0) <= 1).all()
    assert np.ptp(counts.sum(axis=1)) <= 2  # the odd images do not all go to fold 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.full((4, 2), np.nan)}, "finite features; received NaN or infinity for image 0"),
        ({"features": np.array([[0.0, 1], [1, 0], [np.inf, 0], [0, 0]])}, "for image 2"),
        ({"features": np.zeros(4)}, "features \\[N, D\\]"),
        ({"features": np.zeros((0, 2)), "labels": np.zeros(0, int)}, "at least one image"),
        ({"labels": np.array([0, 1, 2])}, "one whole number as label for each of 4"),
        ({"labels": np.array([0, 1, 2, -1])}, "labels in 0..2; received -1..2"),
        ({"labels": np.array([0.0, 1, 1, 0])}, "one whole number"),
        ({"num_classes": 2}, "labels in 0..1"),
        ({"folds": np.array([0, 1, -1, 0])}, "one fold"),
        ({"folds": np.array([0, 1])}, "one fold"),
        ({"sample_weight": np.zeros(4)}, "one above 0"),
        ({"sample_weight": np.array([1.0, 1, -1, 1])}, "finite weights of 0 or more"),
        ({"sample_weight": np.array([1.0, 1, np.nan, 1])}, "finite weights"),
    ],
)
def test_what_is_refused(change, message):
    arguments = {"features": np.eye(4, 2), "labels": np.array([0, 1, 2, 0])} | change
    with pytest.raises(UsageError, match=message):
        sum_moments(**arguments)
