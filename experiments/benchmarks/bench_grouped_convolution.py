"""Ways to compute a grouped convolution in TensorFlow on a CPU: milliseconds side by side, in one run.

python experiments/benchmarks/bench_grouped_convolution.py [--batch 8] [--onednn=false] [--keras]

Layers are the 3x3 convolutions of ResNeXt's four stages at 224 px. Each cell is "forward / forward
and gradients" and, in brackets, how many times slower than `native`. The ways take turns, so that
they share the machine's good and bad moments; shown are the medians of the rounds.

  native         tf.nn.conv2d with a grouped kernel; without oneDNN it has no gradients
  blocked n      dense convolutions of blocks of n channels, with block-diagonal kernels
  merged n       one grouped convolution whose groups are blocks of n channels, as above
  dense          one dense convolution with a block-diagonal kernel
  batched        image patches by group, one batched matrix product
  depthwise      as many depthwise convolutions as a group has channels, added up
  keras          keras.ops.conv, which compiles with XLA; gradients take many seconds
"""

import os
import statistics
import time

from absl import app, flags

_BATCH = flags.DEFINE_integer("batch", 8, "images")
_WIDTH = flags.DEFINE_integer("width_per_group", 4, "channels of a group in the first stage, 32 groups")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "measurements of each")
_ONEDNN = flags.DEFINE_bool("onednn", True, "let TensorFlow use oneDNN")
_KERAS = flags.DEFINE_bool("keras", False, "measure Keras' own way, too")
_GROUPS = 32


def ways(tf, keras, np, width):
    """Name → function (images, kernel) → result, for groups of `width` channels."""
    filters = _GROUPS * width

    def dense(images, kernel):
        mask = np.kron(np.eye(_GROUPS), np.ones((width, width))).astype("float32")
        return tf.nn.conv2d(images, tf.tile(kernel, (1, 1, _GROUPS, 1)) * mask, 1, "SAME")

    def blocked(channels):
        joined = max(1, channels // width)
        mask = np.kron(np.eye(joined), np.ones((width, width))).astype("float32")

        def compute(images, kernel):
            kernels = [tf.tile(k, (1, 1, joined, 1)) * mask for k in tf.split(kernel, _GROUPS // joined, -1)]
            pairs = zip(tf.split(images, _GROUPS // joined, -1), kernels, strict=True)
            return tf.concat([tf.nn.conv2d(part, k, 1, "SAME") for part, k in pairs], -1)

        return compute

    def merged(channels):
        joined = max(1, channels // width)
        same = np.arange(joined)[:, None] == np.arange(filters // width) % joined
        mask = np.kron(same, np.ones((width, width))).astype("float32")

        def compute(images, kernel):
            return tf.nn.conv2d(images, tf.tile(kernel, (1, 1, joined, 1)) * mask, 1, "SAME")

        return compute

    def batched(images, kernel):
        batch, side = images.shape[:2]
        taps = tf.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        taps = [taps[:, r : r + side, c : c + side] for r in range(3) for c in range(3)]
        patches = tf.reshape(tf.stack(taps, 3), (-1, 9, _GROUPS, width))
        patches = tf.reshape(tf.transpose(patches, (2, 0, 1, 3)), (_GROUPS, -1, 9 * width))
        matrices = tf.reshape(kernel, (9 * width, _GROUPS, width))
        products = tf.matmul(patches, tf.transpose(matrices, (1, 0, 2)))
        return tf.reshape(tf.transpose(products, (1, 0, 2)), (batch, side, side, filters))

    def depthwise(images, kernel):
        shape = (*images.shape[:3], _GROUPS, width)
        parts = []
        for i in range(width):  # every channel of the result sees the i-th channel of its group
            seen = tf.repeat(tf.reshape(images, shape)[..., i], width, -1)
            parts.append(tf.nn.depthwise_conv2d(seen, kernel[:, :, i, :, None], [1, 1, 1, 1], "SAME"))
        return tf.add_n(parts)

    named = {"native": lambda images, kernel: tf.nn.conv2d(images, kernel, 1, "SAME")}
    named |= {f"blocked {n}": blocked(n) for n in (8, 16, 32, 64) if n >= width}
    named |= {f"merged {n}": merged(n) for n in (8, 16, 32) if n > width}
    named |= {"dense": dense, "batched": batched, "depthwise": depthwise}
    if _KERAS.value:
        named["keras"] = lambda images, kernel: keras.ops.conv(images, kernel, padding="same")
    return named


def main(_):
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = str(int(_ONEDNN.value))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import numpy as np
    import tensorflow as tf

    rng = np.random.default_rng(0)
    for stage, side in enumerate((56, 28, 14, 7)):
        width = _WIDTH.value * 2**stage
        filters = _GROUPS * width
        images = tf.constant(rng.normal(size=(_BATCH.value, side, side, filters)), "float32")
        kernel = tf.Variable(rng.normal(size=(3, 3, width, filters)) * 0.1, dtype="float32")
        timed, results = {}, {}
        for name, way in ways(tf, keras, np, width).items():
            for part, function in (("forward", _forward(tf, way)), ("step", _step(tf, way))):
                try:
                    results[name, part] = [value.numpy() for value in function(images, kernel)]
                    timed[name, part] = (function, [])
                except tf.errors.OpError:
                    pass  # native without oneDNN has no gradients
        for _ in range(_ROUNDS.value):
            for function, seconds in timed.values():
                start = time.perf_counter()
                float(function(images, kernel)[-1])
                seconds.append(time.perf_counter() - start)
        medians = {key: 1e3 * statistics.median(seconds) for key, (_, seconds) in timed.items()}
        print(f"\n{_BATCH.value} x {side} x {side} x {filters}, groups of {width}")
        for name in dict.fromkeys(name for name, _ in medians):
            cells = []
            for part in ("forward", "step"):
                value, base = medians.get((name, part)), medians.get(("native", part))
                ratio = f" ({value / base:5.1f})" if value and base else ""
                cells.append(f"{value:8.1f} ms{ratio}" if value else "       -")
            error = max(
                np.abs(one - other).max() / np.abs(other).max()
                for part in ("forward", "step")
                if (name, part) in results
                for one, other in zip(results[name, part], results["blocked 64", part], strict=True)
            )
            print(f"  {name:<12}{' /'.join(cells)}   differs by {error:.0e}", flush=True)


def _forward(tf, way):
    @tf.function(reduce_retracing=True, autograph=False)
    def forward(images, kernel):
        result = way(images, kernel)
        return [result[0, :2, :2], tf.reduce_sum(result[0, 0, 0])]

    return forward


def _step(tf, way):
    @tf.function(reduce_retracing=True, autograph=False)
    def step(images, kernel):
        with tf.GradientTape() as tape:
            tape.watch(images)
            result = way(images, kernel)
            loss = tf.reduce_sum(result)
        by_images, by_kernel = tape.gradient(loss, (images, kernel))
        return [by_images[0, :2, :2], tf.convert_to_tensor(by_kernel), tf.reduce_sum(by_images[0, 0, 0])]

    return step


if __name__ == "__main__":
    app.run(main)
