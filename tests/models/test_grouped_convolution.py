import keras
import numpy as np
import pytest
import tensorflow as tf

from urnet_tf.models.grouped_convolution import GroupedConv2D, with_implementation


def loop_convolution(images, kernel, strides, groups):
    """Valid grouped convolution, one output at a time."""
    batch, height, width, channels = images.shape
    side, _, per_group, filters = kernel.shape
    rows, columns = (height - side) // strides + 1, (width - side) // strides + 1
    out = np.zeros((batch, rows, columns, filters))
    for f in range(filters):
        first = f // (filters // groups) * per_group
        for r in range(rows):
            for c in range(columns):
                patch = images[:, r * strides : r * strides + side, c * strides : c * strides + side]
                out[:, r, c, f] = (patch[..., first : first + per_group] * kernel[..., f]).sum((1, 2, 3))
    return out


CASES = [  # channels, filters, groups, strides: blocks of 16, one group a block, uneven widths, one group
    (32, 32, 8, 1),
    (64, 32, 2, 2),
    (24, 48, 4, 2),
    (48, 48, 48, 1),
    (8, 4, 1, 1),
]


@pytest.mark.parametrize("channels, filters, groups, strides", CASES)
def test_native_equals_blocked_equals_loop(channels, filters, groups, strides):
    rng = np.random.default_rng(channels)
    images = rng.normal(size=(2, 7, 6, channels)).astype("float32")
    results, gradients = [], []
    kernel = rng.normal(size=(3, 3, channels // groups, filters)).astype("float32")
    for implementation in ("native", "blocked"):
        layer = GroupedConv2D(filters, 3, strides, "valid", groups, implementation)
        layer.build(images.shape)
        layer.kernel.assign(kernel)
        with tf.GradientTape() as tape:
            inputs = tf.constant(images)
            tape.watch(inputs)
            result = layer(inputs)
            loss = tf.reduce_sum(result**2)
        assert result.shape == layer.compute_output_shape(images.shape)
        results.append(result.numpy())
        gradients.append([g.numpy() for g in tape.gradient(loss, [layer.kernel.value, inputs])])
    expected = loop_convolution(images, kernel, strides, groups)
    np.testing.assert_allclose(results[0], expected, atol=1e-4)
    np.testing.assert_allclose(results[1], expected, atol=1e-4)
    for native, blocked in zip(*gradients, strict=True):
        np.testing.assert_allclose(native, blocked, rtol=1e-4, atol=1e-3)


def test_same_padding_and_other_implementation_after_saving(tmp_path):
    image = keras.Input((9, 9, 32))
    inner = keras.Model(
        image, GroupedConv2D(32, 3, 2, "same", 4, "blocked", name="grouped")(image), name="inner"
    )
    outer_image = keras.Input((9, 9, 32))
    model = keras.Model(outer_image, inner(outer_image))
    model.save(tmp_path / "m.keras")
    native = with_implementation(keras.models.load_model(tmp_path / "m.keras"), "native")
    assert native.get_layer("inner").get_layer("grouped").implementation == "native"
    x = np.random.default_rng(0).normal(size=(2, 9, 9, 32)).astype("float32")
    np.testing.assert_allclose(model(x), native(x), atol=1e-5)


def test_bad_arguments():
    with pytest.raises(ValueError, match="divide"):
        GroupedConv2D(30, 3, groups=4)
    with pytest.raises(ValueError, match="implementation|one of"):
        GroupedConv2D(32, 3, groups=4, implementation="fast")
    with pytest.raises(ValueError, match="divide"):
        GroupedConv2D(32, 3, groups=4).build((None, 8, 8, 30))
