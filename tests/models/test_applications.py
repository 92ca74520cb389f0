"""Networks of keras.applications and keras-hub: built with random weights, nothing is downloaded."""

import importlib
import importlib.util
import re

import keras
import numpy as np
import pytest
from urnet_fixtures.unreadable import Unreadable

from urnet_tf.backbone_names import APPLICATIONS
from urnet_tf.config import from_dict, judges_features
from urnet_tf.costs.network import count_network
from urnet_tf.errors import UsageError
from urnet_tf.evaluation.inference import build_tflite_function
from urnet_tf.models.backbone import build_backbone
from urnet_tf.models.classifier import build_image_classifier
from urnet_tf.models.own_backbone import _SCALINGS, check_rereadable
from urnet_tf.stages import features, settings
from urnet_tf.stages.network_size import count_keras_network
from urnet_tf.training.saving import load_model, save_model

SMALL = "keras_applications:MobileNetV3Small"
IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
MODULES = {
    "convnext": "ConvNeXt", "densenet": "DenseNet", "efficientnet": "EfficientNetB", "vgg16": "VGG",
    "efficientnet_v2": "EfficientNetV2", "inception_resnet_v2": "InceptionResNetV2", "mobilenet": "MobileNet",
    "inception_v3": "InceptionV3", "mobilenet_v2": "MobileNetV2", "mobilenet_v3": "MobileNetV3",
    "nasnet": "NASNet", "resnet": "ResNet", "resnet_v2": r"ResNet\d+V2", "xception": "Xception",
}  # fmt: skip
needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("keras_hub") is None, reason="keras-hub is not installed"
)


def configured(backbone, **model):
    return from_dict({"model": {"backbone": backbone, "image_size_px": 64, **model}})


def test_all_of_kerass_own_are_known():
    there = {name for name in dir(keras.applications) if name[0].isupper()}
    assert set(APPLICATIONS) == there


@pytest.mark.parametrize("name", APPLICATIONS)
def test_each_sees_images_as_keras_prepares_them(name):
    module = max((m for m, start in MODULES.items() if re.match(start, name)), key=lambda m: len(MODULES[m]))
    expected = importlib.import_module(f"keras.applications.{module}").preprocess_input(IMAGES.copy())
    scale, offset, is_reversed = _SCALINGS[APPLICATIONS[name]]
    seen = (IMAGES[..., ::-1] if is_reversed else IMAGES) * np.asarray(scale) + np.asarray(offset)
    np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-3)


def test_random_weights_follow_the_seed_and_nothing_else():
    one, again, other = (build_backbone(SMALL, 32, None, seed=seed) for seed in (1, 1, 2))
    assert one.output_shape == (None, 576) and one.input_shape == (None, 32, 32, 3)
    first, second, third = (model.get_weights() for model in (one, again, other))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    kernels = [not np.array_equal(a, b) for a, b in zip(first, third, strict=True) if a.ndim == 4]
    assert kernels and all(kernels)


@pytest.mark.parametrize("include_top", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_weights_of_a_file_with_and_without_the_classifier(tmp_path, include_top):
    keras.utils.set_random_seed(3)
    shape = None if include_top else (32, 32, 3)
    given = keras.applications.MobileNetV3Small(
        include_top=include_top, weights=None, input_shape=shape, minimalistic=False
    )
    given.save_weights(tmp_path / "own.weights.h5")
    model = build_backbone(SMALL, 32, tmp_path / "own.weights.h5")
    same = keras.applications.MobileNetV3Small(include_top=False, weights=None, input_shape=(32, 32, 3))
    for layer in same.layers:
        if layer.weights:
            layer.set_weights(given.get_layer(layer.name).get_weights())
    np.testing.assert_allclose(model(IMAGES), np.mean(same(IMAGES), axis=(1, 2)), rtol=1e-3)
    changed = configured(SMALL, weights=str(tmp_path / "own.weights.h5"))
    assert judges_features(changed) and "the file of model.backbone" in features.inputs(changed)


def test_weights_that_cannot_be_had(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"Keras weights \(\.h5\) of .*x\.pth, which is another file"):
        build_backbone(SMALL, 32, tmp_path / "x.pth")
    with pytest.raises(UsageError, match="which is not there"):
        build_backbone(SMALL, 32, tmp_path / "y.h5")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]).save_weights(tmp_path / "z.weights.h5")
    with pytest.raises(UsageError, match="with its classifier or without; .* does not fit"):
        build_backbone(SMALL, 32, tmp_path / "z.weights.h5")
    with pytest.raises(UsageError, match=r"behind keras_applications: in model\.backbone; received 'VGG17'"):
        configured("keras_applications:VGG17")


@pytest.mark.slow
def test_it_is_trained_saved_and_put_on_phones(tmp_path):
    backbone = build_backbone(SMALL, 32, None)
    save_model(build_image_classifier(backbone, 3), tmp_path / "whole.keras")
    again = load_model(tmp_path / "whole.keras")
    by_tflite = build_tflite_function(again, 2)
    np.testing.assert_allclose(by_tflite(IMAGES), again(IMAGES), rtol=1e-3, atol=1e-4)


def test_random_weights_are_not_taken_for_a_judge():
    config = configured(SMALL, weights=None, mode="finetune")
    assert not judges_features(config)
    assert judges_features(configured(SMALL, mode="finetune"))
    assert features.inputs(configured(SMALL, weights=None)) == {"the seed of the random weights": "0"}


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1"])
def test_layers_are_counted_as_those_of_our_own_networks(name):
    ours, found = count_network(name, 64), count_keras_network(build_backbone(name, 64, None), name)
    for field in ("feature_dim", "trainable", "parameters", "layers", "multiply_adds", "normalized_elements"):
        assert getattr(found, field) == getattr(ours, field), field
    assert 0.9 < found.kept_elements / ours.kept_elements < 1.1


def test_a_plan_counts_networks_of_keras():
    # MobileNetV3-Small at 224 px without its classifier, as published: 0.94 M parameters, 55 M multiply-adds.
    cost = settings.count_backbone(configured(SMALL, image_size_px=224))
    assert (cost.name, cost.feature_dim) == ("MobileNetV3Small", 576)
    assert round(cost.parameters / 1e6, 2) == 0.94 and round(cost.multiply_adds / 1e6) == 55


@needs_hub
@pytest.mark.slow
def test_the_image_tower_of_a_network_of_images_and_texts(tmp_path):
    import keras_hub

    keras.utils.set_random_seed(0)
    sizes = {"hidden_dim": 8, "num_layers": 1, "num_heads": 2, "intermediate_dim": 16}
    given = keras_hub.models.CLIPBackbone(
        keras_hub.models.CLIPVisionEncoder(patch_size=8, image_shape=(32, 32, 3), **sizes, name="vision"),
        keras_hub.models.CLIPTextEncoder(
            vocabulary_size=20, embedding_dim=8, max_sequence_length=6, **sizes, name="text"
        ),
        projection_dim=5,
    )  # fmt: skip
    given.save_to_preset(tmp_path)
    model = build_backbone(f"keras_hub:{tmp_path}", 32, preprocessing="minus_one_to_one")
    assert model.output_shape == (None, 5)
    np.testing.assert_allclose(
        model(IMAGES), given.get_vision_embeddings(IMAGES / 127.5 - 1), rtol=1e-4, atol=1e-5
    )


def test_a_network_that_cannot_be_read_back_is_not_trained():
    image = keras.Input((32, 32, 3))
    model = keras.Model(image, Unreadable()(keras.layers.GlobalAveragePooling2D()(image)))
    with pytest.raises(UsageError, match=r"read back from a file; mine .*'num_patches': 4.*on its features"):
        check_rereadable(model, "mine")
    check_rereadable(build_backbone("efficientnet_lite0", 32, None), "lite0")


@needs_hub
def test_multiply_adds_of_attention(tmp_path):
    import keras_hub

    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
    keras_hub.models.ViTBackbone(image_shape=(32, 32, 3), patch_size=8, **sizes).save_to_preset(tmp_path)
    cost = count_keras_network(build_backbone(f"keras_hub:{tmp_path}", 32), "vit")
    tokens = 17  # of the class, and of 16 patches
    # A block: queries, keys, values and their projection 8 x 8 each, the two dense layers 8 x 16 each.
    assert cost.multiply_adds == tokens * 8 * 8 * 3 * 8 + tokens * 2 * (4 * 8 * 8 + 2 * 8 * 16)
