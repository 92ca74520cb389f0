"""Runs in an interpreter with mediapipe: what its task library answers for a `.tflite` classifier.

python mediapipe_reader.py model.tflite images.npy answers.json; images uint8 [n, H, W, 3], RGB.
Writes for each image its classes as [label, index, score], best first.
"""

import json
import sys

import mediapipe as mp
import numpy as np
from mediapipe.tasks import python as tasks

model, images, answers = sys.argv[1:]
options = tasks.vision.ImageClassifierOptions(tasks.BaseOptions(model_asset_path=model), max_results=-1)
with tasks.vision.ImageClassifier.create_from_options(options) as classifier:
    results = [
        classifier.classify(mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(image)))
        for image in np.load(images)
    ]
with open(answers, "w", encoding="utf-8") as file:
    rows = [
        [[c.category_name, c.index, c.score] for c in result.classifications[0].categories]
        for result in results
    ]
    json.dump(rows, file)
