"""Runs in an interpreter with MediaPipe or the TFLite Task Library: what it hands to a model.

python task_library_reader.py LIBRARY probe.tflite images.npz lines.py answers.npz

The model gives its pixels as classes, divided by 255. Writes for each image uint8 [h, w, 3] `name`
float32 [S * S * 3] of the whole picture, and `name_region` of what the model card's lines show, which make
`result` of `classifier` and `pixels`.
"""

import sys

import numpy as np

library, model, images, lines, answers = sys.argv[1:]
if library == "mediapipe":
    import mediapipe
    from mediapipe.tasks import python as tasks

    options = tasks.vision.ImageClassifierOptions(tasks.BaseOptions(model_asset_path=model), max_results=-1)
    classifier = tasks.vision.ImageClassifier.create_from_options(options)
else:
    from tflite_support.task import core, processor, vision

    settings = processor.ClassificationOptions(max_results=-1)
    classifier = vision.ImageClassifier.create_from_options(
        vision.ImageClassifierOptions(core.BaseOptions(file_name=model), settings)
    )


def to_pixels(result):
    categories = result.classifications[0].categories
    found = np.zeros(len(categories), np.float32)
    for category in categories:
        found[category.index] = 255 * category.score
    return found


given, found = np.load(images), {}
with open(lines, encoding="utf-8") as file:
    region = compile(file.read(), lines, "exec")
for name in given.files:
    pixels = given[name]
    if library == "mediapipe":
        whole = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
    else:
        whole = vision.TensorImage.create_from_array(pixels)
    found[name] = to_pixels(classifier.classify(whole))
    names = {"classifier": classifier, "pixels": pixels}
    exec(region, names)
    found[f"{name}_region"] = to_pixels(names["result"])
np.savez(answers, **found)
