"""What a bag guarantees, its weight, and saliency, by hand."""

import numpy as np
import pytest

from urnet_tf.reweighting.bag_saliency import bag_guarantee, compute_bag_weight, compute_saliency


@pytest.mark.parametrize(
    ("clean_rate", "bag_size", "expected"),
    [(0.3, 3, 0.657), (0.7, 3, 0.973), (0.3, 10, 0.9718), (1.0, 1, 1.0), (0.0, 5, 0.0)],
)
def test_guarantee(clean_rate, bag_size, expected):
    assert bag_guarantee(clean_rate, bag_size) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("arguments", [(1.1, 3), (-0.1, 3), (0.5, 0), (float("nan"), 3)])
def test_guarantee_refuses_nonsense(arguments):
    with pytest.raises(ValueError, match="Expected a share"):
        bag_guarantee(*arguments)


def test_bag_weight_is_the_mean():
    np.testing.assert_array_equal(compute_bag_weight(np.float32([[1, 2, 3], [0, 0, 3]])), [2.0, 1.0])


def test_saliency_averages_over_bags_and_is_neutral_elsewhere():
    attention = np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])
    ids = np.array([[0, 1, 2], [0, 4, 4]])
    saliency = compute_saliency(attention, ids, num_instances=6)
    # 0: (1.5 + 0.6) / 2; 4: (0.6 + 1.8) / 2; 3 and 5 are in no bag.
    np.testing.assert_allclose(saliency, [1.05, 0.75, 0.75, 1.0, 1.2, 1.0], rtol=1e-6)
    with pytest.raises(ValueError, match="one shape"):
        compute_saliency(attention, ids[:1], num_instances=6)
