"""Seconds of a training step of ConvNeXt with Keras' grouped convolutions, and with depthwise ones.

python experiments/benchmarks/bench_depthwise.py [--network ConvNeXtTiny] [--image_size_px 64] [--batch 8]

Steps of plain gradient descent in float32 in one graph; the first one of each, which compiles, is left out.
The ratio is the median of paired rounds.
"""

import time

import numpy as np
from absl import app, flags

import urnet_tf  # noqa: F401  (before Keras: it decides on oneDNN)

_NETWORK = flags.DEFINE_string("network", "ConvNeXtTiny", "of keras.applications")
_SIDE = flags.DEFINE_integer("image_size_px", 64, "side of the images")
_BATCH = flags.DEFINE_integer("batch", 8, "images a step")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "paired measurements")


def main(_):
    import keras

    from urnet_tf.models.depthwise_convolution import with_depthwise_convolutions

    build = getattr(keras.applications, _NETWORK.value)
    grouped = build(include_top=False, weights=None, input_shape=(_SIDE.value, _SIDE.value, 3), pooling="avg")
    images = np.random.default_rng(0).uniform(0, 255, (_BATCH.value, *grouped.input_shape[1:]))
    depthwise = with_depthwise_convolutions(grouped)
    steps = [step_of(model, images.astype("float32")) for model in (grouped, depthwise)]
    times = np.array([[seconds_of(step) for step in steps] for _ in range(_ROUNDS.value + 1)][1:])
    before, now = np.median(times, axis=0)
    print(f"{_NETWORK.value}, {_SIDE.value} px, {_BATCH.value} images a step, {_ROUNDS.value} rounds")
    print(f"grouped {before:.2f} s, depthwise {now:.2f} s, ratio {np.median(times[:, 0] / times[:, 1]):.1f}")


def step_of(model, images):
    """A function that trains one step."""
    import tensorflow as tf

    images = tf.constant(images)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(images, training=True) ** 2)
        for variable, gradient in zip(
            model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
        ):
            variable.value.assign_sub(1e-3 * gradient)
        return loss

    return lambda: step().numpy()


def seconds_of(step):
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


if __name__ == "__main__":
    app.run(main)
