"""Images per second of feature extraction: the Keras graph beside TFLite with XNNPACK, in one run.

python experiments/benchmarks/bench_features.py [--image_size_px 128] [--images 512]
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
from absl import app, flags

from urnet_tf.evaluation.inference import build_function, build_tflite_function
from urnet_tf.models.backbone import build_backbone

_SIZE = flags.DEFINE_integer("image_size_px", 128, "height and width")
_IMAGES = flags.DEFINE_integer("images", 512, "images a measurement")
_BATCH = flags.DEFINE_integer("batch", 64, "images a batch")


def main(_):
    backbone = build_backbone("efficientnet_lite0", _SIZE.value)
    shape = (_BATCH.value, _SIZE.value, _SIZE.value, 3)
    images = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    rates, features = {}, {}
    for name, build in (("keras", build_function), ("tflite", build_tflite_function)):
        start = time.perf_counter()
        function = build(backbone, _BATCH.value)
        features[name] = function(images)
        set_up = time.perf_counter() - start
        best = np.inf
        for _ in range(3):  # the machine may be busy: the best of three
            start = time.perf_counter()
            for _ in range(max(1, _IMAGES.value // _BATCH.value)):
                function(images)
            best = min(best, time.perf_counter() - start)
        rates[name] = max(1, _IMAGES.value // _BATCH.value) * _BATCH.value / best
        print(f"{name:<8}{rates[name]:>8.0f} images/s, set-up {set_up:.1f} s")
    difference = np.abs(features["keras"] - features["tflite"]).max()
    print(f"tflite / keras {rates['tflite'] / rates['keras']:.2f}, largest difference {difference:.1e}")


if __name__ == "__main__":
    app.run(main)
