"""Weights a plain `keras.Model.fit` on the images of `image_dataset_from_directory`.

    python experiments/examples/image_directory.py DIRECTORY [SIZE_PX]

The directory holds a folder a class, named as the class. Any other model takes the weights as this one does.
"""

import sys

import urnet_tf  # isort: skip  (before keras: switches on TensorFlow's fast kernels)
import keras
import numpy as np
import tensorflow as tf


def weigh(dataset, backbone):
    """The images' weights float32 [N], in the order of an unshuffled dataset of (images, labels)."""
    labels = np.concatenate([y for _, y in dataset])
    features = backbone.predict(dataset.map(lambda x, y: x), verbose=0)
    table = urnet_tf.compute_weights(labels, features=features, class_names=dataset.class_names)
    doubted = table.append_column("path", [dataset.file_paths]).sort_by("sample_weight").slice(0, 5)
    print("Least of all counts", *doubted["path"].to_pylist(), sep="\n  ")
    return table["sample_weight"].to_numpy()


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 224
    dataset = keras.utils.image_dataset_from_directory(
        sys.argv[1], image_size=(size, size), crop_to_aspect_ratio=True, shuffle=False
    )
    backbone = urnet_tf.build_backbone("efficientnet_lite0", size)
    backbone.trainable = False
    weights = weigh(dataset, backbone)
    weighted = tf.data.Dataset.zip(dataset.unbatch(), tf.data.Dataset.from_tensor_slices(weights))
    weighted = weighted.map(lambda xy, w: (*xy, w)).apply(
        tf.data.experimental.assert_cardinality(len(weights))
    )
    model = keras.Sequential([backbone, keras.layers.Dense(len(dataset.class_names), activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    history = model.fit(weighted.shuffle(1000, seed=0).batch(32), epochs=5, shuffle=False, verbose=0)
    print(f"weighted accuracy on the given labels: {history.history['accuracy'][-1]:.3f}")
