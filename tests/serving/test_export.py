"""Exports of tiny models: signatures, bad images, equality with Keras, refusal."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from urnet_tf import serving
from urnet_tf.errors import RunError, UsageError

SIZE = 32
NAMES = ["great white", "Käfer", "c", "d", "e", "f"]
PREPARATION = {"image_size_px": SIZE, "crop_fraction": 0.875, "short_side_px": 40}

# What a server knows: the directory. No urnet_tf, no keras.
_FRESH = """
import sys
import numpy as np, tensorflow as tf
assert "urnet_tf" not in sys.modules
model = tf.saved_model.load(sys.argv[1])
arrays = np.load(sys.argv[2], allow_pickle=True)
served = model.signatures["serving_default"](image_bytes=tf.constant(list(arrays["encoded"])))
tensor = model.signatures["tensor"](images=tf.constant(arrays["images"]))
assert not [m for m in sys.modules if m.startswith("urnet_tf")], "the export needs our package"
np.savez(sys.argv[3], **{k: v.numpy() for k, v in served.items()}, tensor=tensor["probabilities"].numpy())
"""


@pytest.fixture(scope="module")
def encoded():
    import tensorflow as tf

    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (8, 5, 7, 3))
    images = tf.cast(tf.image.resize(coarse, (60, 84)), tf.uint8)
    return [tf.io.encode_jpeg(image).numpy() for image in images]


def build_model(grouped=True, dtype="float32"):
    import keras

    from urnet_tf.models.grouped_convolution import GroupedConv2D

    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1, dtype=dtype)(image)
    x = layers.Conv2D(16, 3, strides=2, activation="relu", dtype=dtype)(x)
    if grouped:
        x = GroupedConv2D(16, 3, groups=4, implementation="blocked", dtype=dtype)(x)
    x = layers.BatchNormalization(dtype=dtype)(x)
    features = keras.Model(image, layers.GlobalAveragePooling2D(dtype=dtype)(x), name="backbone")
    outer = keras.Input((SIZE, SIZE, 3), name="image")
    x = layers.Dropout(0.5)(features(outer))  # must be inactive in the export
    return keras.Model(outer, layers.Dense(len(NAMES), kernel_initializer="he_normal", dtype="float32")(x))


@pytest.fixture(scope="module")
def export(tmp_path_factory, encoded):
    directory = tmp_path_factory.mktemp("export")
    model = build_model()
    facts = serving.export_classifier(model, NAMES, directory, "tiny", encoded, top_k=3, **PREPARATION)
    return directory, facts, model


def test_facts_and_files(export):
    directory, facts, model = export
    assert facts["version"] == 1 and facts["classes"] == len(NAMES)
    assert facts == json.loads((directory / "export.json").read_text())
    assert (directory / "tiny" / "1" / "saved_model.pb").is_file()
    for labels in (directory / "labels.txt", directory / "tiny" / "1" / "assets" / "labels.txt"):
        assert labels.read_text(encoding="utf-8").splitlines() == NAMES
    for kind in ("saved_model", "tflite"):
        assert facts[kind]["parity"]["max_difference"] < 1e-5
        assert facts[kind]["parity"]["top1_agreement"] == 1.0
    assert not [p.name for p in directory.iterdir() if p.name.startswith(".")]


def test_variables_are_written_once(export):
    import tensorflow as tf

    directory, _, model = export
    stored = tf.train.list_variables(str(directory / "tiny" / "1" / "variables" / "variables"))
    values = sum(int(np.prod(shape)) for name, shape in stored if name.endswith("VARIABLE_VALUE"))
    assert values == model.count_params()


def test_a_fresh_process_serves_it_and_one_bad_image_harms_no_other(export, encoded, tmp_path):
    import tensorflow as tf

    directory, _, model = export
    bad = [*encoded[:3], b"no image", encoded[3][:200], b""]
    images, valid = serving.prepare_batch(
        np.array(bad, object), **PREPARATION, max_pixels=serving.DEFAULT_MAX_PIXELS
    )
    np.savez(tmp_path / "in.npz", encoded=np.array(bad, object), images=images.numpy())
    arguments = [str(directory / "tiny" / "1"), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", _FRESH, *arguments], check=True, cwd=tmp_path, env=environment)
    served = np.load(tmp_path / "out.npz", allow_pickle=True)
    assert served["valid"].tolist() == valid.numpy().tolist() == [True] * 3 + [False] * 3
    assert (served["classes"][3:] == -1).all() and (served["probabilities"][3:] == 0).all()
    assert set(served["labels"][3:].ravel()) == {b""}
    expected = tf.nn.softmax(model(images, training=False)).numpy()
    order = np.argsort(-expected[:3], axis=1)[:, :3]
    np.testing.assert_array_equal(served["classes"][:3], order)
    assert [label.decode() for label in served["labels"][0]] == [NAMES[c] for c in order[0]]
    best = np.take_along_axis(expected[:3], order, 1)
    np.testing.assert_allclose(served["probabilities"][:3], best, atol=1e-5)
    np.testing.assert_allclose(served["tensor"][:3], served["probabilities"][:3], atol=1e-5)


def test_saved_model_cli_shows_the_signatures(export):
    script = "import sys; from tensorflow.python.tools.saved_model_cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "show", "--dir", str(export[0] / "tiny" / "1"), "--all"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    for word in ("serving_default", "tensor", "image_bytes", "probabilities", "valid", "DT_STRING"):
        assert word in shown.stdout


def test_the_saved_model_has_no_xla_operation(export):
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((export[0] / "tiny" / "1" / "saved_model.pb").read_bytes())
    graph = proto.meta_graphs[0].graph_def
    assert not any(f.attr["_XlaMustCompile"].b for f in graph.library.function if "_XlaMustCompile" in f.attr)
    operations = {n.op for f in graph.library.function for n in f.node_def}
    assert "Conv2D" in operations and not {o for o in operations if o.startswith("Xla") or o == "PyFunc"}


def test_wrong_image_sizes_are_refused_by_the_tensor_signature(export):
    import tensorflow as tf

    served = tf.saved_model.load(str(export[0] / "tiny" / "1"))
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError, TypeError)):
        served.signatures["tensor"](images=tf.zeros([1, SIZE, SIZE + 1, 3]))


def test_tflite_has_built_in_operations_and_fixed_shapes(export):
    from ai_edge_litert import interpreter

    directory, facts, _ = export
    assert "CONV_2D" in facts["tflite"]["operations"]
    model = interpreter.Interpreter(str(directory / "tiny.tflite"))
    (entry,), (result,) = model.get_input_details(), model.get_output_details()
    assert entry["shape"].tolist() == [1, SIZE, SIZE, 3] and entry["dtype"] == np.float32
    assert result["shape"].tolist() == [1, len(NAMES)]


def test_a_version_is_never_written_twice(export, encoded):
    directory, _, model = export
    before = (directory / "tiny" / "1" / "saved_model.pb").read_bytes()
    facts = serving.export_classifier(
        model, NAMES, directory, "tiny", encoded[:1], tflite=False, **PREPARATION
    )
    assert facts["version"] == 2 and facts["saved_model"]["path"] == "tiny/2"
    assert (directory / "tiny" / "1" / "saved_model.pb").read_bytes() == before
    assert serving.next_version(directory / "tiny", 7) == 7


def test_a_difference_above_the_tolerance_is_refused_and_leaves_nothing(tmp_path, encoded, monkeypatch):
    true = serving.keras_probs
    monkeypatch.setattr(serving, "keras_probs", lambda model, images: true(model, images) + 0.01)
    message = r"differs from Keras: probabilities by up to 0.01 \(allowed 0.0001\)"
    for kinds in ({"tflite": False}, {"saved_model": False}):
        with pytest.raises(RunError, match=message):
            serving.export_classifier(build_model(), NAMES, tmp_path, "tiny", encoded, **kinds, **PREPARATION)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["labels.txt"]


def test_nan_probabilities_are_refused(tmp_path, encoded):
    model = build_model(grouped=False)
    model.layers[-1].kernel.assign(np.full(model.layers[-1].kernel.shape, np.nan))
    with pytest.raises(RunError, match="differs from Keras"):
        serving.export_classifier(model, NAMES, tmp_path, "tiny", encoded, tflite=False, **PREPARATION)


def test_a_mixed_precision_model_is_exported_in_float32(tmp_path, encoded):
    model = build_model(dtype="mixed_bfloat16")
    copy = serving.float32_copy(model)
    assert copy.get_layer("backbone").layers[2].compute_dtype == "float32"
    for a, b in zip(model.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert serving.float32_copy(copy) is copy
    facts = serving.export_classifier(
        model, NAMES, tmp_path, "tiny", encoded[:2], saved_model=False, **PREPARATION
    )
    assert facts["tflite"]["parity"]["max_difference"] < 1e-5


def test_an_operation_that_tflite_lacks_is_named(tmp_path, encoded):
    import keras

    class Unusual(keras.layers.Layer):
        def call(self, x):
            import tensorflow as tf

            return tf.linalg.expm(x[:, :3, :3, 0])[:, 0, :]

        def compute_output_shape(self, shape):
            return (shape[0], 3)

    keras.saving.register_keras_serializable(package="test")(Unusual)
    image = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(image, keras.layers.Dense(2)(Unusual()(image)))
    with pytest.raises(RunError, match="TFLite built-in operations"):
        serving.write_tflite(model, tmp_path / "x.tflite", SIZE)


def test_bad_arguments_are_named(tmp_path, encoded):
    import keras

    model = build_model(grouped=False)

    def export(model=model, names=NAMES, directory=tmp_path, name="tiny", images=encoded, **more):
        serving.export_classifier(model, names, directory, name, images, **PREPARATION | more)

    with pytest.raises(UsageError, match="plain name"):
        export(name="../tiny")
    with pytest.raises(UsageError, match="gives 6 classes; received 2"):
        export(names=["a", "b"])
    with pytest.raises(UsageError, match="its input is"):
        export(image_size_px=64)
    with pytest.raises(UsageError, match="check image"):
        export(images=[])
    with pytest.raises(UsageError, match="can be decoded"):
        export(images=[b"no image"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Cannot write the export"):
        export(directory=tmp_path / "file" / "x")
    image = keras.Input((SIZE, SIZE, 3))
    named = keras.Model(image, keras.layers.Dense(6, name="große Schicht")(keras.layers.Flatten()(image)))
    with pytest.raises(UsageError, match="große Schicht"):
        export(model=named)
