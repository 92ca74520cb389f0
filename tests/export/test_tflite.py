"""`.tflite` files of every kind: equality with Keras and with OpenCV, quantization, refusals."""

import numpy as np
import pytest

from urnet_tf.errors import RunError, UsageError
from urnet_tf.export.flatbuffer_model import pack_model, unpack_model
from urnet_tf.export.tflite import KINDS, build_tflite_classifier, tflite_operations, write_tflite

pytestmark = pytest.mark.onednn
# The largest difference of a probability to Keras, for a small network.
TOLERANCES = {"float32": 1e-5, "float16": 2e-3, "dynamic_int8": 0.03, "int8": 0.05}
FLOAT32, INT32, UINT8, INT8 = 0, 2, 3, 9  # schema's TensorType


@pytest.fixture(scope="module")
def images(tiny_photos, tiny_preparation):
    """float32 [12, S, S, 3]."""
    return tiny_preparation.decode(tiny_photos)[0].numpy()


@pytest.fixture(scope="module")
def model(make_tiny_model):
    """The tiny model with probabilities that are far apart."""
    model = make_tiny_model()
    model.get_layer("logits").kernel.assign(model.get_layer("logits").kernel * 10)
    return model


@pytest.fixture(scope="module")
def files(model, tiny_names, tiny_preparation, images, tmp_path_factory):
    """One file of each kind, with labels and preparation inside."""
    directory = tmp_path_factory.mktemp("tflite")
    for kind in KINDS:
        write_tflite(
            model, directory / kind, image_size_px=tiny_preparation.image_size_px, kind=kind,
            calibration=images if kind == "int8" else None, labels=tiny_names,
            preparation=tiny_preparation,
        )  # fmt: skip
    return {kind: directory / kind for kind in KINDS}


def keras_probs(model, images):
    import tensorflow as tf

    return tf.nn.softmax(model(images, training=False)).numpy()


def operators(path):
    """(kind, input tensors, output tensors) of each operation."""
    from ai_edge_litert import schema_py_generated as schema

    model = unpack_model(path.read_bytes())
    graph, names = model.subgraphs[0], {v: k for k, v in vars(schema.BuiltinOperator).items()}
    codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
    return [
        (names[codes[o.opcodeIndex]], *([graph.tensors[i] for i in ids] for ids in (o.inputs, o.outputs)))
        for o in graph.operators
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_answers_as_keras(kind, files, model, images):
    expected = keras_probs(model, images)
    received = build_tflite_classifier(files[kind], threads=1)(images)
    assert received.dtype == np.float32 and received.shape == expected.shape
    assert np.ptp(expected, axis=0).max() > 4 * TOLERANCES[kind]  # so that constant answers fail
    assert np.abs(received - expected).max() <= TOLERANCES[kind]
    np.testing.assert_allclose(received.sum(axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_are_fixed_and_pixels_are_plain(kind, files, tiny_preparation):
    from ai_edge_litert import interpreter

    side = tiny_preparation.image_size_px
    opened = interpreter.Interpreter(str(files[kind]))
    (entry,), (result,) = opened.get_input_details(), opened.get_output_details()
    assert entry["shape"].tolist() == [1, side, side, 3] and result["shape"].tolist() == [1, 6]
    assert result["dtype"] == np.float32
    assert opened.get_signature_list()["serving_default"] == {
        "inputs": ["image"],
        "outputs": ["probabilities"],
    }
    expected = (np.uint8, (1.0, 0)) if kind == "int8" else (np.float32, (0.0, 0))
    assert (entry["dtype"], entry["quantization"]) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_operations_are_built_in_and_the_grouped_convolution_is_one(kind, files):
    names = tflite_operations(files[kind])
    assert not [n for n in names if n.startswith(("Flex", "CUSTOM"))]
    kernels = [i[1].shape.tolist() for name, i, _ in operators(files[kind]) if name == "CONV_2D"]
    assert kernels == [[16, 3, 3, 3], [16, 3, 3, 4]]  # [C_out, h, w, C_in / groups]


def test_int8_convolves_in_int8_with_a_scale_for_each_channel(files):
    convolutions = [(i, o) for name, i, o in operators(files["int8"]) if name == "CONV_2D"]
    for (image, kernel, bias), (result,) in convolutions:
        assert [t.type for t in (image, kernel, bias, result)] == [INT8, INT8, INT32, INT8]
        assert len(kernel.quantization.scale) == 16 and len(image.quantization.scale) == 1


def test_int8_normalizes_and_ranks_in_float32(tmp_path):
    import keras

    image = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 128, -127 / 128)(image)
    x = keras.layers.Conv2D(8, 3, padding="same")(x)  # zeros at the border keep the steps apart
    x = keras.layers.GlobalAveragePooling2D()(x)
    images = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3)).astype(np.float32)
    model = keras.Model(image, keras.layers.Dense(3)(x))
    write_tflite(model, tmp_path / "x", image_size_px=16, kind="int8", calibration=images)
    found = [(n, i[0].type, o[0].type) for n, i, o in operators(tmp_path / "x")]
    assert found[:3] == [("DEQUANTIZE", UINT8, FLOAT32), ("MUL", FLOAT32, FLOAT32), ("ADD", FLOAT32, FLOAT32)]
    assert found[3:5] == [("QUANTIZE", FLOAT32, INT8), ("CONV_2D", INT8, INT8)]
    assert found[-2:] == [("DEQUANTIZE", INT8, FLOAT32), ("SOFTMAX", FLOAT32, FLOAT32)]


def test_small_probabilities_of_many_classes_are_no_zeros(tmp_path):
    """An int8 softmax would give 0 for what is below 1/512."""
    import keras

    image = keras.Input((None, None, 3))  # an open size is fixed by the file
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(1000)(x))
    images = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3)).astype(np.float32)
    model.layers[-1].kernel.assign(model.layers[-1].kernel / 20)
    write_tflite(model, tmp_path / "x", image_size_px=16, kind="int8", calibration=list(images))
    received = build_tflite_classifier(tmp_path / "x")(images)
    assert received.min() > 0 and len(np.unique(received[0])) > 50


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_opencv_reads_the_file_and_agrees(kind, files, images):
    cv2 = pytest.importorskip("cv2")
    network = cv2.dnn.readNetFromTFLite(str(files[kind]))
    expected = build_tflite_classifier(files[kind])(images[:4])
    for image, probabilities in zip(images, expected, strict=False):
        network.setInput(np.ascontiguousarray(image[None].transpose(0, 3, 1, 2)))
        np.testing.assert_allclose(network.forward().ravel(), probabilities, atol=1e-4)


def test_a_grouped_convolution_of_keras_is_converted_too(tmp_path):
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu")(image)
    x = keras.layers.Conv2D(8, 3, groups=4)(x)
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    model.layers[1].kernel.assign(model.layers[1].kernel / 100)
    write_tflite(model, tmp_path / "x", image_size_px=12)
    images = np.random.default_rng(0).uniform(0, 255, (3, 12, 12, 3)).astype(np.float32)
    received = build_tflite_classifier(tmp_path / "x")(images)
    np.testing.assert_allclose(received, keras_probs(model, images), atol=1e-5)
    assert [i[1].shape[-1] for name, i, _ in operators(tmp_path / "x") if name == "CONV_2D"] == [3, 2]


def test_a_mixed_precision_model_becomes_float32(make_tiny_model, images, tmp_path):
    model = make_tiny_model(dtype="mixed_bfloat16")
    same = make_tiny_model()
    same.set_weights(model.get_weights())
    write_tflite(model, tmp_path / "x", image_size_px=32)
    received = build_tflite_classifier(tmp_path / "x")(images)
    np.testing.assert_allclose(received, keras_probs(same, images), atol=1e-5)


def test_an_operation_that_tflite_lacks_is_named_and_nothing_is_left(tmp_path, capfd):
    import keras

    class Unusual(keras.layers.Layer):
        def call(self, x):
            import tensorflow as tf

            return tf.linalg.det(x)

    image = keras.Input((3, 3, 3))
    model = keras.Model(image, Unusual()(image))
    with pytest.raises(RunError, match="TFLite has no built-in operation for MatrixDeterminant"):
        write_tflite(model, tmp_path / "x", image_size_px=3)
    assert not (tmp_path / "x").exists()
    assert capfd.readouterr().err == ""


def test_bad_arguments_are_named(model, files, images, tmp_path):
    def write(**more):
        write_tflite(model, tmp_path / "x", **{"image_size_px": 32} | more)

    with pytest.raises(UsageError, match="kind of float32, float16, dynamic_int8, int8; received 'int4'"):
        write(kind="int4")
    for calibration in (None, []):
        with pytest.raises(UsageError, match="photographs .* received none"):
            write(kind="int8", calibration=calibration)
    with pytest.raises(UsageError, match=r"images \[32, 32, 3\]; received \[32, 31, 3\]"):
        write(kind="int8", calibration=images[:, :, 1:])
    with pytest.raises(UsageError, match=r"Expected images \[n, 32, 32, 3\]; received \[12, 31, 32, 3\]"):
        build_tflite_classifier(files["float32"])(images[:, 1:])


def test_packing_keeps_every_tensor_and_aligns_it(files):
    from ai_edge_litert import schema_py_generated as schema

    content = files["float32"].read_bytes()
    packed = pack_model(unpack_model(content))
    before, after = (schema.Model.GetRootAs(c, 0) for c in (content, packed))
    assert before.BuffersLength() == after.BuffersLength() > 5
    for i in range(before.BuffersLength()):
        a, b = before.Buffers(i), after.Buffers(i)
        assert a.DataLength() == b.DataLength()
        if b.DataLength():
            np.testing.assert_array_equal(a.DataAsNumpy(), b.DataAsNumpy())
            assert b._tab.Vector(b._tab.Offset(4)) % 16 == 0
    with pytest.raises(UsageError, match="Expected a TFLite model"):
        unpack_model(b"PK\x03\x04 no model")
