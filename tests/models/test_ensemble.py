"""One model of several: its probabilities are the mean of theirs, also as a file that Keras alone reads."""

import keras
import numpy as np
import pytest

from urnet_tf.models.classifier import build_classifier, build_image_classifier
from urnet_tf.models.ensemble import build_ensemble
from urnet_tf.training.saving import save_model

SIZE, D, C = 8, 5, 4


def backbone(seed):
    image = keras.Input((SIZE, SIZE, 3), name="image")
    start = keras.initializers.HeNormal(seed=seed)
    x = keras.layers.Conv2D(D, 3, kernel_initializer=start, name="conv")(image / 255)
    return keras.Model(image, keras.layers.GlobalAveragePooling2D(name="features")(x), name="tiny")


def with_weights(model, seed):
    rng = np.random.default_rng(seed)
    dense = model.layers[-1]
    dense.set_weights([rng.normal(0, 4, weights.shape) for weights in dense.get_weights()])
    return model


IMAGES = np.random.default_rng(0).uniform(0, 255, (6, SIZE, SIZE, 3)).astype(np.float32)


def mean_of(models, inputs):
    return np.mean([keras.ops.softmax(model(inputs)).numpy() for model in models], axis=0)


@pytest.mark.parametrize("shared", [True, False])
def test_probabilities_are_the_mean_of_the_members(shared, tmp_path):
    if shared:
        network = backbone(0)
        heads = [with_weights(build_classifier(D, C), seed) for seed in range(3)]
        model = build_ensemble([(network, head) for head in heads])
        expected = mean_of(heads, network(IMAGES))
        np.testing.assert_allclose(model(IMAGES)["features"], network(IMAGES), rtol=1e-6)
        assert sum(isinstance(layer, keras.Model) for layer in model.layers) == 4, (
            "the backbone is there once"
        )
    else:
        networks = [with_weights(build_image_classifier(backbone(seed), C), seed) for seed in range(3)]
        model = build_ensemble([(None, network) for network in networks])
        expected = mean_of(networks, IMAGES)
        assert set(model.output) == {"logits"}, "there is no one vector of features"
    probs = keras.ops.softmax(model(IMAGES)["logits"]).numpy()
    np.testing.assert_allclose(probs, expected, atol=1e-6)
    assert np.abs(expected[1:] - expected[:-1]).max() > 0.01
    path = tmp_path / "ensemble.keras"
    save_model(keras.Model(model.input, model.output["logits"]), path)
    np.testing.assert_allclose(keras.ops.softmax(keras.saving.load_model(path)(IMAGES)), expected, atol=1e-6)


def test_a_class_that_no_member_believes_in_has_a_finite_logit():
    sure = build_classifier(D, C)
    sure.set_weights([np.zeros((D, C)), np.array([0.0, 200.0, 0.0, 0.0])])
    model = build_ensemble([(backbone(0), sure)] * 2)
    logits = model(IMAGES)["logits"].numpy()
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(keras.ops.softmax(logits).numpy()[0], [0, 1, 0, 0], atol=1e-12)
