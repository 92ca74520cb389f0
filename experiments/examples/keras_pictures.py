"""Classifies pictures with a Keras file that prepares them itself.

python experiments/examples/keras_pictures.py urnet_with_preparation.keras PICTURE ...
"""

import pathlib
import sys

import urnet_tf  # isort: skip  (before keras: switches on TensorFlow's fast kernels)
import keras
import numpy as np
from PIL import Image, ImageOps

if __name__ == "__main__":
    model = urnet_tf.load_model(sys.argv[1])
    labels = pathlib.Path(sys.argv[1]).with_name("labels.txt").read_text(encoding="utf-8").splitlines()
    for path in sys.argv[2:]:
        pixels = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        (probabilities,) = keras.ops.softmax(model(pixels[None], training=False))
        best = int(keras.ops.argmax(probabilities))
        print(path, labels[best], f"{float(probabilities[best]):.3f}", sep="\t")
