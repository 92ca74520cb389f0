"""A tiny classifier with what breaks exports (groups, dropout, nesting), and pictures for it."""

import numpy as np
import pytest

from urnet_tf.export.preparation import Preparation

SIZE = 32
NAMES = ["great white", "Käfer", "c", "d", "e", "f"]


def build_tiny_model(dtype="float32", none_of_these=False):
    """Images → logits; with `none_of_these` a dictionary."""
    import keras

    from urnet_tf.models.grouped_convolution import GroupedConv2D

    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1, dtype=dtype)(image)
    x = layers.Conv2D(16, 3, strides=2, activation="relu", dtype=dtype)(x)
    x = GroupedConv2D(16, 3, groups=4, dtype=dtype)(x)
    x = layers.BatchNormalization(dtype=dtype)(x)
    backbone = keras.Model(image, layers.GlobalAveragePooling2D(dtype=dtype)(x), name="backbone")
    outer = keras.Input((SIZE, SIZE, 3), name="image")
    features = backbone(outer)
    x = layers.Dropout(0.5)(features)  # must be inactive in the export
    dense = layers.Dense(len(NAMES), kernel_initializer="he_normal", dtype="float32", name="logits")
    if not none_of_these:
        return keras.Model(outer, dense(x))
    rejection = layers.Dense(1, activation="sigmoid", dtype="float32")(x)
    return keras.Model(outer, {"logits": dense(x), "features": features, "none_of_these": rejection})


@pytest.fixture(scope="session")
def make_tiny_model():
    """The function, since test modules cannot import this one."""
    return build_tiny_model


@pytest.fixture(scope="session")
def tiny_names():
    return NAMES


@pytest.fixture(scope="session")
def tiny_ids():
    return [f"n{number:08}" for number in range(len(NAMES))]


@pytest.fixture(scope="session")
def tiny_model():
    return build_tiny_model()


@pytest.fixture(scope="session")
def tiny_preparation():
    return Preparation(SIZE, short_side_px=40)


@pytest.fixture(scope="session")
def tiny_photos():
    """12 smooth pictures as JPEG files."""
    import tensorflow as tf

    coarse = np.random.default_rng(3).integers(0, 256, (12, 5, 7, 3))
    images = tf.cast(tf.image.resize(coarse, (60, 84)), tf.uint8)
    return [tf.io.encode_jpeg(image).numpy() for image in images]


@pytest.fixture(scope="session")
def tiny_version(tiny_model, tiny_names, tiny_ids, tiny_preparation, tmp_path_factory):
    """Its SavedModel, as `<directory>/tiny/3`."""
    from urnet_tf.export.saved_model import write_saved_model

    path = tmp_path_factory.mktemp("models") / "tiny" / "3"
    metadata = {"name": "tiny", "version": 3}
    write_saved_model(
        tiny_model, tiny_names, path, tiny_preparation, class_ids=tiny_ids, top_k=3, metadata=metadata
    )
    return path


def read_models_config(path):
    """The entries of a `models.config`, by TF Serving's own reader."""
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    config = text_format.Parse(path.read_text(encoding="utf-8"), model_server_config_pb2.ModelServerConfig())
    return list(config.model_config_list.config)
