"""ONNX files: equality with Keras in ONNX Runtime, grouped convolutions, metadata, refusals."""

import json

import numpy as np
import pytest

from urnet_tf.errors import RunError
from urnet_tf.export.onnx_file import build_onnx_classifier, set_version, write_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")

pytestmark = pytest.mark.onednn


@pytest.fixture(scope="module")
def path(tiny_model, tiny_names, tiny_ids, tiny_preparation, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    size = tiny_preparation.image_size_px
    write_onnx(
        tiny_model, path, size, tiny_names, tiny_preparation, class_ids=tiny_ids, name="tiny", version="3"
    )
    return path


def test_onnx_runtime_answers_as_keras_for_any_number_of_images(path, tiny_model, tiny_preparation):
    import tensorflow as tf

    side = tiny_preparation.image_size_px
    classify = build_onnx_classifier(path)
    for count in (1, 5):
        images = np.random.default_rng(count).uniform(0, 255, (count, side, side, 3)).astype(np.float32)
        expected = tf.nn.softmax(tiny_model(images, training=False)).numpy()
        np.testing.assert_allclose(classify(images), expected, atol=1e-5)


def test_a_grouped_convolution_is_one_operation(path):
    graph = onnx.load(path).graph
    groups = [a.i for n in graph.node if n.op_type == "Conv" for a in n.attribute if a.name == "group"]
    assert groups == [1, 4]


def test_labels_ids_and_preparation_are_in_the_file(path, tiny_names, tiny_ids, tiny_preparation):
    metadata = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["labels"]) == tiny_names
    assert json.loads(metadata["class_ids"]) == tiny_ids
    assert json.loads(metadata["preparation"]) == tiny_preparation.to_dict()
    assert (metadata["name"], metadata["version"]) == ("tiny", "3")


def test_another_version(path, tiny_names, tmp_path):
    copy = tmp_path / "tiny.onnx"
    copy.write_bytes(path.read_bytes())
    set_version(copy, "12")
    found, before = (
        onnxruntime.InferenceSession(p).get_modelmeta().custom_metadata_map for p in (copy, path)
    )
    assert found == before | {"version": "12"}
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(build_onnx_classifier(copy)(images), build_onnx_classifier(path)(images))


def test_exact_gelu_and_what_layers_hold_outside_of_variables(tiny_preparation, tmp_path):
    import keras
    import tensorflow as tf
    from keras import layers

    keras.utils.set_random_seed(0)
    side = tiny_preparation.image_size_px
    image = keras.Input((side, side, 3))
    x = layers.Normalization(mean=[100.0, 110.0, 120.0], variance=[900.0, 1600.0, 2500.0])(image)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="gelu")(x))
    model = keras.Model(image, layers.Dense(3, kernel_initializer="random_normal")(20 * x))
    write_onnx(model, tmp_path / "x.onnx", side, list("abc"), tiny_preparation)
    graph = onnx.load(tmp_path / "x.onnx").graph
    assert [entry.name for entry in graph.input] == ["image"]
    images = np.random.default_rng(0).uniform(0, 255, (4, side, side, 3)).astype(np.float32)
    expected = tf.nn.softmax(model(images)).numpy()
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(build_onnx_classifier(tmp_path / "x.onnx")(images), expected, atol=1e-5)


def test_an_operation_that_onnx_lacks_is_named(tiny_preparation, tmp_path):
    import keras
    import tensorflow as tf

    class Unusual(keras.layers.Layer):
        def call(self, x):
            return tf.linalg.expm(x[:, :3, :3, 0])[:, 0, :]

    image = keras.Input((8, 8, 3))
    model = keras.Model(image, Unusual()(image))
    with pytest.raises(RunError, match="ONNX has no operation for .*, which the model needs"):
        write_onnx(model, tmp_path / "x.onnx", 8, ["a", "b", "c"], tiny_preparation)
    assert not (tmp_path / "x.onnx").exists()
