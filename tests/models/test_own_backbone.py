"""Networks of one's own as backbones: small random ones, saved and read; nothing is downloaded."""

import dataclasses
import importlib.util

import keras
import numpy as np
import pytest
from keras import layers

from urnet_tf import config as config_lib
from urnet_tf.errors import UsageError
from urnet_tf.evaluation.inference import build_tflite_function
from urnet_tf.flow import plan_text
from urnet_tf.flow.plan import say_unknown
from urnet_tf.models.backbone import build_backbone
from urnet_tf.models.classifier import backbone_of, build_image_classifier, compose
from urnet_tf.stages import features as features_stage, settings
from urnet_tf.stages.stage import Estimate
from urnet_tf.training.saving import load_model, save_model

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype("float32")


needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("keras_hub") is None, reason="keras-hub is not installed"
)


def network(side=16, ending="features", name="mine"):
    """A convolution of 4 filters, and what comes behind."""
    image = keras.Input((side, side, 3))
    maps = layers.Conv2D(4, 3, strides=4, kernel_initializer="he_normal", name="conv")(image)
    pooled = layers.GlobalAveragePooling2D(name="pooled")(maps)
    if ending == "maps":
        return keras.Model(image, maps, name=name)
    if ending == "tokens":
        return keras.Model(image, layers.Reshape((9, 4))(layers.Resizing(3, 3)(maps)), name=name)
    if ending == "softmax":
        return keras.Model(
            image, layers.Dense(7, "softmax", name="top")(layers.Dropout(0.5)(pooled)), name=name
        )
    if ending == "softmax_layer":
        return keras.Model(image, layers.Softmax()(layers.Dense(7, name="top")(pooled)), name=name)
    if ending == "logits":
        return keras.Model(image, layers.Dense(7, name="class_logits")(pooled), name=name)
    if ending == "projection":
        return keras.Model(image, layers.Dense(5, name="projection")(pooled), name=name)
    return keras.Model(image, pooled, name=name)


def saved(tmp_path, model):
    model.save(tmp_path / "mine.keras")
    return str(tmp_path / "mine.keras")


def pooled_of(model, images=IMAGES):
    maps = keras.Model(model.inputs[0], model.get_layer("conv").output)(images)
    return np.asarray(maps).mean(axis=(1, 2))


@pytest.mark.parametrize("ending", ["features", "maps", "softmax", "softmax_layer", "logits"])
def test_features_are_what_comes_before_the_classes(ending, tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    given = network(ending=ending)
    model = build_backbone(saved(tmp_path, given), 16)
    assert model.output_shape == (None, 4) and model.input_shape == (None, 16, 16, 3)
    np.testing.assert_allclose(model(IMAGES), pooled_of(given), rtol=1e-5, atol=1e-4)
    notes = {"features": "its output;", "maps": "its output, averaged over places;"}
    assert notes.get(ending, "what enters its last dense layer, ") in caplog.text
    assert "images are seen as they are, 0..255" in caplog.text


def test_a_projection_is_no_classifier_and_another_layer_can_be_asked_for(tmp_path):
    given = network(ending="projection")
    path = saved(tmp_path, given)
    assert build_backbone(path, 16).output_shape == (None, 5)
    model = build_backbone(path, 16, feature_layer="pooled")
    np.testing.assert_allclose(model(IMAGES), pooled_of(given), rtol=1e-5, atol=1e-4)
    with pytest.raises(UsageError, match=r"received 'pool'\. The last ones are .*pooled, projection\."):
        build_backbone(path, 16, feature_layer="pool")


def test_tokens_are_averaged(tmp_path):
    given = network(ending="tokens")
    expected = np.asarray(given(IMAGES)).mean(axis=1)
    np.testing.assert_allclose(
        build_backbone(saved(tmp_path, given), 16)(IMAGES), expected, rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize(
    ("preprocessing", "change"),
    [
        ("none", lambda x: x),
        ("zero_to_one", lambda x: x / 255),
        ("minus_one_to_one", lambda x: x / 127.5 - 1),
        ("imagenet", lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        ("caffe", lambda x: x[..., ::-1] - [103.939, 116.779, 123.68]),
    ],
)
def test_preprocessing(preprocessing, change, tmp_path):
    given = network()
    model = build_backbone(saved(tmp_path, given), 16, preprocessing=preprocessing)
    np.testing.assert_allclose(model(IMAGES), given(change(IMAGES).astype("float32")), rtol=1e-4, atol=1e-3)
    model.save(tmp_path / "again.keras")
    again = keras.saving.load_model(tmp_path / "again.keras")
    np.testing.assert_allclose(again(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-4)


def test_it_becomes_a_part_of_classifiers_and_of_files_for_phones(tmp_path):
    backbone = build_backbone(saved(tmp_path, network(ending="softmax")), 16, preprocessing="caffe")
    save_model(build_image_classifier(backbone, 3), tmp_path / "whole.keras")
    again = backbone_of(load_model(tmp_path / "whole.keras"))
    np.testing.assert_allclose(again(IMAGES), backbone(IMAGES), rtol=1e-5, atol=1e-4)
    by_tflite = build_tflite_function(backbone, 2)
    np.testing.assert_allclose(by_tflite(IMAGES), backbone(IMAGES), rtol=1e-4, atol=1e-3)


def test_a_network_of_any_size_and_of_one_size(tmp_path):
    assert build_backbone(saved(tmp_path, network(None)), 24).input_shape == (None, 24, 24, 3)
    with pytest.raises(UsageError, match=r"`image_size_px=16`, since .* takes images \[16, 16, 3\] only.*24"):
        build_backbone(saved(tmp_path, network()), 24)


def test_our_own_exports_serve_as_backbones(tmp_path):
    given = network()
    features = keras.Input((4,))
    head = keras.Model(features, layers.Dense(3)(features))
    model = build_backbone(saved(tmp_path, compose(given, head, with_features=True)), 16)
    np.testing.assert_allclose(model(IMAGES), given(IMAGES), rtol=1e-5, atol=1e-4)


def test_files_that_are_no_such_networks(tmp_path):
    with pytest.raises(UsageError, match=r"Cannot read the network .*no such file"):
        build_backbone(str(tmp_path / "none.keras"), 16)
    (tmp_path / "text.keras").write_text("hello")
    with pytest.raises(UsageError, match=r"Expected a network as model\.save"):
        build_backbone(str(tmp_path / "text.keras"), 16)
    flat = keras.Sequential([keras.Input((12,)), layers.Dense(2)])
    with pytest.raises(UsageError, match=r"one input, images .*has \(None, 12\)"):
        build_backbone(saved(tmp_path, flat), 16)
    image = keras.Input((16, 16, 3))
    two = keras.Model(image, [layers.Flatten()(image), layers.GlobalMaxPooling2D()(image)])
    with pytest.raises(UsageError, match=r"one output.* has 2\. Set `feature_layer`"):
        build_backbone(saved(tmp_path, two), 16)
    with pytest.raises(UsageError, match="Expected `preprocessing` of auto, none"):
        build_backbone(saved(tmp_path, network()), 16, preprocessing="mean")


def test_keras_hub_is_asked_for_where_it_is_missing(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda n, *a: None if n == "keras_hub" else find_spec(n, *a)
    )
    with pytest.raises(UsageError, match=r"keras_hub:resnet_50 needs .*pip install 'urnet_tf\[hub\]'"):
        build_backbone("keras_hub:resnet_50", 32)


@needs_hub
def test_a_preset_of_keras_hub(tmp_path):
    import keras_hub

    given = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[7], stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1], stackwise_num_strides=[1, 2], block_type="basic_block",
        image_shape=(None, None, 3),
    )  # fmt: skip
    given.save_to_preset(tmp_path)
    plain = build_backbone(f"keras_hub:{tmp_path}", 32)  # without a converter
    images = np.resize(IMAGES, (2, 32, 32, 3))
    np.testing.assert_allclose(plain(images), np.mean(given(images), axis=(1, 2)), rtol=1e-3, atol=1e-3)
    scale, offset = [1 / 50, 1 / 60, 1 / 70], [-2.0, -1.9, -1.8]
    keras_hub.layers.ResNetImageConverter(image_size=(32, 32), scale=scale, offset=offset).save_to_preset(
        tmp_path
    )
    model = build_backbone(f"keras_hub:{tmp_path}", 32)
    expected = np.mean(given(images * scale + offset), axis=(1, 2))
    np.testing.assert_allclose(model(images), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(UsageError, match="Cannot open the preset 'no_such_preset'"):
        build_backbone("keras_hub:no_such_preset", 32)


# --------------------------------------------------------------------------------- settings and plans


def configured(path, **model):
    return config_lib.from_dict({"ingest": {"path": "."}, "model": {"backbone": path, **model}})


def test_settings_of_a_network_of_ones_own(tmp_path):
    from urnet_tf.stages.effects import ignored_settings

    with pytest.raises(
        UsageError, match=r"FILE\.keras, .* or keras_applications:NAME for model.backbone; received 'vgg'"
    ):
        configured("vgg")
    with pytest.raises(UsageError, match=r"model\.backbone"):
        features_stage.inputs(configured(str(tmp_path / "none.keras")))
    path = saved(tmp_path, network())
    before = features_stage.inputs(configured(path))
    assert before == features_stage.inputs(configured(path, weights=None))
    saved(tmp_path, network(ending="maps"))
    assert features_stage.inputs(configured(path)) != before
    assert set(ignored_settings(configured(path, weights=None))) == {"model.weights"}
    assert set(ignored_settings(configured("resnext", preprocessing="caffe"))) == {"model.preprocessing"}
    with pytest.raises(UsageError, match=r"^Expected model.image_size_px=16, "):
        settings.open_backbone(configured(path, image_size_px=24))


@needs_hub
def test_a_plan_says_what_it_does_not_know():
    config, known = configured("keras_hub:mine"), Estimate(9, 5.0, 7, 8)
    for stage in ("features", "export"):
        assert say_unknown(config, stage, known) == Estimate(
            9, None, 7, None, "time and memory of keras_hub:mine are not known"
        )
    assert (
        say_unknown(config, "baseline", known)
        == known
        == say_unknown(configured("resnext"), "features", known)
    )
    whole = configured("keras_hub:mine", mode="finetune")
    assert say_unknown(whole, "baseline", known) == known, "heads on features judge the labels"
    assert say_unknown(whole, "train", known).seconds is None
    whole = dataclasses.replace(whole, baseline=dataclasses.replace(whole.baseline, networks="full"))
    assert say_unknown(whole, "baseline", known).seconds is None
    assert "keras_hub:mine at 224 px, frozen" in plan_text._format_network(config)
    assert "its cost is not known" in plan_text._format_network(config)
