import keras
import numpy as np
import pytest

from urnet_tf.models.classifier import backbone_of, build_classifier, build_image_classifier, compose
from urnet_tf.models.urnet import bag_branch, build_image_urnet, build_urnet, instance_branch, saliency_model


def tiny_backbone():
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="conv")(image)
    return keras.Model(image, keras.layers.GlobalAveragePooling2D(dtype="float32")(x), name="tiny")


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_urnet_equals_numpy():
    model = build_urnet(8, 5, 3, attention_dim=2, seed=1)
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.dtype == "float32":
            variable.assign(rng.normal(size=variable.shape))
    features = rng.normal(size=(4, 3, 8)).astype("float32")

    def dense(name, x):
        kernel, *bias = model.get_layer(name).get_weights()
        return x @ kernel + (bias[0] if bias else 0)

    attention = softmax(dense("attention_score", np.tanh(dense("attention_hidden", features)))[..., 0])
    bag = np.einsum("bn,bnd->bd", attention, features)
    outputs = model(features)
    np.testing.assert_allclose(outputs["instance"], dense("instance_logits", features), atol=1e-5)
    np.testing.assert_allclose(outputs["bag"], dense("bag_logits", bag), atol=1e-5)
    np.testing.assert_allclose(saliency_model(model)(features), attention, atol=1e-6)
    np.testing.assert_allclose(
        bag_branch(model)(features[:, 0]), dense("bag_logits", features[:, 0]), atol=1e-5
    )


def test_bag_of_one_has_the_features_as_bag_feature():
    model = build_urnet(8, 5, 1)
    features = np.random.default_rng(0).normal(size=(4, 1, 8)).astype("float32")
    np.testing.assert_allclose(model(features)["bag"], bag_branch(model)(features[:, 0]), atol=1e-6)


@pytest.mark.parametrize("images", [False, True])
def test_save_load_and_branches(images, tmp_path):
    model = build_image_urnet(tiny_backbone(), 5, 3, seed=2) if images else build_urnet(8, 5, 3, seed=2)
    shape = (2, 3, 8, 8, 3) if images else (2, 3, 8)
    x = np.random.default_rng(0).uniform(0, 255, shape).astype("float32")
    model.save(tmp_path / "urnet.keras")
    loaded = keras.models.load_model(tmp_path / "urnet.keras")
    outputs, again = model(x), loaded(x)
    assert outputs["instance"].shape == (2, 3, 5) and outputs["bag"].shape == (2, 5)
    np.testing.assert_array_equal(outputs["bag"], again["bag"])
    branch = instance_branch(loaded)
    branch.save(tmp_path / "instance.keras")
    branch = keras.models.load_model(tmp_path / "instance.keras")
    single = branch(x.reshape(6, *shape[2:]))
    np.testing.assert_allclose(single, np.reshape(outputs["instance"], (6, 5)), atol=1e-5)
    if images:
        assert backbone_of(branch).name == "tiny"


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_logits_are_float32_in_mixed_precision(precision):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        model = build_image_urnet(tiny_backbone(), 5, 2)
        classifier = build_image_classifier(tiny_backbone(), 5)
    finally:
        keras.config.set_dtype_policy(before)
    outputs = model(np.zeros((1, 2, 8, 8, 3), "float32"))
    assert outputs["instance"].dtype == outputs["bag"].dtype == "float32"
    assert classifier.output.dtype == "float32"
    assert classifier.get_layer("tiny").get_layer("conv").compute_dtype == precision[6:]


def test_compose_shares_weights():
    backbone, head = tiny_backbone(), build_classifier(4, 5, seed=3)
    model = compose(backbone, head)
    image = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(model(image), head(backbone(image)), atol=1e-5)
    assert backbone_of(model) is backbone


def test_seeds_decide_initial_weights():
    first, same, other = (build_urnet(8, 5, 3, seed=s).get_weights()[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_layer_names_can_be_exported():
    for layer in build_image_urnet(tiny_backbone(), 5, 2).layers:
        assert layer.name.isascii() and " " not in layer.name and not layer.name.startswith("_")
