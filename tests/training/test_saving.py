"""Files of models: heads and common networks need nothing of this package to be read."""

import json
import subprocess
import sys
import textwrap

import keras
import numpy as np

from urnet_tf.export.rewriting import with_keras_normalization
from urnet_tf.models.batch_normalization import FusedBatchNormalization
from urnet_tf.models.classifier import build_classifier, build_image_classifier
from urnet_tf.models.urnet import build_image_urnet, build_urnet, instance_branch
from urnet_tf.training.saving import load_model, save_model

READ = """
    import json, os, sys
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras, numpy as np
    outputs = {}
    for path in sys.argv[1:]:
        model = keras.saving.load_model(path)
        x = np.linspace(-1, 1, int(np.prod(model.input_shape[1:])), dtype="float32")
        output = keras.tree.flatten(model(x.reshape(1, *model.input_shape[1:])))[0]
        outputs[path] = np.asarray(output).ravel().tolist()
    assert not [name for name in sys.modules if name.startswith("urnet_tf")]
    print(json.dumps(outputs))
"""


def small_backbone():
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(image)
    x = FusedBatchNormalization(name="bn")(x)
    backbone = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x), name="body")
    for variable in backbone.trainable_variables:
        variable.assign(keras.random.uniform(variable.shape, 0.5, 1.5, seed=1))
    return backbone


def output_of(model):
    x = np.linspace(-1, 1, int(np.prod(model.input_shape[1:])), dtype="float32")
    output = keras.tree.flatten(model(x.reshape(1, *model.input_shape[1:])))[0]
    return np.asarray(output).ravel()


def filled(model):
    for number, variable in enumerate(model.trainable_variables):
        variable.assign(keras.random.normal(variable.shape, seed=number))
    return model


def test_plain_models_are_read_by_keras_alone(tmp_path):
    models = {
        "classifier": filled(build_classifier(6, 3)),
        "urnet": filled(build_urnet(6, 3, 2)),
        "instance": instance_branch(filled(build_urnet(6, 3, 2))),
        "exported": with_keras_normalization(filled(build_image_classifier(small_backbone(), 3))),
    }
    paths = {str(tmp_path / f"{name}.keras"): model for name, model in models.items()}
    for path, model in paths.items():
        save_model(model, path)
    script = [sys.executable, "-c", textwrap.dedent(READ), *paths]
    result = subprocess.run(script, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    outputs = json.loads(result.stdout.splitlines()[-1])
    for path, model in paths.items():
        np.testing.assert_allclose(outputs[path], output_of(model), rtol=1e-5, atol=1e-6, err_msg=path)


def test_normalization_of_keras_gives_the_same_and_the_model_stays():
    model = filled(build_image_classifier(small_backbone(), 3))
    plain = with_keras_normalization(model)
    assert type(plain.get_layer("body").get_layer("bn")) is keras.layers.BatchNormalization
    assert isinstance(model.get_layer("body").get_layer("bn"), FusedBatchNormalization)
    np.testing.assert_allclose(output_of(plain), output_of(model), rtol=1e-5, atol=1e-6)
    assert with_keras_normalization(plain) is plain


def test_own_layers_are_known_to_our_reader(tmp_path):
    model = filled(build_image_urnet(small_backbone(), 3, 2))
    save_model(model, tmp_path / "a.keras")
    np.testing.assert_array_equal(output_of(load_model(tmp_path / "a.keras")), output_of(model))
