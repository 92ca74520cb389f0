"""SavedModels of a tiny classifier: signatures, bad images, many images, views, what is inside."""

import json

import numpy as np
import pytest

from urnet_tf.export import saved_model
from urnet_tf.export.preparation import Preparation

SIZE = 32


@pytest.fixture(scope="module")
def call(tiny_version):
    return saved_model.open_saved_model(tiny_version)


def keras_probs(model, images):
    import tensorflow as tf

    return tf.nn.softmax(model(images, training=False)).numpy()


def test_variables_are_written_once(tiny_version, tiny_model):
    import tensorflow as tf

    stored = tf.train.list_variables(str(tiny_version / "variables" / "variables"))
    values = sum(int(np.prod(shape)) for name, shape in stored if name.endswith("VARIABLE_VALUE"))
    assert values == tiny_model.count_params()


def test_assets(tiny_version, tiny_names, tiny_ids):
    assert (tiny_version / "assets" / "class_ids.txt").read_text().splitlines() == tiny_ids
    assert (tiny_version / "assets" / "labels.txt").read_text(encoding="utf-8").splitlines() == tiny_names
    assert json.loads((tiny_version / "assets" / "model.json").read_text()) == {"name": "tiny", "version": 3}


def test_the_best_are_those_of_keras_and_bad_images_are_marked(
    call, tiny_model, tiny_names, tiny_ids, tiny_preparation, tiny_photos
):
    files = [*tiny_photos[:3], b"no image", tiny_photos[3][:200], b""]
    images, valid = (tensor.numpy() for tensor in tiny_preparation.decode(np.array(files, object)))
    served = call("serving_default", {"image_bytes": files})
    assert served["valid"].tolist() == valid.tolist() == [True] * 3 + [False] * 3
    assert (served["classes"][3:] == -1).all() and (served["probabilities"][3:] == 0).all()
    assert set(served["labels"][3:].ravel()) == set(served["ids"][3:].ravel()) == {b""}
    expected = keras_probs(tiny_model, images[:3])
    order = np.argsort(-expected, axis=1)[:, :3]
    np.testing.assert_array_equal(served["classes"][:3], order)
    assert [label.decode() for label in served["labels"][0]] == [tiny_names[c] for c in order[0]]
    assert [identity.decode() for identity in served["ids"][0]] == [tiny_ids[c] for c in order[0]]
    best = np.take_along_axis(expected, order, 1)
    np.testing.assert_allclose(served["probabilities"][:3], best, atol=1e-5)


def test_tensors_and_features(call, tiny_model, tiny_preparation, tiny_photos):
    images = tiny_preparation.decode(tiny_photos)[0].numpy()
    served = call("tensor", {"images": images})
    expected = keras_probs(tiny_model, images)
    np.testing.assert_allclose(served["probabilities"], -np.sort(-expected, axis=1)[:, :3], atol=1e-5)
    assert set(served) == {"classes", "labels", "ids", "probabilities"}
    found = call("features", {"image_bytes": [*tiny_photos, b""]})
    features = tiny_model.get_layer("backbone")(images).numpy()
    np.testing.assert_allclose(found["features"][:-1], features, atol=1e-5)
    assert (found["features"][-1] == 0).all() and found["valid"].tolist() == [True] * 12 + [False]


def test_none_one_and_many_images(call, tiny_photos):
    import tensorflow as tf

    nothing = call("serving_default", {"image_bytes": tf.zeros([0], tf.string)})
    assert {name: values.shape for name, values in nothing.items()} == {
        "classes": (0, 3), "labels": (0, 3), "ids": (0, 3), "probabilities": (0, 3), "valid": (0,),
    }  # fmt: skip
    one = [call("serving_default", {"image_bytes": [photo]}) for photo in tiny_photos]
    many = call("serving_default", {"image_bytes": [b"", *tiny_photos * 6]})  # computed in three parts
    assert many["valid"].sum() == 72 and not many["valid"][0]
    for name in ("classes", "labels", "ids"):
        np.testing.assert_array_equal(many[name][1:], np.concatenate([o[name] for o in one] * 6))
    singly = np.concatenate([o["probabilities"] for o in one] * 6)
    np.testing.assert_allclose(many["probabilities"][1:], singly, atol=1e-6)


def test_views_are_averaged_and_the_rejection_is_served(make_tiny_model, tiny_names, tiny_photos, tmp_path):
    from urnet_tf.images import decode

    model, preparation = make_tiny_model(none_of_these=True), Preparation(SIZE, crops="10", scales=(1, 1.2))
    saved_model.write_saved_model(model, tiny_names, tmp_path / "1", preparation)
    served = saved_model.open_saved_model(tmp_path / "1")("serving_default", {"image_bytes": tiny_photos})
    for row, photo in enumerate(tiny_photos[:3]):
        views = decode.views(decode.decode_rgb(photo), SIZE, "10", (1, 1.2), preparation.crop_fraction)
        assert len(views) == preparation.views == 20
        outputs = model(views, training=False)
        probs = keras_probs(lambda x, training, outputs=outputs: outputs["logits"], views).mean(axis=0)
        np.testing.assert_allclose(served["probabilities"][row], -np.sort(-probs)[:5], atol=1e-5)
        rejection = outputs["none_of_these"].numpy().mean()
        assert served["none_of_these"][row] == pytest.approx(rejection, abs=1e-5)
    assert served["none_of_these"].shape == (12,)


def test_wrong_image_sizes_are_refused(tiny_version):
    import tensorflow as tf

    served = tf.saved_model.load(str(tiny_version))
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError, TypeError)):
        served.signatures["tensor"](images=tf.zeros([1, SIZE, SIZE + 1, 3]))


def test_there_is_no_xla_operation(tiny_version):
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((tiny_version / "saved_model.pb").read_bytes())
    graph = proto.meta_graphs[0].graph_def
    assert not any(f.attr["_XlaMustCompile"].b for f in graph.library.function if "_XlaMustCompile" in f.attr)
    operations = {n.op for f in graph.library.function for n in f.node_def}
    assert "Conv2D" in operations and not {o for o in operations if o.startswith("Xla") or o == "PyFunc"}
