"""Eq. 10 by hand, in both forms."""

import numpy as np

from urnet_tf.reweighting.soft_label import compute_distribution_targets, compute_soft_targets

GIVEN, SUPPOSED, SUPPOSED_PROB = np.array([3, 1]), np.array([3, 2]), np.array([0.9, 0.6])


def test_sound_rows_sum_to_one_and_an_unsure_model_says_less():
    ids, probs = compute_soft_targets(GIVEN, SUPPOSED, SUPPOSED_PROB, beta=0.8)
    np.testing.assert_array_equal(ids, [[3, 3], [1, 2]])
    np.testing.assert_allclose(probs, [[1.0, 0.0], [0.88, 0.12]], rtol=1e-6)
    assert ids.dtype == np.int32 and probs.dtype == np.float32


def test_paper_form_only_shrinks_the_given_label():
    ids, probs = compute_soft_targets(GIVEN, SUPPOSED, SUPPOSED_PROB, beta=0.8, formulas="literal")
    np.testing.assert_array_equal(ids, [[3, 3], [1, 2]])
    np.testing.assert_allclose(probs, [[1.0, 0.0], [0.8, 0.0]], rtol=1e-6)


def test_beta_one_switches_soft_labels_off():
    for formulas in ("literal", "repaired"):
        _, probs = compute_soft_targets(GIVEN, SUPPOSED, SUPPOSED_PROB, beta=1.0, formulas=formulas)
        np.testing.assert_array_equal(probs, [[1, 0], [1, 0]])


def test_a_distribution_by_hand():
    # beta .8 and p .5: share .8 + .2 * .5 = .9; the rest .1 goes to classes 2 and 0 as .6 : .2.
    ids, probs = compute_distribution_targets(
        np.array([2]), np.array([0.5]), np.array([[2, 0]]), np.array([[0.6, 0.2]]), beta=0.8
    )
    np.testing.assert_array_equal(ids, [[2, 2, 0]])
    np.testing.assert_allclose(probs, [[0.9, 0.075, 0.025]], rtol=1e-6)


def test_a_believed_label_keeps_everything_and_rows_sum_to_one():
    generator = np.random.default_rng(0)
    top = np.sort(generator.dirichlet(np.ones(5), 50))[:, ::-1][:, :3]
    ids = np.argsort(generator.random((50, 9)), axis=1)[:, :3]
    given_prob = np.r_[1.0, generator.random(49)]
    _, probs = compute_distribution_targets(np.full(50, 4), given_prob, ids, top, beta=0.6)
    np.testing.assert_allclose(probs.sum(axis=1), 1.0, rtol=1e-6)
    assert probs[0, 0] == 1.0 and (probs[:, 0] >= 0.6).all()
    order = np.argsort(given_prob)
    assert (np.diff(probs[order, 0]) >= 0).all()
