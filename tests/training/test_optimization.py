"""Micro-batches, mixed precision and XLA give the steps of one plain batch; the schedule's numbers."""

import os
import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from urnet_fixtures.training import StopAt

from urnet_tf import config
from urnet_tf.errors import UsageError
from urnet_tf.feed.targets import pack_targets
from urnet_tf.models.classifier import build_classifier, build_image_classifier
from urnet_tf.models.urnet import build_image_urnet
from urnet_tf.training import fit as training, optimization
from urnet_tf.training.fit import FitOptions
from urnet_tf.training.optimization import OptimizerOptions

BAGS, SIZE, DIM, CLASSES, STEPS = 8, 3, 12, 5, 24


class Bags:
    """Random bags with unequal weights; the label can be seen in the first feature."""

    steps_per_epoch = 4

    def __init__(self, factors=1.0):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, CLASSES, (STEPS, BAGS, 1)).repeat(SIZE, -1)
        self.x = rng.normal(size=(STEPS, BAGS, SIZE, DIM)).astype("float32")
        self.x[..., 0] += labels
        self.y = pack_targets(labels[..., None], np.ones((*labels.shape, 1)))
        self.weights = (rng.uniform(0.5, 1.5, (STEPS, BAGS, SIZE)) * factors).astype("float32")

    def dataset(self, start, stop):
        targets = {"instance": self.y, "bag": self.y[:, :, 0]}
        weights = {"instance": self.weights, "bag": self.weights.mean(-1)}
        data = tf.data.Dataset.from_tensor_slices((self.x, targets, weights))
        return data.skip(start).take(stop - start)


class Rows(Bags):
    """The first of each bag, for a plain classifier; `factors` [STEPS, BAGS, 1] scale the weights."""

    def dataset(self, start, stop):
        data = (self.x[:, :, 0], self.y[:, :, 0], self.weights[:, :, 0])
        return tf.data.Dataset.from_tensor_slices(data).skip(start).take(stop - start)


def overflow_in_step_2(rows=slice(None)):
    factors = np.ones((STEPS, BAGS, 1))
    factors[2, rows] = 1e4
    return Rows(factors)


def weights_of(model):
    return [v.numpy() for v in model.variables]


def test_schedule_and_weight_decay():
    model = build_classifier(4, 3, dropout=0.0)
    rule, schedule = optimization.build_optimizer(
        model, 100, OptimizerOptions(learning_rate=1.0, warmup_fraction=0.1)
    )
    assert [round(float(schedule(s)), 4) for s in (0, 5, 10, 55, 100)] == [0.0909, 0.5455, 1.0, 0.5, 0.0]
    assert not rule._use_weight_decay(model.get_layer("instance_logits").bias)
    assert rule._use_weight_decay(model.get_layer("instance_logits").kernel)
    assert float(optimization.build_optimizer(model, 1)[1](0)) == pytest.approx(1e-3)
    with pytest.raises(UsageError, match="adamw or sgd"):
        optimization.build_optimizer(model, 10, OptimizerOptions(optimizer="adam"))


def deep_model(seed=3):
    """URNet on a layer, without dropout or batch statistics."""
    features = keras.Input((DIM,))
    initializer = keras.initializers.HeNormal(seed=1)
    x = keras.layers.Dense(8, activation="relu", kernel_initializer=initializer)(features)
    return build_image_urnet(keras.Model(features, x, name="body"), CLASSES, SIZE, dropout=0.0, seed=seed)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(
            {"optimizer": "sgd", "learning_rate": 0.1, "clip_norm": 0.05, "ema": 0.5, "weight_decay": 0.1},
            marks=pytest.mark.slow,
        ),
        {"optimizer": "adamw", "learning_rate": 0.01, "clip_norm": 0.05, "ema": 0.5, "weight_decay": 0.1},
        {"optimizer": "sgd", "learning_rate": 0.1, "jit_compile": True},
    ],
)
def test_micro_batches_take_the_steps_of_the_whole_batch(settings):
    ends, histories = [], []
    for parts in (1, 4):
        model = deep_model()
        extra = settings if parts > 1 else settings | {"jit_compile": False}
        histories.append(
            training.fit_model(
                model, Bags(), FitOptions(accumulate_steps=parts, **extra), total_steps=6,
                loss_weights={"instance": 1, "bag": 0.5},
            )
        )  # fmt: skip
        ends.append(weights_of(model))
    for whole, parted in zip(*histories, strict=True):
        assert whole == pytest.approx(parted, rel=1e-4)
    for start, whole, parted in zip(weights_of(deep_model()), *ends, strict=True):
        moved = np.abs(whole - start).max()
        assert moved > 0
        np.testing.assert_allclose(parted, whole, rtol=0, atol=1e-3 * moved + 1e-6)


def test_batch_statistics_are_of_micro_batches():
    features = keras.Input((DIM,))
    layer = keras.layers.BatchNormalization(momentum=0.9)
    model = build_image_classifier(keras.Model(features, layer(features), name="body"), CLASSES, dropout=0.0)
    training.fit_model(model, Rows(), FitOptions(accumulate_steps=2), total_steps=1)
    first, second = Rows().x[0, :, 0].reshape(2, BAGS // 2, DIM).mean(1)
    np.testing.assert_allclose(layer.moving_mean, 0.9 * 0.1 * first + 0.1 * second, rtol=1e-4, atol=1e-6)


def test_what_does_not_divide_is_refused():
    with pytest.raises(UsageError, match="one device divide into 3 equal parts each; received 8 rows"):
        training.fit_model(deep_model(), Bags(), FitOptions(accumulate_steps=3), total_steps=1)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"baseline": {"fit": {"accumulate_steps": 2}}},
            "accumulate_steps to divide the 255 images",
        ),
        ({"train": {"fit": {"accumulate_steps": 3}}}, "accumulate_steps to divide the 85 bags of 3"),
        ({"runtime": {"jit_compile": True, "strategy": "mirrored"}}, "runtime.strategy=none"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(tree, message):
    with pytest.raises(UsageError, match=message):
        config.from_dict(tree)


def small_network():
    features = keras.Input((DIM,))
    initializer = keras.initializers.HeNormal(seed=1)
    x = keras.layers.Dense(8, activation="relu", kernel_initializer=initializer)(features)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dense(8, activation="relu", kernel_initializer=initializer)(x)
    return build_image_classifier(keras.Model(features, x, name="body"), CLASSES, dropout=0.2)


class Watch(keras.callbacks.Callback):
    """What the optimizer did in each step."""

    def __init__(self):
        super().__init__()
        self.steps, self.scales, self.moved = [], [], []

    def on_train_begin(self, logs=None):
        self._before = weights_of(self.model)

    def on_train_batch_end(self, batch, logs=None):
        rule, now = self.model.optimizer, [v.numpy() for v in self.model.trainable_variables]
        self.steps.append(int(rule.iterations.numpy()))
        self.scales.append(float(rule.dynamic_scale.numpy()) / 2**15)
        self.moved.append(any((a != b).any() for a, b in zip(now, self._before, strict=False)))
        self._before = now


@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_float16_leaves_out_steps_that_overflow_and_resumes(parts, tmp_path):
    """The loss of step 2 is finite, its gradients times the loss scale are not."""
    ends, watch = [], Watch()
    options = FitOptions(learning_rate=0.01, ema=0.9, accumulate_steps=parts, checkpoint_s=0)
    for stop in (None, 4, None):
        with training.precision_policy("mixed_float16"):
            model = small_network()
        directory = tmp_path if ends else None
        callbacks = [watch] if not ends else [StopAt(stop)] if stop else []
        data = overflow_in_step_2()
        try:
            history = training.fit_model(
                model, data, options, total_steps=6, callbacks=callbacks, checkpoint_dir=directory
            )
        except KeyboardInterrupt:
            pass
        ends.append((weights_of(model), history))
    assert watch.steps == [1, 2, 2, 3, 4, 5]
    assert watch.scales == [1, 1, 0.5, 0.5, 0.5, 0.5]
    assert watch.moved == [True, True, False, True, True, True]
    assert [h["step"] for h in history] == [4, 6] and np.isfinite(history[-1]["loss"])
    assert ends[0][1] == ends[2][1]
    for straight, resumed in zip(ends[0][0], ends[2][0], strict=True):
        np.testing.assert_array_equal(straight, resumed)


@pytest.mark.parametrize(
    ("precision", "parts"),
    [
        ("mixed_bfloat16", 2),
        pytest.param("mixed_bfloat16", 1, marks=pytest.mark.slow),
        # Emulated on CPUs, a hundred times as slow; what is its own, the loss scale, is tested above.
        pytest.param("mixed_float16", 2, marks=pytest.mark.slow),
        pytest.param("mixed_float16", 1, marks=pytest.mark.slow),
    ],
)
def test_mixed_precision_follows_float32(precision, parts):
    histories = []
    for policy in ("float32", precision):
        with training.precision_policy(policy):
            model = small_network()
        histories.append(
            training.fit_model(
                model, Rows(), FitOptions(learning_rate=0.05, accumulate_steps=parts), total_steps=24
            )
        )
        assert {v.dtype for v in model.trainable_variables} == {"float32"}
    plain, mixed = histories
    assert mixed[0]["loss"] == pytest.approx(plain[0]["loss"], rel=0.03)
    assert mixed[-1]["loss"] == pytest.approx(plain[-1]["loss"], rel=0.15)


MIRRORED = """
    import os, sys
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.path[:0] = [{directory!r}, os.path.dirname({directory!r})]
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    import keras, numpy as np
    from test_optimization import Bags, Rows, deep_model, overflow_in_step_2, small_network
    from urnet_tf.training import fit as training
    from urnet_tf.errors import UsageError
    from urnet_tf.models.classifier import build_image_classifier

    single = training.build_strategy("none")
    mirrored = training.build_strategy("mirrored", ("CPU:0", "CPU:1"))

    def end(strategy, build, data, precision="float32", **settings):
        with training.precision_policy(precision), strategy.scope():
            model = build()
        history = training.fit_model(
            model, data, training.FitOptions(learning_rate=0.1, **settings), total_steps=6
        )
        return [v.numpy() for v in model.trainable_variables], history

    def check(a, b, atol):
        for x, y in zip(a[0], b[0], strict=True):
            np.testing.assert_allclose(x, y, atol=atol)
        for x, y in zip(a[1], b[1], strict=True):
            assert x.keys() == y.keys()
            for name in x:
                np.testing.assert_allclose(x[name], y[name], rtol=10 * atol, err_msg=name)

    plain = dict(optimizer="sgd", clip_norm=0.05, ema=0.5, weight_decay=0.1)
    check(end(single, deep_model, Bags(), **plain),
          end(mirrored, deep_model, Bags(), accumulate_steps=2, **plain), 2e-5)

    def normalized():
        features = keras.Input((12,))
        x = keras.layers.BatchNormalization(synchronized=True)(features)
        return build_image_classifier(keras.Model(features, x, name="body"), 5, dropout=0.3, seed=1)

    history = end(mirrored, normalized, Rows(), accumulate_steps=2, optimizer="sgd")[1]
    assert history[-1]["loss"] < history[0]["loss"]

    second = overflow_in_step_2(slice(4, None))  # the rows of the second device
    half = end(mirrored, small_network, second, "mixed_float16", accumulate_steps=2)
    assert all(np.isfinite(v).all() for v in half[0])

    try:
        end(mirrored, deep_model, Bags(), jit_compile=True)
        raise SystemExit("XLA passed")
    except UsageError as error:
        assert "Expected no jit_compile on 2 devices" in str(error)
    print("equal")
"""


@pytest.mark.slow
def test_mirrored_micro_batches_equal_one_device():
    script = textwrap.dedent(MIRRORED).format(directory=os.path.dirname(__file__))
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300,
        cwd=pathlib.Path(__file__).parents[2],
    )  # fmt: skip
    assert result.returncode == 0 and "equal" in result.stdout, result.stderr[-3000:]
