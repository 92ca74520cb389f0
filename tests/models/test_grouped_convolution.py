import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from urnet_tf.models import grouped_convolution
from urnet_tf.models.grouped_convolution import GroupedConv2D, runs_natively, with_implementation

pytestmark = pytest.mark.onednn


def loop_convolution(images, kernel, *, strides=1, dilation=1, groups=1):
    """Valid grouped convolution, one output at a time."""
    batch, height, width, channels = images.shape
    side, _, per_group, filters = kernel.shape
    reach = dilation * (side - 1) + 1
    rows, columns = (height - reach) // strides + 1, (width - reach) // strides + 1
    out = np.zeros((batch, rows, columns, filters))
    for f in range(filters):
        first = f // (filters // groups) * per_group
        for r in range(rows):
            for c in range(columns):
                top, left = r * strides, c * strides
                patch = images[:, top : top + reach : dilation, left : left + reach : dilation]
                out[:, r, c, f] = (patch[..., first : first + per_group] * kernel[..., f]).sum((1, 2, 3))
    return out


CASES = [  # channels, filters, groups, strides, padding, dilation
    (32, 32, 8, 1, "valid", 1),
    (64, 32, 2, 2, "valid", 1),
    (24, 48, 4, 2, 1, 1),
    (48, 48, 48, 1, 1, 1),
    (9, 6, 3, 2, 2, 1),  # widths that fill no block
    (48, 24, 4, 1, 2, 2),
    (8, 4, 1, 1, 1, 1),
    (8, 4, 1, 1, 0, 1),
]


def compute(layer, images):
    """The result and its gradients, as far as this machine has them for "native"."""
    with tf.GradientTape() as tape:
        inputs = tf.convert_to_tensor(images)
        tape.watch(inputs)
        result = layer(inputs)
        loss = tf.reduce_sum(tf.cast(result, "float32") ** 2)
    native = layer.groups > 1 and getattr(layer, "implementation", None) == "native"
    derivable = not native or runs_natively(layer.compute_dtype)
    gradients = tape.gradient(loss, [layer.kernel.value, inputs]) if derivable else ()
    return [tf.cast(v, "float32") for v in (result, *gradients)]


@pytest.mark.parametrize("channels, filters, groups, strides, padding, dilation", CASES)
def test_every_implementation_equals_the_loop_and_keras(
    channels, filters, groups, strides, padding, dilation
):
    rng = np.random.default_rng(channels)
    images = rng.normal(size=(2, 7, 6, channels)).astype("float32")
    kernel = rng.normal(size=(3, 3, channels // groups, filters)).astype("float32")
    zeros = 0 if padding == "valid" else padding
    padded = np.pad(images, ((0, 0), (zeros, zeros), (zeros, zeros), (0, 0)))
    expected = loop_convolution(padded, kernel, strides=strides, dilation=dilation, groups=groups)
    reference = keras.layers.Conv2D(
        filters, 3, strides, "valid", dilation_rate=dilation, groups=groups, use_bias=False
    )
    reference.build(padded.shape)
    reference.kernel.assign(kernel)
    _, by_kernel, by_images = compute(reference, padded)
    if zeros:
        by_images = by_images[:, zeros:-zeros, zeros:-zeros]
    for implementation in ("native", "blocked", "auto"):
        layer = GroupedConv2D(filters, 3, strides, padding, dilation, groups, implementation=implementation)
        layer.build(images.shape)
        layer.kernel.assign(kernel)
        for run in (compute, tf.function(compute, autograph=False)):
            result, *gradients = run(layer, images)
            assert result.shape == layer.compute_output_shape(images.shape) == expected.shape
            np.testing.assert_allclose(result, expected, atol=1e-4)
            for gradient, other in zip(gradients, (by_kernel, by_images), strict=False):
                np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("implementation", ["native", "blocked"])
@pytest.mark.parametrize("policy, tolerance", [("mixed_bfloat16", 2e-2), ("mixed_float16", 3e-3)])
def test_mixed_precision_stays_near_float32(implementation, policy, tolerance):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 6, 6, 32)).astype("float32")
    exact = GroupedConv2D(32, 3, groups=8, implementation=implementation)
    mixed = GroupedConv2D(32, 3, groups=8, implementation=implementation, dtype=policy)
    for layer in (exact, mixed):
        layer.build(images.shape)
        layer.kernel.assign(rng.normal(size=(3, 3, 4, 32)) if layer is exact else exact.kernel)
    assert mixed.kernel.dtype == "float32"
    assert mixed(images).dtype == mixed.compute_dtype
    for one, other in zip(compute(mixed, images), compute(exact, images), strict=False):
        np.testing.assert_allclose(one, other, atol=tolerance * float(np.abs(other).max()))


def test_any_batch_and_size_and_a_bias():
    image = keras.Input((None, None, 32))
    layer = GroupedConv2D(16, (3, 1), groups=4, padding="valid", use_bias=True)
    model = keras.Model(image, layer(image))
    assert model.output_shape == (None, None, None, 16)
    before = model(np.ones((1, 5, 4, 32), "float32"))
    layer.bias.assign(np.arange(16, dtype="float32"))
    after = model(np.ones((1, 5, 4, 32), "float32"))
    assert after.shape == (1, 3, 4, 16)
    np.testing.assert_allclose(after - before, np.broadcast_to(np.arange(16), (1, 3, 4, 16)), atol=1e-5)
    assert model(np.ones((3, 9, 7, 32), "float32")).shape == (3, 7, 7, 16)


def test_one_weights_file_serves_every_implementation(tmp_path):
    def network(implementation):
        image = keras.Input((9, 9, 32))
        grouped = GroupedConv2D(32, 3, 2, 1, groups=4, implementation=implementation, name="grouped")
        inner = keras.Model(image, grouped(image), name="inner")
        outer = keras.Input((9, 9, 32))
        return keras.Model(outer, inner(outer))

    model = network("blocked")
    x = np.random.default_rng(0).normal(size=(2, 9, 9, 32)).astype("float32")
    model.save(tmp_path / "m.keras")
    native = with_implementation(keras.models.load_model(tmp_path / "m.keras"), "native")
    assert native.get_layer("inner").get_layer("grouped").implementation == "native"
    np.testing.assert_allclose(model(x), native(x), atol=1e-5)
    model.save_weights(tmp_path / "m.weights.h5")
    automatic = network("auto")
    automatic.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_allclose(model(x), automatic(x), atol=1e-5)


def test_native_is_one_operation_whatever_the_machine_can(monkeypatch):
    # XLA is hundreds of times slower on CPUs, and a call of a function that file formats refuse.
    monkeypatch.setattr(grouped_convolution, "runs_natively", lambda dtype: pytest.fail("asked the machine"))
    for dilation in (1, 2):
        layer = GroupedConv2D(32, 3, 1, dilation, dilation, groups=8, implementation="native")
        graph = tf.function(layer).get_concrete_function(tf.TensorSpec((1, 8, 8, 32))).graph
        types = {op.type for op in graph.get_operations()}
        assert "Conv2D" in types and not {t for t in types if "Call" in t or "Xla" in t}


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_auto_derives_on_every_machine(policy):
    # Without oneDNN the gradients of a grouped convolution fail; "auto" must notice in time.
    images = np.random.default_rng(0).normal(size=(2, 6, 6, 32)).astype("float32")
    results = []
    for implementation in ("blocked", "auto"):
        layer = GroupedConv2D(32, 3, 1, 1, groups=8, implementation=implementation, dtype=policy)
        layer.build(images.shape)
        layer.kernel.assign(np.random.default_rng(1).normal(size=layer.kernel.shape))
        results.append(compute(layer, images))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=3e-2 * float(np.abs(other).max()))


def test_it_falls_back_without_onednn():
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0" or tf.config.list_physical_devices("GPU"):
        pytest.skip("needs TF_ENABLE_ONEDNN_OPTS=0 and no GPU")
    assert not runs_natively("float32")
    layer = GroupedConv2D(32, 3, 1, 1, groups=8)
    graph = tf.function(layer).get_concrete_function(tf.TensorSpec((1, 8, 8, 32))).graph
    assert sum(op.type == "Conv2D" for op in graph.get_operations()) == 2  # of 16 channels each


def test_bad_arguments():
    with pytest.raises(ValueError, match="divide"):
        GroupedConv2D(30, 3, groups=4)
    with pytest.raises(ValueError, match="one of"):
        GroupedConv2D(32, 3, groups=4, implementation="fast")
    with pytest.raises(ValueError, match="padding"):
        GroupedConv2D(32, 3, padding="full")
    with pytest.raises(ValueError, match="strides or dilation"):
        GroupedConv2D(32, 3, 2, dilation_rate=2)
    with pytest.raises(ValueError, match="divide"):
        GroupedConv2D(32, 3, groups=4).build((None, 8, 8, 30))
