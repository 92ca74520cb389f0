"""ConvNeXt, whose depthwise convolutions are grouped ones in Keras, as ONNX, TFLite and SavedModel."""

import importlib

import keras
import numpy as np
import pytest

from urnet_tf.export.onnx_file import build_onnx_classifier, write_onnx
from urnet_tf.export.saved_model import write_saved_model
from urnet_tf.export.tflite import build_tflite_classifier, write_tflite

CONVNEXT = importlib.import_module(keras.applications.ConvNeXtTiny.__module__)
IMAGES = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype("float32")


@pytest.fixture(scope="module")
def model():
    """A small ConvNeXt as Keras builds it, images → logits; its layer scales are above the first 1e-6."""
    keras.utils.set_random_seed(0)
    network = CONVNEXT.ConvNeXt(
        (1, 1, 1, 1), (8, 8, 16, 16), include_top=False, input_shape=(32, 32, 3), pooling="avg",
        layer_scale_init_value=0.7, name="small",
    )  # fmt: skip
    image = keras.Input((32, 32, 3))
    return keras.Model(image, keras.layers.Dense(3, kernel_initializer="random_normal")(5 * network(image)))


@pytest.fixture(scope="module")
def expected(model):
    found = keras.ops.softmax(model(IMAGES)).numpy()
    assert np.ptp(found) > 0.05
    return found


def groups_of(model):
    """Of the grouped convolutions of the network inside."""
    return [getattr(layer, "groups", 1) for layer in model.get_layer("small").layers]


def test_onnx(model, expected, tiny_preparation, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    write_onnx(model, tmp_path / "x.onnx", 32, list("abc"), tiny_preparation)
    np.testing.assert_allclose(build_onnx_classifier(tmp_path / "x.onnx")(IMAGES), expected, atol=1e-5)
    nodes = [node for node in onnx.load(tmp_path / "x.onnx").graph.node if node.op_type == "Conv"]
    groups = [a.i for node in nodes for a in node.attribute if a.name == "group"]
    assert sorted(groups)[-4:] == [8, 8, 16, 16]
    assert max(groups_of(model)) == 16  # the given model is left as it is


def test_tflite(model, expected, tmp_path):
    write_tflite(model, tmp_path / "x.tflite", image_size_px=32)
    found = build_tflite_classifier(tmp_path / "x.tflite")(IMAGES)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_saved_model_needs_no_compiler(model, expected, tiny_preparation, tmp_path):
    import tensorflow as tf

    write_saved_model(model, list("abc"), tmp_path / "1", tiny_preparation, top_k=3)
    loaded = tf.saved_model.load(tmp_path / "1")
    found = loaded.signatures["tensor"](images=tf.constant(IMAGES))
    np.testing.assert_allclose(found["probabilities"], -np.sort(-expected, axis=1), atol=1e-5)
    functions = loaded.signatures["tensor"].graph.as_graph_def().library.function
    assert functions and not [f.signature.name for f in functions if f.attr["_XlaMustCompile"].b]
