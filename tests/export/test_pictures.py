"""Files that take pictures of any size: the layer inside, both formats, the examples that call them."""

import pathlib
import re
import runpy
import sys

import numpy as np
import pytest

from urnet_tf.export.classifier import export_classifier
from urnet_tf.export.preparation import Preparation
from urnet_tf.serving.predictor import open_classifier

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "examples"
FORMATS = ["keras_with_preparation", "onnx_with_preparation"]


def smooth(height, width, seed=0):
    """uint8 [h, w, 3], of which no filter makes ties."""
    import tensorflow as tf

    coarse = np.random.default_rng(seed).uniform(0, 255, (5, 7, 3))
    return np.asarray(tf.cast(tf.image.resize(coarse, (height, width)), tf.uint8))


@pytest.mark.parametrize(
    ("crop_fraction", "short_side_px"),
    [(0.875, None), (None, 40), (1.0, 40), ("padded", None)],
    ids=["crop", "whole", "square", "padded"],
)
def test_the_layer_does_what_training_does(crop_fraction, short_side_px):
    import tensorflow as tf

    from urnet_tf.images import decode
    from urnet_tf.models.image_preparation import ImagePreparation

    layer = ImagePreparation(16, crop_fraction, short_side_px)
    prepare = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    # Smaller, equal, slightly larger (interpolated), much larger (boxes).
    for shape in ((9, 30), (30, 1), (16, 16), (50, 44), (200, 333)):
        image = tf.constant(smooth(*shape))
        packed = image if short_side_px is None else decode.resize_short_side(image, short_side_px)
        expected = decode.central_view(packed, 16, crop_fraction)
        found = prepare(tf.stack([image, 255 - image]))
        assert found.shape == (2, 16, 16, 3) and found.dtype == tf.float32
        # Where packing rounds to whole numbers, another order of sums may round otherwise.
        difference = np.abs(found[0] - expected)
        assert difference.max() <= 1 and difference.mean() < (1e-4 if short_side_px is None else 0.02), shape


@pytest.fixture(
    scope="module", params=["padded", *(pytest.param(part, marks=pytest.mark.slow) for part in (None, 0.875))]
)
def exported(request, tiny_model, tiny_names, tiny_photos, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    directory = tmp_path_factory.mktemp("pictures")
    preparation = Preparation(32, crop_fraction=request.param, short_side_px=40, max_pixels=100_000)
    metadata = export_classifier(
        tiny_model, tiny_names, directory, "tiny", tiny_photos[:6], preparation=preparation, formats=FORMATS
    )
    return directory / "tiny" / "1", metadata, preparation


def test_both_files_agree_with_keras_and_are_read_by_predict(exported, tiny_model, tiny_photos, tiny_names):
    directory, metadata, preparation = exported
    for kind, entry in metadata["formats"].items():
        assert entry["kept"] and entry["parity"]["max_difference"] < 1e-3, kind
    images = preparation.decode(tiny_photos[:3])[0]
    import tensorflow as tf

    expected = tf.nn.softmax(tiny_model(images, training=False)).numpy()
    for kind in FORMATS:
        classifier = open_classifier(directory / metadata["formats"][kind]["file"])
        good, bad, *rest = classifier.classify([tiny_photos[0], b"no image", *tiny_photos[1:3]], 2)
        assert good.valid and not bad.valid
        for answer, probabilities in zip([good, *rest], expected, strict=True):
            assert answer.classes == tuple(np.argsort(-probabilities)[:2])
            np.testing.assert_allclose(answer.probabilities, np.sort(probabilities)[:-3:-1], atol=1e-3)
            assert answer.labels == tuple(tiny_names[c] for c in answer.classes)


@pytest.mark.parametrize(
    ("kind", "example"), zip(FORMATS, ("keras_pictures.py", "onnx_pictures.py"), strict=True)
)
def test_the_examples_answer_pictures_of_any_size(
    exported, kind, example, tiny_photos, tmp_path, monkeypatch, capsys
):
    directory, metadata, _ = exported
    body = (EXAMPLES / example).read_text().partition("__main__")[2]
    assert len(body.strip().splitlines()) <= 10
    from PIL import Image

    (tmp_path / "a.jpg").write_bytes(tiny_photos[0])
    Image.fromarray(smooth(90, 31)).save(tmp_path / "b.png")
    arguments = [directory / metadata["formats"][kind]["file"], tmp_path / "a.jpg", tmp_path / "b.png"]
    monkeypatch.setattr(sys, "argv", [example, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / example), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    expected = open_classifier(arguments[0]).classify([p.read_bytes() for p in arguments[1:]], 1)
    assert len(lines) == 2
    for line, answer in zip(lines, expected, strict=True):
        assert re.search(r"\t(.+)\t", line)[1] == answer.labels[0]
        assert float(line.rpartition("\t")[2]) == pytest.approx(answer.probabilities[0], abs=1e-3)
