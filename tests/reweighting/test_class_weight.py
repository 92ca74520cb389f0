"""Eq. 2-4 by hand: three classes of 1, 2 and 5 images, and one without any."""

import numpy as np
import pytest

from urnet_tf.reweighting.class_weight import (
    compute_class_weight,
    compute_effective_number_weight,
    count_labels,
)

LABELS = np.repeat([0, 1, 2], [1, 2, 5])


def test_paper_form_by_hand():
    # r = 1, 1/2, 1/5; sum 1.7
    weights = compute_class_weight(LABELS, num_classes=3, alpha=0.5, formulas="literal")
    np.testing.assert_allclose(weights, [0.5 + 0.5 / 1.7, 0.5 + 0.25 / 1.7, 0.5 + 0.1 / 1.7], rtol=1e-6)
    assert weights.dtype == np.float32


def test_sound_form_by_hand():
    # N / (C N_j) = 8 / 3, 8 / 6, 8 / 15
    weights = compute_class_weight(LABELS, num_classes=3, alpha=0.5)
    np.testing.assert_allclose(weights, [0.5 + 4 / 3, 0.5 + 4 / 6, 0.5 + 4 / 15], rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("num_classes", [3, 4])  # 4: one class is empty
def test_sound_mean_over_images_is_one(alpha, num_classes):
    weights = compute_class_weight(LABELS, num_classes=num_classes, alpha=alpha)
    assert weights[LABELS].mean() == pytest.approx(1.0, abs=1e-6)
    assert np.isfinite(weights).all()


def test_paper_form_hardly_varies_with_5000_classes():
    sizes = np.random.default_rng(0).integers(100, 10_000, 5000)
    labels = np.repeat(np.arange(5000), sizes)
    weights = compute_class_weight(labels, num_classes=5000, alpha=0.5, formulas="literal")
    assert weights.max() - weights.min() < 0.01
    assert weights.mean() == pytest.approx(0.5001, abs=1e-5)


@pytest.mark.parametrize("formulas", ["literal", "repaired"])
def test_a_class_without_images_gets_the_constant_part(formulas):
    assert compute_class_weight(LABELS, num_classes=4, alpha=0.25, formulas=formulas)[3] == 0.75


def test_labels_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"0\.\.1; received 0\.\.2"):
        count_labels(LABELS, 2)


def test_an_unknown_fidelity_is_refused():
    with pytest.raises(ValueError, match="'repaired' or 'literal'; received 'litral'"):
        compute_class_weight(LABELS, num_classes=3, alpha=0.5, formulas="litral")


def test_effective_number_by_hand():
    # (1 - 1/2^n) / (1 - 1/2) = 1, 3/2, 31/16; inverse 1, 2/3, 16/31; over images 1 + 4/3 + 80/31
    weights = compute_effective_number_weight(LABELS, num_classes=4, beta=0.5)
    scale = 8 / (1 + 4 / 3 + 80 / 31)
    np.testing.assert_allclose(weights, [scale, scale * 2 / 3, scale * 16 / 31, 0], rtol=1e-6)
    assert weights.dtype == np.float32


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999, 1.0])
def test_effective_number_lies_between_equal_and_inverse_weights(beta):
    weights = compute_effective_number_weight(LABELS, num_classes=3, beta=beta)
    assert weights[LABELS].mean() == pytest.approx(1.0, abs=1e-6)
    inverse = compute_class_weight(LABELS, num_classes=3, alpha=1.0)
    assert 1 <= weights[0] / weights[2] * (1 + 1e-6) and weights[0] / weights[2] <= 5 * (1 + 1e-6)
    if beta in (0.0, 1.0):
        np.testing.assert_allclose(weights, [1, 1, 1] if beta == 0.0 else inverse, rtol=1e-6)
