"""Text towers beside image towers: tiny random ones, compared with keras-hub's own calls."""

import importlib.util
import json

import numpy as np
import pytest
from urnet_fixtures.towers import SIDE, needs_hub, save_clip, save_siglip

from urnet_tf.checkpoints.text_towers import (
    check_text_tower,
    has_text_tower,
    image_size_of,
    measure_text_tower,
)
from urnet_tf.errors import UsageError
from urnet_tf.models.backbone import build_backbone
from urnet_tf.models.text_tower import open_text_tower
from urnet_tf.reweighting.zero_shot import ImageText

IMAGES = np.random.default_rng(0).uniform(0, 255, (5, SIDE, SIDE, 3)).astype("float32")
TEXTS = ["a photo of a lion", "School Bus, yellow", "pizza", "über-long " * 40]
SAVERS = {"clip": save_clip, "siglip": save_siglip}


def logits_of_hub(network, prepare):
    """Those that the network itself gives for its own preprocessing: [images, texts]."""
    given = prepare({"images": IMAGES, "prompts": TEXTS[:1] * len(IMAGES)})
    tokens = prepare({"images": IMAGES[: len(TEXTS)], "prompts": TEXTS})
    return np.asarray(network({"images": given["images"], "token_ids": tokens["token_ids"]})["vision_logits"])


@needs_hub
@pytest.mark.parametrize("kind", SAVERS)
@pytest.mark.parametrize("described", [True, False], ids=["preprocessor", "tokenizer alone"])
def test_features_and_vectors_give_the_logits_of_the_network(tmp_path, kind, described):
    network, prepare = SAVERS[kind](tmp_path)
    if not described:  # as older presets are: how texts are prepared is the default, but for their length
        (tmp_path / "preprocessor.json").unlink()
    expected = logits_of_hub(network, prepare)
    name = f"keras_hub:{tmp_path}"
    tower, features = open_text_tower(name), build_backbone(name, SIDE)(IMAGES)
    vectors = tower.encode(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    bias = -5.0 if kind == "siglip" else 0.0
    found = ImageText(np.asarray(features), vectors, tower.logit_scale)
    np.testing.assert_allclose(found.logits(0, 5) + bias, expected, rtol=1e-4, atol=1e-4)
    assert np.ptp(expected, axis=1).min() > 0.01 and tower.image_size_px == SIDE
    np.testing.assert_allclose(tower.logit_scale, np.exp(2.0 if kind == "siglip" else 3.0), rtol=1e-6)
    probs = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    labels = np.array([0, 1, 2, 3, 0])
    np.testing.assert_allclose(
        found.compare(labels, labels[:, None]).given_prob, probs[np.arange(5), labels], rtol=1e-3
    )


@needs_hub
def test_texts_are_read_alike_however_many_there_are(tmp_path):
    save_clip(tmp_path)
    encode = open_text_tower(f"keras_hub:{tmp_path}").encode
    texts = [f"photo {number}" for number in range(130)]
    vectors = encode(texts)
    assert vectors.shape == (130, 8) and vectors.dtype == np.float32
    for place in (0, 63, 64, 129):
        np.testing.assert_allclose(encode([texts[place]])[0], vectors[place], atol=1e-5)
    assert encode([]).shape == (0, 8)


@needs_hub
@pytest.mark.parametrize("kind", SAVERS)
def test_a_preset_says_what_its_text_tower_costs(tmp_path, kind):
    network, _ = SAVERS[kind](tmp_path)
    name = f"keras_hub:{tmp_path}"
    sizes = measure_text_tower(name)
    matrices = sum(
        int(np.prod(weight.shape)) for block in network.text_encoder.encoder_layers
        for weight in block.weights if "kernel" in weight.path
    )  # fmt: skip
    assert sizes.parameters == matrices
    assert sizes.multiply_adds == matrices * network.text_encoder.max_sequence_length
    assert has_text_tower(name) and image_size_of(name) == SIDE


def test_which_presets_have_text_towers(tmp_path):
    for name in (
        "keras_hub:siglip2_base_patch16_224",
        "keras_hub:kaggle://keras/clip/keras/clip_vit_base_patch16",
    ):
        assert has_text_tower(name)
    for name in ("keras_hub:dinov2_base", "efficientnet_lite0", "mine.keras", f"keras_hub:{tmp_path}"):
        assert not has_text_tower(name)
    for text in ("[]", "no JSON", '{"class_name": "ResNetBackbone"}'):
        (tmp_path / "config.json").write_text(text)
        assert not has_text_tower(f"keras_hub:{tmp_path}")
    assert measure_text_tower("keras_hub:clip_vit_base_patch32").width == 512
    (tmp_path / "config.json").write_text(json.dumps({"class_name": "CLIPBackbone", "config": {}}))
    assert has_text_tower(f"keras_hub:{tmp_path}") and image_size_of(f"keras_hub:{tmp_path}") is None
    with pytest.raises(
        UsageError, match=r"^Expected a tokenizer \(tokenizer\.json\) in the preset .*\(`name`\), which"
    ):
        check_text_tower(f"keras_hub:{tmp_path}")
    with pytest.raises(UsageError, match=r"preset of CLIP or SigLIP as `name`; received"):
        check_text_tower("keras_hub:resnet_50")


@needs_hub
def test_presets_that_cannot_read_texts(tmp_path):
    save_clip(tmp_path / "silent", with_tokenizer=False)
    with pytest.raises(UsageError, match="Cannot open the tokenizer of the preset"):
        open_text_tower(f"keras_hub:{tmp_path / 'silent'}")
    with pytest.raises(UsageError, match="Cannot open the preset 'no_such_preset'"):
        open_text_tower("keras_hub:no_such_preset")
    import keras_hub

    keras_hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[3], stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1], stackwise_num_strides=[1, 2], block_type="basic_block",
        image_shape=(None, None, 3),
    ).save_to_preset(tmp_path / "blind")  # fmt: skip
    with pytest.raises(UsageError, match=r"Expected a preset of CLIP or SigLIP as `name`; .* is of ResNet"):
        open_text_tower(f"keras_hub:{tmp_path / 'blind'}")


def test_keras_hub_is_asked_for_where_it_is_missing(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda n, *a: None if n == "keras_hub" else find_spec(n, *a)
    )
    with pytest.raises(UsageError, match=r"pip install 'urnet_tf\[hub\]'"):
        open_text_tower("keras_hub:clip_vit_base_patch32")
