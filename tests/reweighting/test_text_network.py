"""The two-sided network of Fig. 5: gradients, negatives, what it learns, and what is done to features."""

import numpy as np
import pytest
from urnet_fixtures.texts import TEXT, planted

from urnet_tf.reweighting import instance_weight as iw, text_network as tn


def random_side(generator, dim, width):
    return [generator.standard_normal(shape) for shape in ((dim, width), (width,), (width, width), (width,))]


@pytest.mark.parametrize("loss", ["pairwise", "contrastive"])
def test_gradients_equal_finite_differences(loss):
    generator = np.random.default_rng(1)
    sides = random_side(generator, 4, 5), random_side(generator, 6, 5)
    images, text = generator.standard_normal((7, 4)), generator.standard_normal((4, 6))
    labels, other = np.array([0, 1, 2, 0, 1, 0, 2]), np.array([1, 2, 0, 2, 0, 1, 1])  # class 3 is not seen

    def embed(side, rows):
        out = np.maximum(rows @ side[0] + side[1], 0) @ side[2] + side[3]
        return out / np.linalg.norm(out, axis=1, keepdims=True)

    def value():
        cosines, rows = embed(sides[0], images) @ embed(sides[1], text).T, np.arange(7)
        if loss == "pairwise":
            return -(cosines[rows, labels] - cosines[rows, other]).mean()
        logits = cosines / 0.2
        return -(logits[rows, labels] - np.log(np.exp(logits).sum(axis=1))).mean()

    gradients = tn.two_sided_gradients(
        *sides, images, labels, text, other=other if loss == "pairwise" else None, temperature=0.2
    )
    for values, gradient in zip([*sides[0], *sides[1]], gradients, strict=True):
        for index in [(0,) * values.ndim, tuple(size - 1 for size in values.shape)]:
            before = values[index]
            values[index] = before + 1e-6
            above = value()
            values[index] = before - 1e-6
            numeric = (above - value()) / 2e-6
            values[index] = before
            assert gradient[index] == pytest.approx(numeric, abs=1e-6)


@pytest.mark.parametrize("negatives", ["once", "each_step"])
def test_negatives_are_other_classes_and_kept_or_drawn_again(negatives):
    labels, seen = np.arange(50) % 4, {}
    batches = tn.stream_batches(labels, 4, epochs=6, negatives=negatives, generator=np.random.default_rng(0))
    for batch, other in batches:
        assert (other != labels[batch]).all() and (0 <= other).all() and (other < 4).all()
        for image, drawn in zip(batch, other, strict=True):
            seen.setdefault(image, []).append(drawn)
    assert len(seen) == 50 and {len(drawn) for drawn in seen.values()} == {6}
    kept = [len(set(drawn)) == 1 for drawn in seen.values()]
    assert all(kept) if negatives == "once" else sum(kept) < 5
    assert {drawn for drawn in np.concatenate(list(seen.values()))} == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="'never'"):
        next(tn.stream_batches(labels, 4, epochs=1, negatives="never", generator=np.random.default_rng(0)))


@pytest.mark.parametrize("loss", ["pairwise", "contrastive"])
def test_right_labels_are_more_confident_and_runs_repeat(loss):
    features, labels, wrong = planted(noise=0.2)
    arguments = {
        "loss": loss, "temperature": 0.1, "epochs": 30, "seed": 3, "network": "two_sided",
        "embedding_dim": 24, "negatives": "once", "normalize": False,
    }  # fmt: skip
    folds = np.zeros(300, int)
    found = iw.cross_fit_confidence(features, labels, TEXT, np.arange(300), folds, **arguments)
    assert found[~wrong].mean() > found[wrong].mean() + 0.1
    assert (np.abs(found) <= 1 + 1e-6).all() and found.dtype == np.float32
    again = iw.cross_fit_confidence(features, labels, TEXT, np.arange(300), folds, **arguments)
    np.testing.assert_array_equal(found, again)


def test_features_are_taken_as_they_are_or_normalized():
    features, labels, _ = planted(60)
    shorter = features / np.float16(256)
    arguments = {"loss": "pairwise", "temperature": 0.1, "epochs": 2, "seed": 0}

    def found(of, network, normalize):
        return iw.cross_fit_confidence(
            of, labels, TEXT, np.arange(60), np.zeros(60, int), network=network, embedding_dim=8,
            normalize=normalize, **arguments,
        )  # fmt: skip

    for network in ("linear", "two_sided"):
        np.testing.assert_allclose(
            found(features, network, True), found(shorter, network, True), atol=2e-3, err_msg=network
        )
    # As they are, short ones leave more to the biases.
    assert np.abs(found(features, "two_sided", False) - found(shorter, "two_sided", False)).max() > 0.02


def test_one_class_cannot_be_learned():
    with pytest.raises(ValueError, match="two or more classes"):
        iw.cross_fit_confidence(
            np.ones((2, 3)), np.zeros(2, int), TEXT[:1], np.arange(2), np.zeros(2, int), loss="pairwise",
            temperature=1.0, epochs=1, seed=0, network="two_sided",
        )  # fmt: skip
