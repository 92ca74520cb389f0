"""Eq. 10 by hand, in both forms."""

import numpy as np

from urnet_tf.reweighting.soft_label import compute_soft_targets

GIVEN, SUPPOSED = np.array([3, 1]), np.array([3, 2])


def test_sound_rows_sum_to_one():
    ids, probs = compute_soft_targets(GIVEN, SUPPOSED, beta=0.8)
    np.testing.assert_array_equal(ids, [[3, 3], [1, 2]])
    np.testing.assert_allclose(probs, [[1.0, 0.0], [0.8, 0.2]], rtol=1e-6)
    assert ids.dtype == np.int32 and probs.dtype == np.float32


def test_paper_form_only_shrinks_the_given_label():
    ids, probs = compute_soft_targets(GIVEN, SUPPOSED, beta=0.8, fidelity="paper")
    np.testing.assert_array_equal(ids, [[3, 3], [1, 2]])
    np.testing.assert_allclose(probs, [[1.0, 0.0], [0.8, 0.0]], rtol=1e-6)


def test_beta_one_switches_soft_labels_off():
    for fidelity in ("paper", "sound"):
        _, probs = compute_soft_targets(GIVEN, SUPPOSED, beta=1.0, fidelity=fidelity)
        np.testing.assert_array_equal(probs, [[1, 0], [1, 0]])
