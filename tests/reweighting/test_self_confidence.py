"""Self-confidence weights."""

import numpy as np

from urnet_tf.reweighting.self_confidence import compute_self_confidence_weight


def test_weight_by_hand():
    weights = compute_self_confidence_weight(
        np.array([0.9, 0.3, 0.0, 0.5]), np.array([0, 0, 0, 1]), num_classes=2, floor=0.05
    )
    # Class 0: mean 0.4, floor 0.02: 0.9, 0.3, 0.02 with mean 1.22 / 3.
    np.testing.assert_allclose(weights, [2.7 / 1.22, 0.9 / 1.22, 0.06 / 1.22, 1.0], rtol=1e-5)
