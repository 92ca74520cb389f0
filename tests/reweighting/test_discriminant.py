"""Linear discriminant analysis: against an independent fit, out of fold, in blocks, on hostile input."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from urnet_tf.errors import UsageError
from urnet_tf.reweighting.class_moments import deal_folds, sum_moments
from urnet_tf.reweighting.discriminant import fit_discriminant


def draw(rows=300, dim=12, classes=4, seed=0, offset=3.0):
    generator = np.random.default_rng(seed)
    labels = generator.choice(classes, rows, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    mixing = generator.normal(size=(dim, dim))
    noise = generator.normal(size=(rows, dim)) @ mixing
    return offset + generator.normal(size=(classes, dim))[labels] + noise, labels


def log_probs(logits):
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def naive_logits(features, labels, at, shrinkage, priors):
    """Log densities of normal distributions, written without any algebra of sums."""
    classes = range(labels.max() + 1)
    means = [features[labels == c].mean(axis=0) for c in classes]
    apart = np.concatenate([features[labels == c] - means[c] for c in classes])
    covariance = sum(np.outer(row, row) for row in apart) / len(apart)
    dim = len(covariance)
    inverse = np.linalg.inv((1 - shrinkage) * covariance + shrinkage * covariance.trace() / dim * np.eye(dim))
    return np.array(
        [
            [
                -0.5 * (row - means[c]) @ inverse @ (row - means[c])
                + (np.log(np.mean(labels == c)) if priors == "empirical" else 0.0)
                for c in classes
            ]
            for row in at
        ]
    )


@pytest.mark.parametrize("priors", ["equal", "empirical"])
@pytest.mark.parametrize("shrinkage", [0.05, 0.7, 1.0])
def test_out_of_fold_is_refitting_without_the_fold(shrinkage, priors):
    features, labels = draw()
    folds = deal_folds(labels, 3)
    moments = sum_moments(features, labels, folds=folds)
    for fold in range(3):
        head = fit_discriminant(moments, shrinkage=shrinkage, without_fold=fold, priors=priors)
        out, at = folds != fold, features[folds == fold]
        expected = naive_logits(features[out], labels[out], at, shrinkage, priors)
        exact = at @ head.kernel.astype(float) + head.bias
        np.testing.assert_allclose(log_probs(exact), log_probs(expected), rtol=1e-6, atol=2e-5)


def test_equals_sklearn():
    features, labels = draw(seed=3)
    head = fit_discriminant(sum_moments(features, labels), shrinkage=0.3, priors="empirical")
    # Theirs takes the mean of the classes' covariances by class share, which is the same pooled one.
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3).fit(features, labels)
    scores = features @ head.kernel.astype(float) + head.bias
    np.testing.assert_allclose(
        scores - scores[:, :1],
        theirs.decision_function(features) - theirs.decision_function(features)[:, :1],
        atol=1e-5,
    )


def test_weights_are_copies_of_rows():
    features, labels = draw()
    weight = np.random.default_rng(5).integers(0, 4, len(labels))
    rows = np.repeat(np.arange(len(labels)), weight)
    weighted = fit_discriminant(sum_moments(features, labels, sample_weight=0.1 * weight), shrinkage=0.4)
    copied = fit_discriminant(sum_moments(features[rows], labels[rows]), shrinkage=0.4)
    np.testing.assert_allclose(weighted.kernel, copied.kernel, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(weighted.bias, copied.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_scale_and_origin_of_the_features_do_not_matter(scale):
    features, labels = draw()
    plain = fit_discriminant(sum_moments(features, labels), shrinkage=0.2)
    moved = fit_discriminant(sum_moments(scale * (features + 7.0), labels), shrinkage=0.2)
    np.testing.assert_allclose(scale * moved.kernel, plain.kernel, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        log_probs(moved.logits(scale * (features + 7.0))), log_probs(plain.logits(features)), atol=1e-3
    )


def test_a_class_without_images_is_never_likely():
    features, labels = draw()
    head = fit_discriminant(sum_moments(features, labels, num_classes=6), shrinkage=0.5)
    probs = np.exp(log_probs(head.logits(features)))
    assert probs[:, 4:].max() < 1e-6
    fewer = fit_discriminant(sum_moments(features, labels), shrinkage=0.5)
    np.testing.assert_allclose(probs[:, :4], np.exp(log_probs(fewer.logits(features))), atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.7])
def test_constant_features_tell_only_the_priors(value):
    labels = np.repeat([0, 1], [30, 10])
    head = fit_discriminant(
        sum_moments(np.full((40, 5), value, np.float32), labels), shrinkage=0.5, priors="empirical"
    )
    logits = head.logits(np.full((1, 5), value))
    np.testing.assert_allclose(np.exp(log_probs(logits)), [[0.75, 0.25]], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shrinkage": 0.0}, "above 0 up to 1; received 0.0"),
        ({"shrinkage": 1.5}, "above 0 up to 1"),
        ({"shrinkage": 0.5, "priors": "even"}, "equal or empirical; received 'even'"),
        ({"shrinkage": 0.5, "without_fold": 0}, "images outside of fold 0"),
    ],
)
def test_what_is_refused(arguments, message):
    features, labels = draw()
    with pytest.raises(UsageError, match=message):
        fit_discriminant(sum_moments(features, labels), **arguments)
