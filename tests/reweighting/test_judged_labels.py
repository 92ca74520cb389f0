"""P(right) by people's judgements: by an independent optimizer, and on crawls whose truth is known."""

import dataclasses

import numpy as np
import pytest
from scipy import optimize

from urnet_tf.reweighting import combine, factors, recipe
from urnet_tf.reweighting.judged_labels import describe_anchors, fit_calibration
from urnet_tf.reweighting.label_posterior import compute_label_posterior
from urnet_tf.schema import BALANCED_BASELINE


def logit(prob):
    return np.log(prob / (1 - prob))


def test_the_calibration_is_the_most_probable_one():
    generator = np.random.default_rng(0)
    prob = generator.uniform(0.02, 0.98, 60)
    right = generator.random(60) < prob**2

    def surprise(values):
        a, b = values
        fitted = 1 / (1 + np.exp(-a - b * logit(prob)))
        data = -np.where(right, np.log(fitted), np.log1p(-fitted)).sum()
        return data + 0.5 * (a / 0.6) ** 2 + 0.5 * ((b - 1) / 0.3) ** 2

    best = optimize.minimize(surprise, [0.0, 1.0], tol=1e-12)
    found = fit_calibration(prob, right)
    assert (found.offset, found.slope) == pytest.approx(tuple(best.x), abs=1e-4)
    np.testing.assert_allclose(found.covariance, best.hess_inv, rtol=0.05, atol=1e-3)
    assert found.judged == 60 and found.apply(np.array([0.5]))[0] == pytest.approx(
        1 / (1 + np.exp(-found.offset))
    )


def test_nobody_has_judged():
    found = fit_calibration(np.empty(0), np.empty(0, bool))
    prob = np.array([0.1, 0.5, 0.9])
    np.testing.assert_allclose(found.apply(prob), prob)
    # Half a point of probability in the middle moves the mean by what the prior of the offset allows.
    assert found.share_deviation(np.full(10, 0.5)) == pytest.approx(0.25 * 0.6)


def test_what_is_missing_of_the_likeliest_classes_is_spread():
    anchors = describe_anchors(
        np.array([2, 5, 0]), np.array([[1, 2], [1, 2], [0, 3]]),
        np.array([[0.5, 0.3], [0.5, 0.3], [0.4, 0.1]]), np.array([True, False, True]), np.ones(3, bool),
        num_classes=6,
    )  # fmt: skip
    np.testing.assert_allclose(anchors.given_prob, [0.3, 0.2 / 4, 0.4])


@pytest.fixture(scope="module")
def crawl():
    """Labels of which 40 % are wrong, and probabilities that are off: they doubt too little."""
    generator = np.random.default_rng(1)
    rows, classes = 4000, 5
    truth = generator.integers(0, classes, rows)
    wrong = generator.random(rows) < 0.4
    # Half of the wrong labels are those that models take for right: nothing in the probabilities tells.
    labels = np.where(wrong, (truth + generator.integers(1, classes, rows)) % classes, truth)
    seen = np.where(wrong & (generator.random(rows) < 0.5), labels, truth)
    logits = 2.5 * np.eye(classes)[seen] + generator.normal(size=(rows, classes))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    order = np.argsort(-probs, axis=1)
    return labels, wrong, probs[np.arange(rows), labels], order, np.take_along_axis(probs, order, 1)


def judge(crawl, rows, by_chance=True):
    labels, wrong, _, ids, probs = crawl
    chance = np.full(len(rows), by_chance)
    return describe_anchors(labels[rows], ids[rows], probs[rows], ~wrong[rows], chance, num_classes=5)


def without(crawl, rows):
    """The crawl without the judged rows that are wrong, and who is trusted of the rest."""
    labels, wrong, given, ids, probs = crawl
    kept = np.setdiff1d(np.arange(len(labels)), rows[wrong[rows]])
    trusted = np.isin(kept, rows)
    return (given[kept], ids[kept], probs[kept], labels[kept]), trusted, wrong[kept]


@pytest.mark.parametrize("order", ["random", "doubtful"])
def test_judgements_set_the_probability_right(crawl, order):
    labels, wrong, given, ids, probs = crawl
    before = compute_label_posterior(given, ids, probs, labels, num_classes=5)
    assert before.wrong_share < 0.33, "the models are wrong about it"
    rows = np.random.default_rng(2).permutation(4000)[:300]
    if order == "doubtful":
        rows = np.argsort(before.prob * (1 - before.prob))[::-1][:300]
    seen, trusted, left_wrong = without(crawl, rows)
    anchors = judge(crawl, rows, order == "random")
    found = compute_label_posterior(*seen, num_classes=5, trusted=trusted, anchors=anchors)
    assert (found.prob[trusted] == 1).all()
    untold = compute_label_posterior(*seen, num_classes=5)
    error, error_before = (abs(p.wrong_share - left_wrong.mean()) for p in (found, untold))
    width, width_before = found.high - found.low, untold.high - untold.low
    if order == "random":
        assert found.low <= left_wrong.mean() <= found.high
        assert error < 0.5 * error_before and width < 0.6 * width_before
    else:  # no one has looked at the rest
        assert width > 0.7 * width_before


def test_chosen_images_say_nothing_of_others(crawl):
    labels, _, given, ids, probs = crawl
    rows = np.argsort(given)[:300]
    before = compute_label_posterior(given, ids, probs, labels, num_classes=5)
    seen, trusted, _ = without(crawl, rows)
    found = compute_label_posterior(
        *seen, num_classes=5, trusted=trusted, anchors=judge(crawl, rows, by_chance=False)
    )
    kept = np.setdiff1d(np.arange(len(labels)), rows[crawl[1][rows]])
    clipped = np.clip(before.prob[kept][~trusted], 1e-3, 0.999)
    np.testing.assert_allclose(found.prob[~trusted], clipped, atol=1e-6)
    assert found.calibration.judged == 0


def test_everything_trusted():
    prob = np.full(4, 0.5)
    found = compute_label_posterior(
        prob, np.array([[0, 1]] * 4), np.full((4, 2), 0.5), np.zeros(4, int), num_classes=2,
        trusted=np.ones(4, bool),
    )  # fmt: skip
    assert (found.prob == 1).all() and (found.wrong_share, found.low, found.high) == (0, 0, 0)


# --------------------------------------------------------------------------- weights


def instances_of(trusted, **known):
    labels = np.repeat([0, 1], 40)
    generator = np.random.default_rng(3)
    probs = generator.dirichlet([1, 1], 80)
    prediction = factors.Prediction(
        BALANCED_BASELINE, probs[np.arange(80), labels], np.argsort(-probs, axis=1), -np.sort(-probs, axis=1)
    )
    return factors.Instances(
        labels, 2, prediction, np.arange(80) % 4, np.zeros(80, int), np.arange(80) % 9 + 1,
        page_score=generator.normal(size=80), trusted=trusted, **known,
    )  # fmt: skip


EVIDENCE = {"class_weight": {"kind": "inverse", "alpha": 1.0, "effective_beta": 0.9}, "rank_prior": {},
            "self_confidence": {"floor": 0.05}, "label_posterior": {}, "page_text": {}}  # fmt: skip


@pytest.mark.parametrize("formulas", ["repaired", "literal"])
@pytest.mark.parametrize("target", [None, "predicted", "distribution"])
def test_trusted_labels_count_most_in_their_class_and_are_their_own_target(formulas, target):
    trusted = np.arange(80) % 5 == 0
    settings = factors.Recipe(EVIDENCE, formulas=formulas, target=target, beta=0.3)
    found = recipe.apply_recipe(instances_of(trusted), settings)
    weights, labels = found.sample_weight, np.repeat([0, 1], 40)
    for label in (0, 1):
        mine = labels == label
        np.testing.assert_allclose(weights[mine & trusted], weights[mine].max())
        assert (weights[mine & ~trusted] < weights[mine].max()).any()
    assert (found.right_prob[trusted] == 1).all() and (found.right_prob[~trusted] < 1).all()
    for name in ("rank_prior", "page_text"):
        np.testing.assert_allclose(found.factors[name][trusted], 1.0)
    if formulas == "repaired":
        assert weights.mean() == pytest.approx(1.0)
    assert (found.target_ids[trusted, 0] == labels[trusted]).all()
    assert (found.target_probs[trusted, 0] == 1).all() and not found.target_probs[trusted, 1:].any()


def test_nobody_trusted_changes_nothing():
    settings = factors.Recipe(EVIDENCE)
    nobody, none = (recipe.apply_recipe(instances_of(t), settings) for t in (np.zeros(80, bool), None))
    for field in dataclasses.fields(recipe.Weighed):
        if field.name not in ("factors", "posterior", "prediction"):
            np.testing.assert_array_equal(getattr(nobody, field.name), getattr(none, field.name))


def test_what_was_judged_teaches_nothing_about_ranks():
    """Those that were judged wrong are gone, so that what is left of the judged ones is right by choice."""
    trusted = np.arange(80) % 9 == 0  # all of rank 1
    settings = factors.Recipe({"rank_prior": {}, "label_posterior": {}})
    found = recipe.apply_recipe(instances_of(trusted), settings)
    rows = np.flatnonzero(~trusted)
    whole = instances_of(None)
    alone = dataclasses.replace(
        whole, labels=whole.labels[rows], folds=whole.folds[rows], sources=whole.sources[rows],
        ranks=whole.ranks[rows], page_score=None,
        prediction=factors.Prediction(
            BALANCED_BASELINE, whole.prediction.given_prob[rows], whole.prediction.topk_ids[rows],
            whole.prediction.topk_probs[rows],
        ),
    )  # fmt: skip
    np.testing.assert_allclose(found.right_prob[rows], recipe.apply_recipe(alone, settings).right_prob)


def test_a_trusted_copy_counts_its_share():
    pictures = np.full(80, -1)
    pictures[:4] = 7
    trusted = np.arange(80) < 2
    settings = factors.Recipe(EVIDENCE, copies_once=True)
    found = recipe.apply_recipe(instances_of(trusted, pictures=pictures), settings).sample_weight
    plain = recipe.apply_recipe(instances_of(trusted), settings).sample_weight
    assert found[0] / found[:40].max() == pytest.approx(0.25 * plain[0] / plain[:40].max(), rel=1e-5)


def test_trusted_weights_by_hand():
    weights = combine.combine_weights(
        [np.array([0.2, 0.8, 1.0, 0.5])], smallest=0.0, largest=100.0, labels=np.array([0, 0, 1, 1]),
        trusted=np.array([True, False, False, True]),
    )  # fmt: skip
    np.testing.assert_allclose(weights, np.array([0.8, 0.8, 1.0, 1.0]) / 0.9, rtol=1e-6)
