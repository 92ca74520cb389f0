import os
import pathlib
import re
import subprocess
import sys
import textwrap
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from urnet_fixtures.training import StopAt

from urnet_tf import config
from urnet_tf.errors import RunError, UsageError, settings_named
from urnet_tf.feed.targets import pack_targets
from urnet_tf.models.classifier import build_classifier
from urnet_tf.models.urnet import build_image_urnet, build_urnet
from urnet_tf.stages.settings import keys_of
from urnet_tf.training import fit as training
from urnet_tf.training.fit import FitOptions
from urnet_tf.training.losses import SparseSoftCrossEntropy
from urnet_tf.training.machines import Machines
from urnet_tf.training.optimization import Trainee
from urnet_tf.training.passes import BestPass
from urnet_tf.training.saving import save_model

BAGS, SIZE, DIM, CLASSES = 8, 3, 12, 5


class BagBatches:
    """Random bags with soft targets; the element of a step depends on the step alone."""

    steps_per_epoch = 4

    def __init__(self, scale=1.0):
        self.scale = scale

    def rows(self, step):
        rng = np.random.default_rng(int(step))
        labels = rng.integers(0, CLASSES, BAGS)
        x = (rng.normal(size=(BAGS, SIZE, DIM)) * self.scale).astype("float32")
        x[..., 0] += labels[:, None]
        y = (
            np.stack(
                [
                    np.repeat(labels, SIZE),
                    rng.integers(0, CLASSES, BAGS * SIZE),
                    *np.full((2, BAGS * SIZE), 0.5),
                ],
                -1,
            )
            .astype("float32")
            .reshape(BAGS, SIZE, 2, 2)
        )
        bag = pack_targets(y[..., 0, :].reshape(BAGS, -1), y[..., 1, :].reshape(BAGS, -1) / SIZE)
        w = rng.uniform(0.5, 1.5, (BAGS, SIZE)).astype("float32")
        return x, y, bag, w, w.mean(1, dtype="float32")

    def dataset(self, start, stop):
        def element(step):
            x, y, bag, w, bag_w = tf.numpy_function(self.rows, [step], [tf.float32] * 5, stateful=False)
            for tensor, shape in zip(
                (x, y, bag, w, bag_w),
                ((BAGS, SIZE, DIM), (BAGS, SIZE, 2, 2), (BAGS, 2, 2 * SIZE), (BAGS, SIZE), (BAGS,)),
                strict=True,
            ):
                tensor.set_shape(shape)
            return x, {"instance": y, "bag": bag}, {"instance": w, "bag": bag_w}

        return tf.data.Dataset.range(start, stop).map(element).prefetch(2)


def model_with_statistics():
    """Dropout (a seed state), batch normalization (moving statistics) and both branches."""
    features = keras.Input((DIM,), name="body_features")
    initializer = keras.initializers.HeNormal(seed=1)
    x = keras.layers.Dense(8, kernel_initializer=initializer, name="body_dense")(features)
    backbone = keras.Model(features, keras.layers.BatchNormalization(name="body_bn")(x), name="body")
    return build_image_urnet(backbone, CLASSES, SIZE, dropout=0.5, seed=3)


def weights_of(model):
    return [v.numpy() for v in model.variables]


@pytest.mark.parametrize(
    ("settings", "stops"),
    [
        # In the middle of a pass, then again in the next one.
        ({"ema": 0.9, "clip_norm": 1.0, "accumulate_steps": 4}, (6, 3)),
        ({"optimizer": "sgd", "loss": SparseSoftCrossEntropy(label_smoothing=0.1)}, (6,)),
    ],
)
def test_interrupted_run_ends_bitwise_equal(settings, stops, tmp_path):
    loss = settings.pop("loss", None)
    options = FitOptions(learning_rate=0.05, checkpoint_s=0, **settings)
    settings = {"total_steps": 11, "loss": loss, "loss_weights": {"instance": 1, "bag": 0.5}}
    straight = model_with_statistics()
    history = training.fit_model(straight, BagBatches(), options, **settings)
    assert [h["step"] for h in history] == [4, 8, 11]
    for stop in stops:
        killed = model_with_statistics()
        with pytest.raises(KeyboardInterrupt):
            training.fit_model(
                killed,
                BagBatches(),
                options,
                **settings,
                checkpoint_dir=tmp_path,
                callbacks=[StopAt(stop)],
            )
    resumed = model_with_statistics()
    again = training.fit_model(resumed, BagBatches(), options, **settings, checkpoint_dir=tmp_path)
    assert again == history
    for a, b in zip(weights_of(straight), weights_of(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    save_model(straight, tmp_path / "a.keras")
    save_model(resumed, tmp_path / "b.keras")
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()
    loaded = keras.models.load_model(tmp_path / "a.keras")
    x = BagBatches().rows(0)[0]
    np.testing.assert_array_equal(loaded(x)["bag"], straight(x)["bag"])


class Unlearning:
    """Steps toward wrong labels, away from what the weights know at first."""

    steps_per_epoch = 2

    def dataset(self, start, stop):
        x, y, w = tf.eye(2), pack_targets(np.array([[1], [0]]), np.ones((2, 1))), tf.ones(2)
        return tf.data.Dataset.range(start, stop).map(lambda step: (x, y, w))


def unlearn(directory, stop=None, keep=50):
    model = build_classifier(2, 2, dropout=0.0)
    model.set_weights([np.eye(2), np.zeros(2)])
    options = FitOptions(learning_rate=0.2, warmup_fraction=0.0, checkpoint_s=0.0)
    held = np.eye(2, dtype="float32"), np.arange(2)
    history = training.fit_model(
        model, Unlearning(), options, total_steps=12, validation_data=held, checkpoint_dir=directory,
        keep_best_of=keep, callbacks=[StopAt(stop)] if stop else [],
    )  # fmt: skip
    return model, history


def test_the_pass_that_agrees_best_is_kept(tmp_path):
    model, history = unlearn(tmp_path / "a")
    agreements = [row["val_accuracy"] for row in history]
    assert agreements[0] == 1.0 and agreements[-1] == 0.0
    kept = [i for i, row in enumerate(history) if "kept" in row]
    assert kept == [max(i for i, a in enumerate(agreements) if a == 1.0)], "the last of the best"
    assert (model.get_layer("instance_logits").kernel.numpy().argmax(axis=0) == [0, 1]).all()
    for stop in (1, 3, 5, 9):  # before, in and after the pass that is kept
        with pytest.raises(KeyboardInterrupt):
            unlearn(tmp_path / str(stop), stop)
        again, other_history = unlearn(tmp_path / str(stop))
        assert other_history == history
        for a, b in zip(weights_of(model), weights_of(again), strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(UsageError, match="Expected validation_data and checkpoint_dir, and no ema"):
        training.fit_model(model, Unlearning(), total_steps=2, keep_best_of=5)


@pytest.mark.parametrize(("rows", "kept"), [(20, 1), (2000, 0)])  # standard errors of .089 and .0089
def test_a_pass_that_is_better_by_chance_is_not_kept(tmp_path, rows, kept):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    alone = Machines(tf.distribute.get_strategy())
    run = types.SimpleNamespace(model=model, history=[], step=0, description="x", machines=alone)
    best = BestPass(run, "val_accuracy", rows, tmp_path / "best.npz")
    for run.step, agreement in ((1, 0.8), (2, 0.75)):
        model.set_weights([np.full((1, 1), run.step)])
        run.history.append({"step": run.step, "val_accuracy": agreement})
        best.close_pass()
    best.finish()
    assert [row.get("kept") for row in run.history] == [1.0 if i == kept else None for i in (0, 1)]
    assert model.get_weights()[0] == [[kept + 1]]


def test_ema_weights_are_the_average():
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(self.model.trainable_variables[0].numpy())

    model = build_urnet(DIM, CLASSES, SIZE, dropout=0.0)
    training.fit_model(model, BagBatches(), FitOptions(ema=0.5), total_steps=4, callbacks=[Watch()])
    average = seen[0]
    for weights in seen[1:]:
        average = 0.5 * average + 0.5 * weights
    np.testing.assert_allclose(model.trainable_variables[0].numpy(), average, atol=1e-6)


def test_training_learns_and_reports(tmp_path):
    traced = []

    class Watched(Trainee):
        def train_step(self, data):
            traced.append(len(data))
            return super().train_step(data)

    model = build_urnet(DIM, CLASSES, SIZE, dropout=0.0)
    history = training.fit_model(
        model, BagBatches(0.1), FitOptions(learning_rate=0.05), total_steps=40, log_dir=tmp_path / "logs",
        build_trainee=Watched,
    )  # fmt: skip
    assert traced == [3], "once: large networks take minutes to trace"
    assert history[-1]["loss"] < history[0]["loss"]
    assert {"instance_loss", "bag_loss", "instance_accuracy", "bag_accuracy"} <= history[0].keys()
    assert list((tmp_path / "logs").glob("events*"))


def test_bag_loss_weight_zero_leaves_the_bag_branch_alone():
    model = build_urnet(DIM, CLASSES, SIZE, dropout=0.0, seed=1)
    before = model.get_layer("bag_logits").kernel.numpy()
    loss_weights = {"instance": 1.0, "bag": 0.0}
    training.fit_model(
        model, BagBatches(), FitOptions(weight_decay=0.0), total_steps=3, loss_weights=loss_weights
    )
    np.testing.assert_array_equal(model.get_layer("bag_logits").kernel.numpy(), before)


@pytest.mark.slow  # a smaller network does the same in test_optimization.py
def test_mixed_precision_resumes(tmp_path):
    models = []
    for name, stop in (("straight", None), ("killed", 2), ("killed", None)):
        with training.precision_policy("mixed_float16"):
            models.append(build_urnet(DIM, CLASSES, SIZE))
        callbacks, directory = ([StopAt(stop)] if stop else []), tmp_path / name
        try:
            training.fit_model(
                models[-1],
                BagBatches(),
                FitOptions(checkpoint_s=0),
                total_steps=5,
                checkpoint_dir=directory,
                callbacks=callbacks,
            )
        except KeyboardInterrupt:
            pass
    assert keras.config.dtype_policy().name == "float32"
    for a, b in zip(weights_of(models[0]), weights_of(models[2]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_nan_stops_and_names_the_step(tmp_path):
    class Poisoned(BagBatches):
        def rows(self, step):
            x, *rest = super().rows(step)
            return (x * (np.nan if step == 4 else 1), *rest)

    with pytest.raises(RunError) as caught, settings_named(keys_of(config.Config(), "train.fit")):
        training.fit_model(
            build_urnet(DIM, CLASSES, SIZE), Poisoned(), FitOptions(checkpoint_s=0), total_steps=9,
            description="head", checkpoint_dir=tmp_path,
        )  # fmt: skip
    message = str(caught.value)
    assert message.startswith("head: the loss is nan at step 5 of 9.")
    advised = re.findall(r"train\.fit\.\w+", message)
    assert advised == ["train.fit.learning_rate", "train.fit.clip_norm", "train.fit.warmup_fraction"]
    assert all(hasattr(config.select(config.Config(), "train.fit"), key.split(".")[-1]) for key in advised)
    assert "fit." not in message.replace("train.fit.", "")


def test_checkpoint_of_another_model_is_refused(tmp_path):
    settings = {"total_steps": 3, "checkpoint_dir": tmp_path, "options": FitOptions(checkpoint_s=0)}
    training.fit_model(build_urnet(DIM, CLASSES, SIZE), BagBatches(), **settings)
    with pytest.raises(RunError, match="another model"):
        training.fit_model(build_urnet(DIM, CLASSES, SIZE, attention_dim=7), BagBatches(), **settings)


MIRRORED = """
    import os, sys
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.path[:0] = [{directory!r}, os.path.dirname({directory!r})]
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    import keras, numpy as np, pytest
    from test_fit import BAGS, BagBatches, CLASSES, DIM, SIZE, StopAt
    from urnet_tf.training import fit as training
    from urnet_tf.errors import UsageError
    from urnet_tf.models.urnet import build_image_urnet
    from urnet_tf.training.robust_losses import build_loss

    def build(strategy):
        with strategy.scope():
            features = keras.Input((DIM,))
            initializer = keras.initializers.HeNormal(seed=1)
            x = keras.layers.Dense(8, use_bias=False, kernel_initializer=initializer)(features)
            x = keras.layers.BatchNormalization(synchronized=True)(x)
            body = keras.Model(features, x, name="body")
            return build_image_urnet(body, CLASSES, SIZE, dropout=0.0, seed=3)

    options = training.FitOptions(optimizer="sgd", learning_rate=0.1, ema=0.9, checkpoint_s=0)
    settings = dict(options=options, total_steps=9)
    mirrored = training.build_strategy("mirrored", ("CPU:0", "CPU:1"))
    assert mirrored.num_replicas_in_sync == 2
    single = build(training.build_strategy("none"))
    history = training.fit_model(single, BagBatches(), **settings)
    try:
        training.fit_model(build(mirrored), BagBatches(), **settings, checkpoint_dir={checkpoint!r},
                           callbacks=[StopAt(5)])
        raise SystemExit("not interrupted")
    except KeyboardInterrupt:
        pass
    double = build(mirrored)
    again = training.fit_model(double, BagBatches(), **settings, checkpoint_dir={checkpoint!r})
    for a, b in zip(history, again, strict=True):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-4, err_msg=name)
    for a, b in zip(single.variables, double.variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-5, err_msg=a.path)

    class Odd(BagBatches):
        def dataset(self, start, stop):
            return super().dataset(start, stop).map(lambda x, y, w: (x[:7], y, w))
    try:
        training.fit_model(build(mirrored), Odd(), **settings)
        raise SystemExit("an odd batch passed")
    except UsageError as error:
        assert "2 devices divide" in str(error)
    try:
        loss = build_loss("elr", class_counts=np.ones(CLASSES), num_instances=BAGS)
        training.fit_model(build(mirrored), BagBatches(), loss=loss, **settings)
        raise SystemExit("a memory on two devices passed")
    except UsageError as error:
        assert "received 2 devices" in str(error)
    print("equal")
"""


@pytest.mark.slow
def test_mirrored_equals_one_device_and_resumes(tmp_path):
    script = textwrap.dedent(MIRRORED).format(directory=os.path.dirname(__file__), checkpoint=str(tmp_path))
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300,
        cwd=pathlib.Path(__file__).parents[2],
    )  # fmt: skip
    assert result.returncode == 0 and "equal" in result.stdout, result.stderr[-3000:]
