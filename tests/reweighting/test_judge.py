"""The judge: out of fold, calibrated, the same every time; the chosen strength; hostile input."""

import numpy as np
import pytest

from urnet_tf.errors import UsageError
from urnet_tf.reweighting import judge
from urnet_tf.reweighting.class_moments import sum_moments
from urnet_tf.reweighting.discriminant import fit_discriminant
from urnet_tf.reweighting.judge import fit_temperature, mean_head, out_of_fold_predictions
from urnet_tf.reweighting.linear_head import LinearHead


def draw(rows=400, dim=8, classes=4, wrong=0.3, seed=0, apart=2.0):
    """Features, given labels and whether they are right: a share of them is replaced by other classes."""
    generator = np.random.default_rng(seed)
    truth = np.arange(rows) % classes
    features = apart * np.random.default_rng(99).normal(size=(classes, dim))[truth]
    features = (features + generator.normal(size=(rows, dim))).astype(np.float32)
    moved = generator.random(rows) < wrong
    labels = np.where(moved, (truth + generator.integers(1, classes, rows)) % classes, truth)
    return features, labels, truth


def softmax(logits):
    logits = np.exp(logits - logits.max(axis=1, keepdims=True))
    return logits / logits.sum(axis=1, keepdims=True)


def area_under_curve(scores, right):
    """The share of (right, wrong) pairs in which the right one scores higher."""
    return (scores[right][:, None] > scores[~right][None]).mean()


def test_what_takes_hours_is_left_to_the_discriminant(monkeypatch):
    features = np.random.default_rng(0).normal(size=(60, 4))
    labels = np.arange(60) % 3
    both = judge.out_of_fold_predictions(features, labels, folds=3, kind="auto")
    assert set(both.strengths) == {"discriminant", "logistic"}
    monkeypatch.setattr(judge, "_MOST_PRODUCTS", 60 * 4 * 3 - 1)
    alone = judge.out_of_fold_predictions(features, labels, folds=3, kind="auto")
    assert set(alone.strengths) == {"discriminant"}
    expected = judge.out_of_fold_predictions(features, labels, folds=3, kind="discriminant")
    np.testing.assert_array_equal(alone.given_prob, expected.given_prob)


@pytest.mark.parametrize("kind", judge.KINDS)
def test_planted_wrong_labels_get_low_scores(kind):
    features, labels, truth = draw()
    result = out_of_fold_predictions(features, labels, kind=kind, folds=4)
    right = labels == truth
    assert area_under_curve(result.given_prob, right) > 0.97
    assert area_under_curve(result.log_odds, right) > 0.97
    assert (result.head.logits(features).argmax(axis=1) == truth).mean() > 0.97
    # Calibrated on given labels: a sure image gets about the probability with which a label is right.
    assert result.given_prob[right].mean() == pytest.approx(0.7, abs=0.1)


@pytest.mark.parametrize("kind", judge.KINDS)
def test_no_image_is_judged_by_a_head_that_saw_it(kind):
    # Pure noise: in sample a head of 40 dimensions finds the labels of 60 images, out of fold it cannot.
    generator = np.random.default_rng(1)
    features, labels = generator.normal(size=(60, 40)), np.arange(60) % 2
    result = out_of_fold_predictions(features, labels, kind=kind, folds=6)
    assert (result.topk_ids[:, 0] == labels).mean() < 0.65


def test_columns_are_those_of_the_head_without_the_fold(monkeypatch):
    monkeypatch.setattr(judge, "SHRINKAGES", (0.8,))
    features, labels, _ = draw(rows=90)
    folds = np.arange(90) // 30
    result = out_of_fold_predictions(features, labels, kind="discriminant", folds=folds, top_k=4)
    rest = folds != 1
    head = fit_discriminant(sum_moments(features[rest], labels[rest]), shrinkage=0.8)
    temperature = result.scores["discriminant"][0].temperature
    probs = softmax(head.logits(features[~rest]) / temperature)
    np.testing.assert_allclose(
        np.take_along_axis(probs, result.topk_ids[~rest], axis=1), result.topk_probs[~rest], atol=1e-3
    )
    own = probs[np.arange(30), labels[~rest]]
    np.testing.assert_allclose(result.given_prob[~rest], own, atol=1e-3)
    probs[np.arange(30), labels[~rest]] = 0.0
    np.testing.assert_allclose(result.log_odds[~rest], np.log(own / probs.max(axis=1)), rtol=1e-2, atol=1e-2)
    np.testing.assert_array_equal(result.folds, folds)


@pytest.mark.parametrize("kind", judge.KINDS)
def test_every_score_is_finite_and_sorted_and_the_same_again(kind):
    features, labels, _ = draw(rows=80)
    result = out_of_fold_predictions(features, labels, kind=kind, top_k=3, num_classes=6)
    again = out_of_fold_predictions(features, labels, kind=kind, top_k=3, num_classes=6)
    for name, shape in (("given_prob", (80,)), ("log_odds", (80,)), ("topk_probs", (80, 3))):
        column = getattr(result, name)
        assert column.dtype == np.float32 and column.shape == shape and np.isfinite(column).all()
        np.testing.assert_array_equal(column, getattr(again, name))
    assert (np.diff(result.topk_probs, axis=1) <= 0).all()
    first = result.topk_ids[:, 0] == labels
    np.testing.assert_array_equal(first, result.log_odds > 0)
    np.testing.assert_allclose(result.given_prob[first], result.topk_probs[first, 0], rtol=1e-5)


def test_more_wrong_labels_ask_for_more_regularization():
    chosen = []
    for wrong in (0.0, 0.5):
        features, labels, _ = draw(rows=300, dim=20, wrong=wrong, seed=3)
        scores = out_of_fold_predictions(features, labels, kind="logistic").scores["logistic"]
        chosen.append(max(scores, key=lambda score: score.likelihood).strength)
    assert chosen[1] > 3 * chosen[0]


@pytest.mark.parametrize("criterion", judge.CRITERIA)
def test_the_climb_ends_at_the_best_of_its_neighbors(criterion):
    features, labels, _ = draw(rows=200, dim=30, apart=0.6)
    result = out_of_fold_predictions(features, labels, kind="discriminant", criterion=criterion)
    scores = result.scores["discriminant"]
    strengths = [score.strength for score in scores]
    start = judge.SHRINKAGES.index(strengths[0])
    assert tuple(strengths) == judge.SHRINKAGES[start : start + len(scores)]  # neighbors, in order
    assert judge.FIRST_SHRINKAGE in strengths
    best = max(range(len(scores)), key=lambda at: getattr(scores[at], criterion))
    assert getattr(result, criterion) == pytest.approx(getattr(scores[best], criterion), abs=1e-4)
    ends = {judge.SHRINKAGES[0], judge.SHRINKAGES[-1]}
    assert strengths[best] in ends or 0 < best < len(scores) - 1  # a worse one on both sides


def test_the_head_speaks_in_probabilities_like_the_columns():
    features, labels, _ = draw()
    result = out_of_fold_predictions(features, labels, kind="mean")
    probs = softmax(result.head.logits(features))
    assert probs[np.arange(len(labels)), labels].mean() == pytest.approx(result.given_prob.mean(), abs=0.03)


def test_classes_count_alike_whatever_their_size():
    generator = np.random.default_rng(5)
    labels = np.repeat([0, 1], [400, 20])
    features = generator.normal(size=(420, 3)) + 1.0 * labels[:, None]
    for kind in judge.KINDS:
        found = out_of_fold_predictions(features, labels, kind=kind).topk_ids[:, 0]
        recalls = [(found[labels == label] == label).mean() for label in (0, 1)]
        assert min(recalls) > 0.6
        plain = out_of_fold_predictions(features, labels, kind=kind, priors="empirical").topk_ids[:, 0]
        assert (plain == 1).mean() < 0.5 * (found == 1).mean()


def test_weights_of_zero_leave_images_out_of_the_fits():
    features, labels, truth = draw(wrong=0.5)
    right = labels == truth
    result = out_of_fold_predictions(features, labels, kind="mean", sample_weight=right.astype(float))
    alone = out_of_fold_predictions(features[right], labels[right], kind="mean", folds=result.folds[right])
    agree = result.head.logits(features).argmax(axis=1) == alone.head.logits(features).argmax(axis=1)
    assert agree.mean() > 0.98


def test_targets_replace_the_labels_in_the_fit():
    features, labels, truth = draw(wrong=0.45, apart=1.0)
    corrected = out_of_fold_predictions(
        features, labels, kind="logistic", targets=(truth[:, None], np.ones((len(truth), 1)))
    )
    given = out_of_fold_predictions(features, labels, kind="logistic")
    right = labels == truth
    assert area_under_curve(corrected.log_odds, right) > area_under_curve(given.log_odds, right)


def test_temperature_by_hand():
    # Two classes, logit difference 4; 3 of 4 labels agree: sigmoid(4 / T) = 3 / 4, so T = 4 / log 3.
    logits = np.array([[4.0, 0.0]] * 4)
    temperature, likelihood = fit_temperature(logits, np.array([0, 0, 0, 1]), np.ones(4))
    assert temperature == pytest.approx(4 / np.log(3), rel=2e-3)
    assert likelihood == pytest.approx(0.75 * np.log(0.75) + 0.25 * np.log(0.25), abs=1e-6)
    # The first three labels count a third each: as if there were one of each, so that nothing is known.
    temperature, _ = fit_temperature(logits, np.array([0, 0, 0, 1]), np.array([1 / 3, 1 / 3, 1 / 3, 1]))
    assert temperature > 30


def test_mean_head_by_hand():
    head = mean_head(
        [LinearHead(np.array([[1.0, 2]]), np.zeros(2)), LinearHead(np.array([[3.0, 0]]), np.ones(2))]
    )
    np.testing.assert_array_equal(head.kernel, [[2, 1]])
    np.testing.assert_array_equal(head.bias, [0.5, 0.5])


@pytest.mark.parametrize("kind", judge.KINDS)
def test_a_class_of_one_image_is_unknown_to_its_own_fold(kind):
    features, labels, _ = draw(rows=60)
    labels = np.append(labels[:-1], 4)
    result = out_of_fold_predictions(features, labels, kind=kind)
    assert result.given_prob[-1] < 1e-6 and np.isfinite(result.log_odds).all()
    # It spoils little: the others are judged about as well as without it.
    others = out_of_fold_predictions(features[:-1], labels[:-1], kind=kind)
    assert result.agreement == pytest.approx(others.agreement, abs=0.1)
    assert result.likelihood == pytest.approx(others.likelihood, abs=0.2)


@pytest.mark.parametrize("kind", judge.KINDS)
def test_constant_features_know_nothing(kind):
    result = out_of_fold_predictions(np.full((20, 3), 2.0, np.float16), np.arange(20) % 2, kind=kind)
    np.testing.assert_allclose(result.given_prob, 0.5, atol=1e-3)


def test_scored_images_are_thinned_out_evenly(monkeypatch):
    features, labels, truth = draw(rows=2400)
    whole = out_of_fold_predictions(features, labels, kind="discriminant")
    monkeypatch.setattr(judge, "_SCORED_VALUES", 8 * 1200)
    thin = out_of_fold_predictions(features, labels, kind="discriminant")
    assert thin.agreement == pytest.approx(whole.agreement, abs=0.03)
    assert thin.agreement != whole.agreement
    assert thin.given_prob.shape == (2400,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(12, int)}, "at least two classes; received 12 of class 0"),
        ({"folds": 1}, "two folds"),
        ({"folds": np.zeros(12, int)}, "two folds"),
        ({"folds": np.arange(11)}, "one fold"),
        ({"kind": "forest"}, "kind of discriminant, logistic, mean, auto; received 'forest'"),
        ({"criterion": "luck"}, "criterion of"),
        ({"priors": "even"}, "priors of"),
        ({"targets": (np.zeros((12, 1), int), np.ones((12, 1)))}, "targets with kind='logistic' only"),
        (
            {"features": np.where(np.arange(24).reshape(12, 2) == 7, np.nan, 1.0)},
            "NaN or infinity for image 3",
        ),
        ({"labels": np.arange(12)}, "a class with images in two folds"),
        ({"sample_weight": -np.ones(12)}, "weights of 0 or more"),
    ],
)
def test_what_is_refused(change, message):
    features = np.random.default_rng(0).normal(size=(12, 2))
    arguments = {"features": features, "labels": np.arange(12) % 2} | change
    with pytest.raises(UsageError, match=message):
        out_of_fold_predictions(**arguments)


def test_the_temperature_follows_the_trusted_labels():
    """With a third of the labels drawn anew, the trusted two thirds say how sure the head may be."""
    rng = np.random.default_rng(4)
    truth = np.repeat(np.arange(4), 150)
    features = (2.0 * np.eye(4)[truth] + rng.normal(size=(600, 4))).astype(np.float32)
    wrong = rng.random(600) < 1 / 3
    labels = np.where(wrong, rng.integers(0, 4, 600), truth)
    plain = out_of_fold_predictions(features, labels, kind="logistic")
    trusting = out_of_fold_predictions(features, labels, kind="logistic", trust=(~wrong).astype(float))
    # Equal heads but for the scale of their logits; and as the truth is trusted, calibrated on it.
    ratio = trusting.head.kernel / plain.head.kernel
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-3)
    right = (trusting.topk_ids[:, 0] == truth).mean()
    assert plain.topk_probs[:, 0].mean() < right - 0.1
    assert trusting.topk_probs[:, 0].mean() == pytest.approx(right, abs=0.04)
    with pytest.raises(UsageError, match="weights"):
        out_of_fold_predictions(features, labels, trust=-np.ones(600))
