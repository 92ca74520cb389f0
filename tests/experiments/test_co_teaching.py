"""Co-teaching on planted noise: what it chooses, what that is worth, exact resume."""

import importlib.util
import pathlib

import keras
import numpy as np
import pytest

from urnet_tf.feed.batches import FeatureBatches
from urnet_tf.feed.sampling import InstanceSampler
from urnet_tf.models.classifier import build_classifier
from urnet_tf.training import fit as training

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "ablations" / "co_teaching.py"
SPEC = importlib.util.spec_from_file_location("co_teaching", SCRIPT)
co_teaching = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(co_teaching)

N, D, CLASSES, NOISE = 240, 96, 4, 0.4


def data():
    """So many dimensions that a linear head can learn wrong labels by heart."""
    rng = np.random.default_rng(0)
    centers = 0.8 * rng.normal(size=(CLASSES, D))
    truth, test_truth = np.arange(N) % CLASSES, np.arange(800) % CLASSES
    x, test_x = (
        (0.5 * centers[t] + rng.normal(size=(len(t), D))).astype("float32") for t in (truth, test_truth)
    )
    labels = np.where(rng.random(N) < NOISE, rng.integers(0, CLASSES, N), truth)
    return x, labels, test_x, test_truth


def batches_of(x, labels):
    ones = np.ones((N, 1), np.float32)
    return FeatureBatches(x, InstanceSampler(np.arange(N), 60, 0), labels[:, None], ones, ones[:, 0])


def test_the_smallest_losses_count():
    weights = co_teaching._smallest(np.float32([3, 1, 2, 1]), 0.5)
    np.testing.assert_allclose(weights, [0, 2, 0, 2])
    np.testing.assert_allclose(co_teaching._smallest(np.float32([3, 1, 2, 1]), 1.0), 1)
    np.testing.assert_allclose(co_teaching._smallest(np.float32([1, 1, 1, 1]), 0.5), [2, 2, 0, 0])
    np.testing.assert_allclose(co_teaching._smallest(np.float32([2, 1]), 0.0), [0, 2])


@pytest.mark.slow
def test_it_learns_less_noise_than_plain_fitting():
    x, labels, test_x, test_truth = data()
    options = training.FitOptions(learning_rate=0.02, weight_decay=0.0)

    def build(seed):
        return build_classifier(D, CLASSES, dropout=0.3, seed=seed)

    plain = build(0)
    training.fit_model(plain, batches_of(x, labels), options, total_steps=240)
    taught = co_teaching.fit_co_teaching(build, batches_of(x, labels), 0.3, options, total_steps=240)
    accuracy = [np.mean(np.argmax(model(test_x), -1) == test_truth) for model in (plain, taught)]
    assert accuracy[1] > accuracy[0] + 0.05, accuracy


@pytest.mark.slow
def test_nothing_forgotten_is_plain_fitting():
    """Two networks that forget nothing do not touch each other."""
    x, labels, *_ = data()

    def build(seed):
        return build_classifier(D, CLASSES, dropout=0.0, seed=seed)

    plain = build(0)
    training.fit_model(plain, batches_of(x, labels), total_steps=6)
    taught = co_teaching.fit_co_teaching(build, batches_of(x, labels), 0.0, total_steps=6)
    for a, b in zip(plain.get_weights(), taught.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path):
    class Stop(keras.callbacks.Callback):
        left = 4

        def on_train_batch_end(self, batch, logs=None):
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    x, labels, *_ = data()

    def fit(directory, callbacks=()):
        return co_teaching.fit_co_teaching(
            lambda seed: build_classifier(D, CLASSES, seed=seed), batches_of(x, labels), 0.4,
            training.FitOptions(accumulate_steps=2, checkpoint_s=0), total_steps=8,
            checkpoint_dir=directory, callbacks=callbacks,
        )  # fmt: skip

    straight = fit(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "killed", [Stop()])
    for a, b in zip(straight.get_weights(), fit(tmp_path / "killed").get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
