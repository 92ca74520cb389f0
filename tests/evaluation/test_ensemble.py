"""Fusion of several models, by hand numbers."""

import numpy as np
import pytest

from urnet_tf.errors import UsageError
from urnet_tf.evaluation import ensemble
from urnet_tf.evaluation.predictions import Predictions


def test_mean_probability_by_hand():
    probs = np.array([[[0.6, 0.4, 0.0]], [[0.0, 0.5, 0.5]]], np.float32)
    fused = ensemble.mean_probability(probs)
    assert fused.dtype == np.float32
    assert fused.tolist() == [pytest.approx([0.3, 0.45, 0.25])]


def test_rank_fusion_by_hand():
    # ranks: model 1 → (1, 2, 3); model 2 → (3, 1, 2)
    probs = np.array([[[0.9, 0.08, 0.02]], [[0.1, 0.5, 0.4]]], np.float32)
    scores = np.array([1 / 61 + 1 / 63, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62])
    np.testing.assert_allclose(ensemble.rank_fusion(probs)[0], scores / scores.sum(), rtol=1e-6)


def test_rank_fusion_shares_the_ranks_of_ties():
    scores = np.array([1 / 61.5, 1 / 61.5, 1 / 64, 1 / 64, 1 / 64])  # ranks 1.5, 1.5, 4, 4, 4
    fused = ensemble.rank_fusion(np.array([[[0.4, 0.4, 0.1, 0.1, 0.1]]], np.float32))
    np.testing.assert_allclose(fused[0], scores / scores.sum(), rtol=1e-6)


def test_rank_fusion_does_not_see_confidence():
    probs = np.array([[[0.5, 0.3, 0.2]], [[0.4, 0.35, 0.25]]], np.float32)
    sharper = probs**4 / (probs**4).sum(-1, keepdims=True)
    assert np.array_equal(ensemble.rank_fusion(probs), ensemble.rank_fusion(sharper))


def test_one_member_keeps_its_order():
    probs = np.random.default_rng(0).dirichlet(np.ones(7), (1, 5)).astype(np.float32)
    for fusion in ensemble.FUSIONS:
        assert np.array_equal(np.argsort(-ensemble.fuse(probs, fusion)), np.argsort(-probs[0]))


def test_rank_fusion_joins_the_best_classes_of_each_member():
    few, many = ensemble.RANKED, 2 * ensemble.RANKED + 10  # more than both members can name
    ascending = np.arange(1, many + 1, dtype=np.float32)
    probs = np.stack([ascending[::-1], ascending])[:, None] / ascending.sum()  # opposite orders
    fused = ensemble.rank_fusion(probs)[0]
    joined = np.r_[:few, many - few : many]  # the ten in the middle are among the best of neither
    scores = np.zeros(many)
    scores[joined] = 1 / (60 + np.arange(1, 2 * few + 1))
    scores += scores[::-1]
    np.testing.assert_allclose(fused, scores / scores.sum(), rtol=1e-6)


@pytest.mark.parametrize("classes", [7, ensemble.RANKED, 160])
def test_the_best_of_rank_fusion_are_those_of_sorting_all_classes(classes):
    rng = np.random.default_rng(1)
    logits = 2 * rng.normal(size=(1, 40, classes)) + 0.2 * rng.normal(size=(3, 40, classes))
    probs = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).astype(np.float32)
    ranks = 1 + np.argsort(np.argsort(-probs, axis=-1), axis=-1)
    expected = (1 / (60 + ranks)).sum(axis=0)
    expected /= expected.sum(axis=1, keepdims=True)
    fused = ensemble.rank_fusion(probs)
    if classes < 3 * ensemble.RANKED:
        np.testing.assert_allclose(fused, expected, rtol=1e-5)
    best = [
        np.argsort(-scores, axis=1, kind="stable")[:, :5] for scores in (fused, expected.astype(np.float32))
    ]
    np.testing.assert_array_equal(*best)


def test_unknown_fusion_and_wrong_shape_are_named():
    with pytest.raises(UsageError, match="'median'"):
        ensemble.fuse(np.ones((1, 1, 2)), "median")
    with pytest.raises(UsageError, match="shape"):
        ensemble.mean_probability(np.ones((2, 3)))


def test_predictions_keep_the_best_and_the_given():
    probs = np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]], np.float32)
    first = Predictions.from_probs(probs, np.array([0, -1]), 2)
    assert first.topk_ids.tolist() == [[1, 2], [2, 0]]
    assert first.given_prob[0] == pytest.approx(0.2) and np.isnan(first.given_prob[1])
    both = Predictions.concatenate([first, first])
    assert both.topk_probs.shape == (4, 2)
