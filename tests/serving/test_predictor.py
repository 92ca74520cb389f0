"""One door to all formats: the same answers from each as from plain Keras."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from urnet_tf.errors import UsageError
from urnet_tf.export.preparation import Preparation
from urnet_tf.serving.predictor import open_classifier

SIZE = 32
LABELS = ["great white", "Käfer", "c", "d", "e", "f"]
PREPARATION = Preparation(SIZE, short_side_px=40)
FILES = {
    "saved_model": "", "keras": "tiny.keras", "tflite": "tiny_float32.tflite", "onnx": "tiny.onnx",
}  # fmt: skip


def build_model(none_of_these=False):
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = layers.Conv2D(16, 3, strides=2, activation="relu")(layers.Rescaling(1 / 127.5, -1)(image))
    x = layers.Flatten()(layers.AveragePooling2D(5)(x))
    logits = layers.Dense(len(LABELS), kernel_initializer="he_normal")(layers.Dropout(0.5)(x))
    if not none_of_these:
        return keras.Model(image, logits)
    return keras.Model(image, {"logits": logits, "none_of_these": layers.Dense(1, activation="sigmoid")(x)})


def write_metadata(directory, preparation=PREPARATION, labels=LABELS):
    (directory / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    metadata = {"name": "tiny", "version": 3, "preparation": preparation.to_dict()}
    (directory / "export.json").write_text(json.dumps(metadata))


@pytest.fixture(scope="module")
def model():
    return build_model()


@pytest.fixture(scope="module")
def version(model, tmp_path_factory):
    from urnet_tf.export.saved_model import write_saved_model
    from urnet_tf.export.tflite import write_tflite

    directory = tmp_path_factory.mktemp("saved_models") / "tiny" / "3"
    write_saved_model(model, LABELS, directory, PREPARATION, top_k=3)
    model.save(directory / FILES["keras"])
    write_tflite(
        model, directory / FILES["tflite"], image_size_px=SIZE, labels=LABELS, preparation=PREPARATION
    )
    write_metadata(directory)
    return directory


@pytest.fixture(scope="module")
def encoded():
    """40 images of several sizes, more than are computed at once; three in the middle are bad."""
    import tensorflow as tf

    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (37, 5, 7, 3))
    images = [
        tf.cast(tf.image.resize(c, (60 + i, 84 - i)), tf.uint8) for i, c in enumerate(coarse)
    ]  # smooth, so that no resizing of it is a matter of taste
    files = [tf.io.encode_jpeg(image).numpy() for image in images]
    return [*files[:20], b"no image", files[3][:200], b"", *files[20:]]


def expect(model, encoded, preparation=PREPARATION):
    """Plain Keras: the mean of the probabilities over all views, float32 [n, C], and valid bool [n]."""
    import tensorflow as tf

    views, valid = preparation.decode_views(tf.constant(encoded))
    probs = [tf.reduce_mean(tf.nn.softmax(model(v, training=False)), axis=0) for v in views]
    return np.stack(probs), valid.numpy()


def check(answers, expected, valid, top_k):
    assert [a.valid for a in answers] == valid.tolist()
    order = np.argsort(-expected, axis=1)[:, :top_k]
    for row, answer in enumerate(answers):
        if not valid[row]:
            assert answer == (False, (), (), (), None)
            continue
        assert answer.classes == tuple(order[row])
        assert answer.labels == tuple(LABELS[c] for c in order[row])
        np.testing.assert_allclose(answer.probabilities, expected[row, order[row]], atol=1e-4)


@pytest.mark.parametrize("kind", ["saved_model", "keras", "tflite"])
def test_all_formats_answer_as_keras(kind, model, version, encoded):
    classifier = open_classifier(version / FILES[kind])
    assert (classifier.kind, classifier.labels, classifier.preparation) == (kind, tuple(LABELS), PREPARATION)
    expected, valid = expect(model, encoded)
    assert (~valid).sum() == 3 and len(set(expected.argmax(axis=1))) > 1
    check(classifier.classify(encoded, 3), expected, valid, 3)
    assert classifier.classify([], 3) == []
    assert classifier.classify([b""], 3) == [(False, (), (), (), None)]


def test_onnx_answers_as_keras(model, version, encoded, tmp_path):
    onnx_file = pytest.importorskip("urnet_tf.export.onnx_file")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    write_metadata(tmp_path)
    onnx_file.write_onnx(
        model, tmp_path / FILES["onnx"], image_size_px=SIZE, labels=LABELS, preparation=PREPARATION
    )
    check(open_classifier(tmp_path).classify(encoded, 6), *expect(model, encoded), 6)


def test_a_tflite_file_needs_nothing_beside_it(model, version, encoded, tmp_path):
    alone = shutil.copy(version / FILES["tflite"], tmp_path / "phone.tflite")
    classifier = open_classifier(alone)
    assert (classifier.file.name, classifier.labels) == ("phone", tuple(LABELS))
    check(classifier.classify(encoded[:2], 6), *expect(model, encoded[:2]), 6)


def test_views_are_averaged(model, version, encoded, tmp_path):
    preparation = Preparation(SIZE, short_side_px=40, crops="5", scales=(0.9,))
    shutil.copy(version / FILES["keras"], tmp_path)
    write_metadata(tmp_path, preparation)
    some = [*encoded[:3], b"bad"]
    expected, valid = expect(model, some, preparation)
    assert np.abs(expected - expect(model, some)[0]).max() > 1e-3
    check(open_classifier(tmp_path).classify(some, 4), expected, valid, 4)


def test_none_of_these_comes_with_models_that_have_it(encoded, tmp_path):
    import tensorflow as tf

    from urnet_tf.export.saved_model import write_saved_model

    model = build_model(none_of_these=True)
    write_saved_model(model, LABELS, tmp_path / "1", PREPARATION, top_k=3)
    model.save(tmp_path / "1" / "tiny.keras")
    write_metadata(tmp_path / "1")
    some = [encoded[0], b"bad", encoded[1]]
    outputs = model(PREPARATION.decode(tf.constant(some))[0], training=False)
    expected = outputs["none_of_these"].numpy()[:, 0]
    for path in (tmp_path / "1", tmp_path / "1" / "tiny.keras"):
        classifier = open_classifier(path)
        assert classifier.has_none_of_these
        answers = classifier.classify(some, 2)
        assert answers[1].none_of_these is None
        np.testing.assert_allclose([a.none_of_these for a in answers[::2]], expected[::2], atol=1e-5)
        assert answers[0].classes == tuple(np.argsort(-outputs["logits"][0])[:2])


@pytest.mark.parametrize("kind", ["saved_model", "tflite"])
def test_threads_do_not_mix_up_answers(kind, version, encoded):
    classifier = open_classifier(version / FILES[kind])
    alone = [classifier.classify([e], 2)[0] for e in encoded]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda e: classifier.classify([e], 2)[0], encoded))
    assert [a.classes for a in together] == [a.classes for a in alone]


def test_more_classes_than_the_file_gives_are_refused(version):
    classifier = open_classifier(version)
    with pytest.raises(UsageError, match=r"top_k from 1 to 3, .* received 4. Export it with a larger"):
        classifier.classify([b""], 4)
    with pytest.raises(UsageError, match="top_k from 1 to 6, .* received 7.$"):
        open_classifier(version / FILES["keras"]).check_top_k(7)


@pytest.mark.parametrize("name", ["saved_model.pb", "tiny.keras", "tiny.tflite"])
def test_a_damaged_model_is_a_sentence(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x08\xffrubbish")
    write_metadata(tmp_path)
    with pytest.raises(UsageError, match="Cannot (open|read) the"):
        open_classifier(tmp_path / name)


def test_labels_and_sizes_that_do_not_fit_are_named(version, tmp_path):
    shutil.copy(version / FILES["keras"], tmp_path)
    write_metadata(tmp_path, labels=LABELS[:4])
    with pytest.raises(UsageError, match=r"Expected 6 names of classes.*; received 4"):
        open_classifier(tmp_path)
    write_metadata(tmp_path, Preparation(SIZE + 1))
    with pytest.raises(UsageError, match="Cannot open the Keras model"):
        open_classifier(tmp_path)


def test_a_foreign_saved_model_is_refused(tmp_path):
    import tensorflow as tf

    module = tf.Module()
    module.double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec([None])])
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.double})
    write_metadata(tmp_path)
    with pytest.raises(UsageError, match="SavedModel of `urnet export`.*gives output_0"):
        open_classifier(tmp_path)
