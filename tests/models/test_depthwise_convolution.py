"""Keras' grouped convolutions of one channel a group, made depthwise: the same numbers, names and files."""

import keras
import numpy as np
import pytest
from keras import layers

from urnet_tf.models.depthwise_convolution import with_depthwise_convolutions

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 9, 9, 3)).astype("float32")


def grouped(**options):
    """Two convolutions, one in a network of its own, and one of two channels a group, which is none."""
    keras.utils.set_random_seed(1)
    inner = keras.Sequential(
        [layers.Conv2D(12, 3, groups=6, name="two_channels"), layers.LayerNormalization()], name="inner"
    )
    image = keras.Input((9, 9, 3))
    x = layers.Conv2D(12, 3, groups=3, bias_initializer="uniform", name="wide", **options)(image)
    x = x + inner(layers.Conv2D(12, 5, padding="same", groups=12, use_bias=False, name="plain")(x))[:, :1, :1]
    return keras.Model(image, x, name="mine")


@pytest.mark.parametrize(
    "options",
    [{}, {"strides": 2, "activation": "relu"}, {"dilation_rate": 2, "padding": "same"}, {"trainable": False}],
)
def test_it_computes_the_same(options):
    given = grouped(**options)
    model = with_depthwise_convolutions(given)
    kinds = {layer.name: type(layer).__name__ for layer in model.layers}
    assert kinds["wide"] == kinds["plain"] == "DepthwiseConv2D"
    assert type(model.get_layer("inner").get_layer("two_channels")) is layers.Conv2D
    assert model.name == "mine" and model.get_layer("wide").depth_multiplier == 4
    assert model.get_layer("wide").trainable == options.get("trainable", True)
    assert model.count_params() == given.count_params()
    np.testing.assert_allclose(model(IMAGES), given(IMAGES), rtol=0, atol=1e-5)


def test_penalties_and_precision_stay():
    policy = keras.DTypePolicy("mixed_bfloat16")
    layer = grouped(kernel_regularizer=keras.regularizers.L2(0.5), kernel_constraint="non_neg", dtype=policy)
    made = with_depthwise_convolutions(layer).get_layer("wide")
    assert made.depthwise_regularizer.l2 == 0.5 and made.dtype_policy.name == "mixed_bfloat16"
    assert isinstance(made.depthwise_constraint, keras.constraints.NonNeg)


def test_others_are_left_alone():
    image = keras.Input((9, 9, 4))
    for layer in (layers.Conv2D(4, 3), layers.Conv2D(4, 3, groups=2), layers.Conv2D(4, 3, (1, 2), groups=4)):
        model = keras.Model(image, layer(image))
        assert with_depthwise_convolutions(model) is model
