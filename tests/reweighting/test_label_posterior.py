"""The probability that a label is right: calibrated on planted noise, whatever the noise."""

import numpy as np
import pytest

from urnet_tf.reweighting.judge import out_of_fold_predictions
from urnet_tf.reweighting.label_posterior import compute_label_posterior

ROWS, CLASSES = 2000, 10


def noisy(share, *, unknown=0.0, spread=1.5, confused=False, top_k=5):
    """Labels of which a share is wrong, and what discriminant analysis says of them out of fold.

    Args:
      unknown: the share of wrongly labeled images that show none of the classes.
      spread: of the images of a class; the class means lie about 7 apart.
      confused: whether all wrong labels of a class are those of one other class.
    """
    generator = np.random.default_rng(1)
    means = generator.normal(size=(CLASSES, 24))
    truth = generator.integers(0, CLASSES, ROWS)
    wrong = generator.random(ROWS) < share
    other = 1 if confused else generator.integers(1, CLASSES, ROWS)
    labels = np.where(wrong, (truth + other) % CLASSES, truth)
    features = means[truth] + spread * generator.normal(size=(ROWS, 24))
    strange = wrong & (generator.random(ROWS) < unknown)
    features[strange] = generator.normal(size=(strange.sum(), 24)) * np.hypot(1, spread)
    judged = out_of_fold_predictions(
        features.astype(np.float32), labels, folds=4, kind="discriminant", top_k=top_k
    )
    return labels, wrong, judged.given_prob, judged.topk_ids, judged.topk_probs


@pytest.mark.parametrize(
    "noise",
    [
        {"share": 0.0}, {"share": 0.05}, {"share": 0.2}, {"share": 0.4}, {"share": 0.2, "confused": True},
        {"share": 0.3, "unknown": 0.5}, {"share": 0.3, "unknown": 1.0}, {"share": 0.4, "confused": True},
    ],
)  # fmt: skip
def test_the_share_of_wrong_labels_lies_in_its_interval(noise):
    labels, wrong, given, ids, probs = noisy(**noise)
    found = compute_label_posterior(given, ids, probs, labels, num_classes=CLASSES)
    assert found.low <= wrong.mean() <= found.high
    assert found.high - found.low < 0.35


@pytest.mark.parametrize("noise", [{"share": 0.2}, {"share": 0.4}, {"share": 0.3, "unknown": 0.5}])
def test_images_are_right_as_often_as_their_probability_says(noise):
    labels, wrong, given, ids, probs = noisy(**noise)
    prob = compute_label_posterior(given, ids, probs, labels, num_classes=CLASSES).prob
    for low, high in [(0.0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 1.01)]:
        here = (prob >= low) & (prob < high)
        assert here.sum() > 30
        # The middle holds few images, and the fewer wrong labels there are, the less is known of it.
        margin = 0.1 if low in (0.0, 0.9) else 0.4
        assert np.mean(~wrong[here]) == pytest.approx(prob[here].mean(), abs=margin)


def test_it_separates_as_well_as_the_score_that_it_is_made_of():
    labels, wrong, given, ids, probs = noisy(0.3)
    found = compute_label_posterior(given, ids, probs, labels, num_classes=CLASSES)
    other = np.where(ids == labels[:, None], 0.0, probs).max(axis=1)

    def separation(values):
        from scipy.stats import mannwhitneyu

        return mannwhitneyu(values[~wrong], values[wrong]).statistic / (wrong.sum() * (~wrong).sum())

    assert separation(found.prob) > separation(np.log(given / other)) - 0.005
    assert separation(found.prob) > separation(given)


def test_classes_that_were_not_kept_are_counted():
    labels, wrong, given, ids, probs = noisy(0.3)
    few = compute_label_posterior(given, ids[:, :2], probs[:, :2], labels, num_classes=CLASSES)
    assert few.wrong_share == pytest.approx(wrong.mean(), abs=0.1)
    one = compute_label_posterior(given, ids[:, :1], probs[:, :1], labels, num_classes=CLASSES)
    assert one.low <= wrong.mean() <= one.high


def test_order_of_images_changes_nothing():
    labels, _, given, ids, probs = noisy(0.3)
    turned = np.arange(ROWS)[::-1]
    found = compute_label_posterior(given, ids, probs, labels, num_classes=CLASSES)
    again = compute_label_posterior(
        given[turned], ids[turned], probs[turned], labels[turned], num_classes=CLASSES
    )
    np.testing.assert_allclose(again.prob[turned], found.prob, atol=1e-6)


@pytest.mark.parametrize("given", [0.5, 0.0, 1.0])
def test_models_that_know_nothing_give_finite_probabilities(given):
    labels = np.arange(8) % 2
    ids = np.tile(np.array([0, 1], np.int32), (8, 1))
    probs = np.tile([0.5, 0.5], (8, 1))
    found = compute_label_posterior(np.full(8, given), ids, probs, labels, num_classes=2)
    assert np.isfinite(found.prob).all() and 0 <= found.low <= found.high <= 1


def test_a_handful_of_images_is_judged_as_the_probabilities_say():
    labels = np.array([0, 0, 1, 1, 1, 0])
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.1, 0.9]])
    ids = np.argsort(-probs, axis=1)
    given = probs[np.arange(6), labels]
    found = compute_label_posterior(given, ids, np.take_along_axis(probs, ids, 1), labels, num_classes=2)
    assert (found.prob[[0, 1, 3, 4]] > 0.5).all() and (found.prob[[2, 5]] < 0.4).all()
    assert 0.1 < found.wrong_share < 0.6 and found.high - found.low > 0.4


def test_nan_is_refused():
    with pytest.raises(ValueError, match="finite"):
        compute_label_posterior(
            np.array([np.nan]), np.array([[0, 1]]), np.array([[0.5, 0.5]]), np.array([0]), num_classes=2
        )
