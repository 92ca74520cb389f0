"""Our own server with plain `keras.Model.predict` on a Keras file, for bench_serving.py to compare with.

    python keras_predict_server.py SETTINGS.json

The settings are those of `urnet_tf.serving.own_server`.
"""

import json
import pathlib
import sys

import urnet_tf  # noqa: F401  before TensorFlow: switches oneDNN on as the program does
from urnet_tf.serving import own_server, predictor


def open_network(file):
    """In place of the compiled function of `predictor`: images → probabilities and None."""
    import numpy as np

    from urnet_tf.training.saving import load_model

    model = load_model(file.path)

    def network(images):
        logits = model.predict(images, verbose=0)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True), None

    return network, False


if __name__ == "__main__":
    predictor._keras_network = open_network
    sys.exit(own_server.main(json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))))
