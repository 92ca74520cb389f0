"""Weights and soft targets for features and noisy labels of your own, in a plain Keras fit.

    python experiments/examples/own_arrays.py DATA.npz

The file holds features [N, D], labels [N], test_features and test_labels.
"""

import sys

import urnet_tf  # isort: skip  (before keras: switches on TensorFlow's fast kernels)
import keras
import numpy as np

if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    data = np.load(sys.argv[1])
    x, labels = data["features"].astype("float32"), data["labels"]
    table = urnet_tf.compute_weights(labels, features=x)
    weights = table["sample_weight"].to_numpy()
    soft = urnet_tf.pack_targets(
        *(np.array(table[f"target_{part}"].to_pylist()) for part in ("ids", "probs"))
    )
    given = urnet_tf.pack_targets(labels[:, None], np.ones((len(labels), 1)))
    for name, y, w in (("as given", given, None), ("weighted", soft, weights)):
        model = urnet_tf.build_classifier(x.shape[1], int(labels.max()) + 1)
        model.compile("adamw", urnet_tf.SparseSoftCrossEntropy())
        model.fit(x, y, sample_weight=w, batch_size=32, epochs=20, verbose=0)
        predicted = model.predict(data["test_features"], verbose=0).argmax(axis=1)
        print(f"{name}: accuracy {np.mean(predicted == data['test_labels']):.3f}")
