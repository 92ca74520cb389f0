"""Passes are epochs to callbacks, validation data are looked at after each, and neither changes training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from urnet_tf.errors import UsageError
from urnet_tf.feed.batches import FeatureBatches
from urnet_tf.feed.sampling import BagSampler, InstanceSampler
from urnet_tf.feed.targets import pack_targets
from urnet_tf.models.classifier import build_classifier
from urnet_tf.models.urnet import build_urnet
from urnet_tf.training.fit import FitOptions, fit_model
from urnet_tf.training.robust_losses import build_loss

N, CLASSES, DIM = 24, 3, 4
LABELS = np.arange(N) % CLASSES
FEATURES = (np.eye(CLASSES, DIM)[LABELS] + 0.1 * np.random.default_rng(0).normal(size=(N, DIM))).astype("f4")
ONES = np.ones((N, 1), np.float32)
VALIDATION = (FEATURES[:6], LABELS[:6])


def batches():
    return FeatureBatches(
        FEATURES, InstanceSampler(np.arange(N), 8, seed=0), LABELS[:, None], ONES, ONES[:, 0]
    )


def model():
    return build_classifier(DIM, CLASSES, dropout=0.3, seed=1)


class Told(keras.callbacks.Callback):
    """Writes down what it is told; stops a run after some steps."""

    def __init__(self, steps=None):
        super().__init__()
        self.calls, self.logs, self.left = [], [], steps

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(f"begin {epoch}")

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append(batch)
        if self.left is not None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(f"end {epoch}")
        self.logs.append(logs)


def test_a_pass_is_an_epoch_and_the_last_may_be_a_part(tmp_path):
    told, best = (
        Told(),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "val_loss", save_best_only=True),
    )
    trained = model()
    history = fit_model(
        trained, batches(), FitOptions(learning_rate=0.1), total_steps=5, validation_data=VALIDATION,
        callbacks=[told, best],
    )  # fmt: skip
    assert told.calls == ["begin 0", 0, 1, 2, "end 0", "begin 1", 0, 1, "end 1"]
    assert told.params["epochs"] == 2 and told.params["steps"] == 3
    assert [
        {**logs, "step": h["step"], "epoch": h["epoch"]} for logs, h in zip(told.logs, history, strict=True)
    ] == history
    assert set(told.logs[0]) == {"loss", "accuracy", "learning_rate", "val_loss", "val_accuracy"}

    logits = trained.predict(VALIDATION[0], verbose=0)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -log_probs[np.arange(6), VALIDATION[1]].mean()
    assert history[-1]["val_loss"] == pytest.approx(expected, rel=1e-5)
    kept = keras.saving.load_model(tmp_path / "best.keras")  # a functional model, without our classes
    np.testing.assert_allclose(kept.predict(VALIDATION[0], verbose=0), logits, rtol=1e-6)


def test_early_stopping_stops_and_restores():
    class Growing(keras.callbacks.Callback):
        """Makes every pass worse than the first."""

        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] = float(epoch)
            weights.append(self.model.get_weights())

    weights, trained = [], model()
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    history = fit_model(
        trained, batches(), FitOptions(learning_rate=0.1, ema=0.9), epochs=50, validation_data=VALIDATION,
        callbacks=[Growing(), stopping],
    )  # fmt: skip
    assert len(history) == len(weights) == 3 and stopping.stopped_epoch == 2
    for now, first in zip(trained.get_weights(), weights[0], strict=True):
        np.testing.assert_array_equal(now, first)


def test_validation_changes_nothing_and_a_killed_run_goes_on(tmp_path):
    def fit(trained, **settings):
        return fit_model(
            trained, batches(), FitOptions(learning_rate=0.1, checkpoint_s=0), total_steps=8, **settings
        )

    plain, straight, killed, resumed = (model() for _ in range(4))
    without = fit(plain)
    history = fit(straight, validation_data=VALIDATION)
    with pytest.raises(KeyboardInterrupt):
        fit(killed, validation_data=VALIDATION, callbacks=[Told(4)], checkpoint_dir=tmp_path)
    told = Told()
    again = fit(resumed, validation_data=VALIDATION, callbacks=[told], checkpoint_dir=tmp_path)
    assert again == history
    assert told.calls == ["begin 1", 1, 2, "end 1", "begin 2", 0, 1, "end 2"]
    assert [{k: v for k, v in h.items() if not k.startswith("val_")} for h in history] == without
    for first, *others in zip(*(m.get_weights() for m in (plain, straight, resumed)), strict=True):
        for other in others:
            np.testing.assert_array_equal(first, other)


def test_bags_and_losses_that_remember_are_validated_too():
    bags = BagSampler(np.arange(N), LABELS, bag_size=2, batch_bags=4, seed=0)
    data = FeatureBatches(FEATURES, bags, LABELS[:, None], ONES, ONES[:, 0], bag=True)
    loss = build_loss("elr", class_counts=np.bincount(LABELS), num_instances=N)
    trained = build_urnet(DIM, CLASSES, 2)
    history = fit_model(trained, data, total_steps=2, loss=loss, validation_data=data.dataset(0, 1))
    assert {"val_loss", "val_instance_accuracy", "val_bag_loss"} <= set(history[0])
    packed = pack_targets(LABELS[:, None], ONES)
    dataset = tf.data.Dataset.from_tensor_slices((FEATURES, packed)).batch(7)
    history = fit_model(model(), batches(), total_steps=1, validation_data=dataset)
    assert history[0]["val_loss"] > 0


@pytest.mark.parametrize("lengths", [{}, {"epochs": 1, "total_steps": 3}])
def test_one_length_is_asked_for(lengths):
    with pytest.raises(UsageError, match="either `epochs` or `total_steps`"):
        fit_model(model(), batches(), **lengths)
