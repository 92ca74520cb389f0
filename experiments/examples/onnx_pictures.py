"""Classifies pictures with an ONNX file that prepares them itself; it needs onnxruntime, NumPy and Pillow.

python experiments/examples/onnx_pictures.py urnet_with_preparation.onnx PICTURE ...
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

if __name__ == "__main__":
    session = onnxruntime.InferenceSession(sys.argv[1])
    labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
    for path in sys.argv[2:]:
        pixels = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        (probabilities,) = session.run(None, {"image": pixels[None]})
        best = probabilities[0].argmax()
        print(path, labels[best], f"{probabilities[0, best]:.3f}", sep="\t")
