"""The product of factors: literal, and clipped with mean 1."""

import numpy as np
import pytest

from urnet_tf.errors import RunError, UsageError
from urnet_tf.reweighting.combine import (
    average_amount,
    combine_weights,
    effective_sample_size,
    scale_to_class_mean,
    scale_to_mean_one,
)


def test_paper_form_is_the_plain_product():
    product = combine_weights([np.array([0.5, 2.0]), np.array([0.5, -1.0])], formulas="literal")
    np.testing.assert_array_equal(product, np.float32([0.25, -2.0]))


def test_paper_form_is_scaled_when_asked_for():
    factors = [np.array([0.5, 2.0, 0.5]), np.array([0.5, -1.0, 6.0])]  # 0.25, -2, 3: mean 5 / 12
    scaled = combine_weights(factors, formulas="literal", unit_mean=True)
    np.testing.assert_allclose(scaled, [0.6, -4.8, 7.2], rtol=1e-6)
    with pytest.raises(RunError, match="mean above 0, to scale it to 1; received -0.875"):
        combine_weights([np.array([0.5, 2.0]), np.array([0.5, -1.0])], formulas="literal", unit_mean=True)


def test_scaling_by_the_mean_of_some_rows():
    np.testing.assert_array_equal(scale_to_mean_one([1.0, -1.0, 3.0], [0, 2]), [0.5, -0.5, 1.5])
    for weights in ([0.0, 0.0], [np.nan, 1.0]):
        with pytest.raises(RunError):
            scale_to_mean_one(weights)


def test_what_an_average_image_counts():
    assert average_amount([0.25, -2.0, 3.0]) == 1.75
    assert average_amount([0.5, 1.5]) == 1.0
    assert average_amount([0.0, 0.0]) == 1.0
    # 1, 1 against their labels are worth as much as 1, 1 for them.
    assert effective_sample_size([1.0, -1.0, 1.0, -1.0]) == 4.0
    assert effective_sample_size([-3.0, 1.0]) == pytest.approx(1.6)


def test_sound_form_scales_to_mean_one():
    np.testing.assert_allclose(combine_weights([np.array([1.0, 3.0])]), [0.5, 1.5])


def test_sound_form_clips_and_keeps_the_mean_by_hand():
    # Bounds 0.5 and 2: the largest is clipped to 2, the smallest to 0.5; 4 - 2.5 = 1.5 remains for two.
    weights = combine_weights([np.array([0.01, 1.0, 2.0, 100.0])], smallest=0.5, largest=2.0)
    np.testing.assert_allclose(weights, [0.5, 0.5, 1.0, 2.0], rtol=1e-6)


def test_bounds_and_mean_hold_together_on_long_tails():
    generator = np.random.default_rng(0)
    factors = [generator.lognormal(0, 2, 10_000) for _ in range(3)]
    weights = combine_weights(factors, smallest=0.05, largest=10.0)
    assert weights.mean(dtype=float) == pytest.approx(1.0, abs=1e-6)
    assert weights.min() >= np.float32(0.05) and weights.max() <= np.float32(10.0)
    order = np.argsort(factors[0] * factors[1] * factors[2])
    assert (np.diff(weights[order]) >= 0).all()


def test_when_nearly_all_products_are_zero_the_rest_goes_beyond_the_bound_to_keep_the_mean():
    weights = combine_weights([np.array([0.0] * 9 + [1.0])], smallest=0.0, largest=5.0)
    np.testing.assert_allclose(weights, [0.0] * 9 + [10.0])


def test_evidence_enters_by_its_geometric_mean_in_sound_form_and_as_a_product_in_paper_form():
    factor, evidence = np.array([1.0, 1.0, 2.0]), [np.array([4.0, 1.0, 1.0]), np.array([1.0, 1.0, 9.0])]
    # sound: 1 * sqrt(4), 1, 2 * sqrt(9) = 2, 1, 6 with mean 3; paper: 4, 1, 18.
    np.testing.assert_allclose(combine_weights([factor], evidence), [2 / 3, 1 / 3, 2.0], rtol=1e-6)
    np.testing.assert_allclose(combine_weights([factor], evidence, formulas="literal"), [4.0, 1.0, 18.0])


def test_the_same_evidence_twice_counts_once():
    evidence = np.random.default_rng(0).random(50)
    once = combine_weights([np.ones(50)], [evidence])
    np.testing.assert_allclose(combine_weights([np.ones(50)], [evidence, evidence]), once, rtol=1e-6)


def test_negative_evidence_is_refused():
    with pytest.raises(ValueError, match="non-negative evidence"):
        combine_weights([np.ones(2)], [np.array([-1.0, 1.0]), np.array([-1.0, 1.0])])


@pytest.mark.parametrize("bounds", [(1.0, 10.0), (0.1, 1.0), (-0.1, 2.0)])
def test_impossible_bounds_are_refused(bounds):
    with pytest.raises(UsageError, match="smallest < 1 < largest"):
        combine_weights([np.ones(3)], smallest=bounds[0], largest=bounds[1])


@pytest.mark.parametrize("factor", [[-1.0, 1.0], [np.nan, 1.0], [0.0, 0.0]])
def test_impossible_products_are_refused(factor):
    with pytest.raises(ValueError, match="non-negative"):
        combine_weights([np.array(factor)])


def test_effective_sample_size_by_hand():
    assert effective_sample_size(np.ones(7)) == pytest.approx(7.0)
    assert effective_sample_size(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    assert effective_sample_size(np.zeros(2)) == 0.0


def test_scale_to_class_mean_by_hand():
    # Class 0: mean 0.2 after -1 counts as 0; floor 0.5 * 0.2 = 0.1, so 0.1, 0.1, 0.5 with mean 0.7 / 3.
    values = np.array([-1.0, 0.1, 0.5, 0.0, 0.0])
    scaled = scale_to_class_mean(values, np.array([0, 0, 0, 2, 2]), num_classes=3, floor=0.5)
    np.testing.assert_allclose(scaled, [3 / 7, 3 / 7, 15 / 7, 1.0, 1.0], rtol=1e-6)
    with pytest.raises(ValueError, match="finite"):
        scale_to_class_mean(np.array([np.nan]), np.array([0]), num_classes=1)
