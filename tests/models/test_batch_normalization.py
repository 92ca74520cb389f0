import keras
import numpy as np
import pytest
import tensorflow as tf

from urnet_tf.models.batch_normalization import FusedBatchNormalization


def run(layer, images, training):
    with tf.GradientTape() as tape:
        inputs = tf.constant(images)
        tape.watch(inputs)
        result = layer(inputs, training=training)
        loss = tf.reduce_sum(tf.cast(result, "float32") ** 3)
    gradients = tape.gradient(loss, [inputs, *[v.value for v in layer.trainable_variables]])
    return [np.asarray(tf.cast(v, "float32")) for v in (result, *gradients)]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False, "momentum": 0.5}])
def test_equals_the_layer_of_keras(policy, options):
    rng = np.random.default_rng(0)
    images = (2 + 3 * rng.normal(size=(3, 4, 5, 6))).astype("float32")
    pair = [
        cls(epsilon=1e-5, dtype=policy, **options)
        for cls in (keras.layers.BatchNormalization, FusedBatchNormalization)
    ]
    start = [rng.uniform(0.5, 2.0, 6).astype("float32") for _ in range(4)]
    for layer in pair:
        layer.build(images.shape)
        layer.set_weights(start[: len(layer.weights)])
    for training in (True, False):
        for theirs, ours in zip(*[run(layer, images, training) for layer in pair], strict=True):
            scale = float(np.abs(theirs).max())
            np.testing.assert_allclose(ours, theirs, atol=(1e-5 if policy == "float32" else 2e-2) * scale)
        for theirs, ours in zip(*[layer.get_weights() for layer in pair], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert pair[1](images).dtype == pair[1].compute_dtype


def test_a_frozen_layer_uses_and_keeps_its_moving_statistics():
    layer = FusedBatchNormalization(trainable=False)
    layer.build((None, 2, 2, 1))
    layer.set_weights([np.array([2.0]), np.array([1.0]), np.array([3.0]), np.array([4.0 - 1e-3])])
    result = layer(np.full((1, 2, 2, 1), 5.0, "float32"), training=True)
    np.testing.assert_allclose(result, np.full((1, 2, 2, 1), 3.0), rtol=1e-6)  # 2 (5 - 3) / 2 + 1
    np.testing.assert_array_equal(layer.moving_mean, [3.0])


def test_one_value_in_a_channel_is_finite():
    layer = FusedBatchNormalization()
    assert np.isfinite(layer(np.full((1, 1, 1, 3), 7.0, "float32"), training=True)).all()
    np.testing.assert_allclose(layer.moving_variance, np.full(3, 0.99), rtol=1e-6)


def test_other_inputs_take_the_way_of_keras():
    features = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    theirs, ours = keras.layers.BatchNormalization(), FusedBatchNormalization()
    np.testing.assert_allclose(ours(features, training=True), theirs(features, training=True), atol=1e-6)


def test_it_is_one_operation(tmp_path):
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, FusedBatchNormalization(name="bn")(image))
    graph = tf.function(lambda x: model(x, training=True)).get_concrete_function(tf.TensorSpec((2, 4, 4, 3)))
    assert sum(op.type == "FusedBatchNormV3" for op in graph.graph.get_operations()) == 1
    model.save(tmp_path / "m.keras")
    assert isinstance(keras.models.load_model(tmp_path / "m.keras").get_layer("bn"), FusedBatchNormalization)
