"""Image-text confidence: selection, gradients, what a map learns, and both weights."""

import numpy as np
import pytest
from urnet_fixtures.texts import TEXT, planted

from urnet_tf.reweighting import instance_weight as iw


def test_top_rank_takes_queries_in_turn():
    labels = np.zeros(6, int)
    queries = np.array([0, 0, 0, 0, 1, 1])
    ranks = np.array([9, 1, 2, 3, 5, 70])  # query 1 begins at rank 5, with a gap
    everything = np.ones(6, bool)
    chosen = iw.select_top_rank(labels, queries, ranks, everything, top_rank=3)
    np.testing.assert_array_equal(chosen, [1, 2, 4])  # firsts of both queries, then the second of query 0
    assert len(iw.select_top_rank(labels, queries, ranks, everything, top_rank=30)) == 6


def test_top_rank_falls_back_to_all_instances_of_a_class():
    labels = np.array([0, 0, 1, 1])
    chosen = iw.select_top_rank(
        labels, np.zeros(4, int), np.array([2, 1, 2, 1]), np.array([True, False, False, False]), top_rank=1
    )
    np.testing.assert_array_equal(chosen, [0, 3])


def test_pairwise_gradient_by_hand():
    # u = (1, 0), t+ = (0, 1), t- = (-1, 0): loss = -(0 + 1); d loss / du = t- - t+ = (-1, -1), whose part
    # at right angles to u is (0, -1). One image x = (1, 0): dW = x (0, -1) / |W^T x| with |W^T x| = 2.
    gradient = iw.text_map_gradient(
        np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0]]), np.array([0]),
        np.array([[0.0, 1.0], [-1.0, 0.0]]), other=np.array([1]), temperature=1.0,
    )  # fmt: skip
    np.testing.assert_allclose(gradient, [[0.0, -0.5], [0.0, 0.0]], atol=1e-9)


@pytest.mark.parametrize("loss", ["pairwise", "contrastive"])
def test_gradient_equals_finite_differences(loss):
    generator = np.random.default_rng(1)
    text_map, images = generator.standard_normal((4, 6)), generator.standard_normal((5, 4))
    labels, other = np.array([0, 1, 2, 0, 1]), np.array([1, 2, 0, 2, 0])

    def value(weights):
        unit = images @ weights
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        cosines = unit @ TEXT.T.astype(float)
        rows = np.arange(5)
        if loss == "pairwise":
            return -(cosines[rows, labels] - cosines[rows, other]).mean()
        logits = cosines / 0.2
        return -(logits[rows, labels] - np.log(np.exp(logits).sum(axis=1))).mean()

    gradient = iw.text_map_gradient(
        text_map, images, labels, TEXT.astype(float), other=other if loss == "pairwise" else None,
        temperature=0.2,
    )  # fmt: skip
    for index in [(0, 0), (3, 5), (2, 1)]:
        step = np.zeros_like(text_map)
        step[index] = 1e-6
        numeric = (value(text_map + step) - value(text_map - step)) / 2e-6
        assert gradient[index] == pytest.approx(numeric, abs=1e-6)


@pytest.mark.parametrize("loss", ["pairwise", "contrastive"])
def test_right_labels_are_more_confident_and_runs_repeat(loss):
    features, labels, wrong = planted(noise=0.2)
    arguments = {"loss": loss, "temperature": 0.1, "epochs": 30, "seed": 3}
    folds = np.arange(len(labels)) // 3 % 4
    found = iw.cross_fit_confidence(features, labels, TEXT, np.arange(300), folds, **arguments)
    assert found[~wrong].mean() > found[wrong].mean() + 0.1
    assert (np.abs(found) <= 1 + 1e-6).all() and found.dtype == np.float32
    again = iw.cross_fit_confidence(features, labels, TEXT, np.arange(300), folds, **arguments)
    np.testing.assert_array_equal(found, again)


def test_one_fold_is_one_map_for_all():
    features, labels, _ = planted(60)
    arguments = {"loss": "pairwise", "temperature": 0.1, "epochs": 2, "seed": 0}
    ids = np.arange(0, 60, 2)
    found = iw.cross_fit_confidence(features, labels, TEXT, ids, np.zeros(60, np.int8), **arguments)
    text_map = iw.fit_text_map(features[ids], labels[ids], TEXT, **arguments)
    np.testing.assert_array_equal(found, iw.compute_confidence(features, labels, TEXT, text_map))


def test_confidence_by_hand():
    text = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    features, text_map = np.float16([[3, 4], [3, 4], [-3, 4]]), np.eye(2, dtype=np.float32)
    found = iw.compute_confidence(features, np.array([0, 1, 0]), text, text_map)
    np.testing.assert_allclose(found, [0.6, 0.8, -0.6], rtol=1e-5)


def test_paper_weight_is_the_cosine_and_sound_weight_is_lifted():
    confidence, labels = np.array([-0.5, 0.5, 1.0, 0.4]), np.array([0, 0, 0, 1])
    paper = iw.compute_instance_weight(confidence, labels, num_classes=2, formulas="literal")
    np.testing.assert_array_equal(paper, confidence.astype(np.float32))
    # Class 0: mean of (0, 0.5, 1) = 0.5; floor 0.05; (0.05, 0.5, 1) has mean 1.55 / 3.
    sound = iw.compute_instance_weight(confidence, labels, num_classes=2, floor=0.1)
    np.testing.assert_allclose(sound, [0.15 / 1.55, 1.5 / 1.55, 3 / 1.55, 1.0], rtol=1e-5)


def test_one_class_cannot_be_learned():
    with pytest.raises(ValueError, match="two or more classes"):
        iw.fit_text_map(np.ones((2, 3)), np.zeros(2, int), TEXT[:1], loss="pairwise", temperature=1.0,
                        epochs=1, seed=0)  # fmt: skip


@pytest.mark.parametrize("formulas", ["literal", "repaired"])
def test_maps_are_cross_fitted_but_in_the_papers_form(formulas):
    features, labels, _ = planted(60, noise=0.2)
    folds, one = np.arange(60) // 3 % 4, np.zeros(60, int)
    fit = {"loss": "pairwise", "temperature": 0.1, "epochs": 3, "seed": 0}
    found, ids = iw.compute_text_confidence(
        features, labels, TEXT, queries=one, ranks=np.arange(60), eligible=np.ones(60, bool), folds=folds,
        top_rank=60, formulas=formulas, **fit,
    )  # fmt: skip
    assert len(ids) == 60
    by_folds, by_one = (
        iw.cross_fit_confidence(features, labels, TEXT, ids, dealt, **fit) for dealt in (folds, one)
    )
    np.testing.assert_array_equal(found, by_one if formulas == "literal" else by_folds)
    assert np.abs(by_one - by_folds).max() > 1e-3


@pytest.mark.parametrize("rows", [0, 1, 256, 600])
def test_each_row_gets_length_one_and_keeps_its_direction(rows):
    features = np.random.default_rng(0).normal(3.0, 2.0, (rows, 7)).astype(np.float16)
    given = features.copy()
    exact = given.astype(np.float64) / np.sqrt(np.square(given.astype(np.float64)).sum(axis=1, keepdims=True))
    found = iw.normalized(features)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    np.testing.assert_array_equal(features, given)
