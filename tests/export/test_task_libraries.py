"""Copies of what task libraries do with pictures: by hand, and beside the libraries themselves."""

import os
import pathlib
import subprocess

import numpy as np
import pytest

from urnet_tf.errors import UsageError
from urnet_tf.export import task_libraries
from urnet_tf.export.card_usage import region_lines
from urnet_tf.export.parity import Tolerance, find_library_refusal
from urnet_tf.export.preparation import Preparation
from urnet_tf.export.task_libraries import (
    Region,
    measure_libraries,
    mediapipe_pixels,
    region_of_interest,
    task_library_pixels,
)
from urnet_tf.images.picture import encode_png, read_picture


def gray(rows):
    """uint8 [h, w, 3] of rows of numbers; the channels differ by one."""
    return np.stack([np.array(rows), np.array(rows) + 1, np.array(rows) + 2], axis=-1).astype(np.uint8)


def test_mediapipe_starts_at_the_corner_and_skips():
    ramp = gray([[0, 10, 20, 30]] * 4)
    np.testing.assert_array_equal(mediapipe_pixels(ramp, 2), gray([[0, 20]] * 2))
    np.testing.assert_array_equal(mediapipe_pixels(ramp[:2, :2], 4), gray([[0, 5, 10, 10]] * 4))
    np.testing.assert_array_equal(mediapipe_pixels(ramp.transpose(1, 0, 2), 2), gray([[0, 0], [20, 20]]))
    # The right half, from the place 2 on.
    np.testing.assert_array_equal(mediapipe_pixels(ramp, 2, Region(0.5, 0, 1, 1)), gray([[20, 30]] * 2))


def test_the_task_library_takes_centers():
    ramp = gray([[0, 10, 20, 30]] * 4)
    np.testing.assert_array_equal(task_library_pixels(ramp, 2), gray([[5, 25]] * 2))
    np.testing.assert_array_equal(task_library_pixels(ramp, 4), ramp)
    nine = gray([[0, 10, 20, 30, 40, 50, 60, 70, 80]] * 9)
    np.testing.assert_array_equal(task_library_pixels(nine, 3), gray([[10, 40, 70]] * 3))
    # Steps of 1 1/2 pixels from 1/4 on: of 128 parts, 127 - 32 of one pixel and 32 of the next, or 31 and 96.
    six = gray([[0, 0, 100, 100, 200, 200]] * 6)
    expected = [[[0, 0, 1], [75, 75, 76], [124, 125, 126], [198, 199, 200]]] * 4
    np.testing.assert_array_equal(task_library_pixels(six, 4), expected)
    np.testing.assert_array_equal(task_library_pixels(nine, 3, Region(0, 0, 1 / 3, 1 / 3)), nine[:3, :3])


@pytest.mark.parametrize("prepare", task_libraries.LIBRARIES.values())
@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (301, 200), (64, 64), (33, 32), (96, 160)])
def test_both_stretch_the_whole_picture_near_a_plain_resize(prepare, shape):
    from PIL import Image

    y, x = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
    image = np.stack([255 * x, 255 * y, 127 + 0 * x], axis=-1).astype(np.uint8)
    found = prepare(image, 32)
    assert found.dtype == np.uint8 and found.shape == (32, 32, 3)
    expected = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR), np.int32)
    assert np.abs(found - expected).max() <= 255 / min(min(shape), 32) + 3  # they start elsewhere in a pixel


def test_the_region_of_interest_is_the_central_square():
    assert region_of_interest(100, 200, None) == (0, 0, 1, 1)
    assert region_of_interest(100, 200, 0.5) == (0.375, 0.25, 0.625, 0.75)
    assert region_of_interest(100, 200, 0.5).in_pixels(100, 200) == (75, 25, 50, 50)
    assert region_of_interest(20, 24, 0.875).in_pixels(20, 24) == (
        3,
        1,
        18,
        18,
    )  # round(17.5), as in the card
    with pytest.raises(
        UsageError, match=r"Expected an image uint8 \[h, w, 3\]; received float32 \[2, 2, 3\]"
    ):
        mediapipe_pixels(np.zeros([2, 2, 3], np.float32), 2)


def test_what_is_lost_and_gained_through_a_library_is_counted():
    """Wide pictures, bright in the center; a file tells whether what it sees is bright on average."""
    wide = np.zeros([20, 60, 3], np.uint8)
    bright = wide.copy()
    bright[:, 20:40] = 200
    images, labels = [encode_png(p) for p in (wide, bright, bright, wide)], np.array([0, 1, 1, -1])

    def ask(pixels):
        return (pixels.mean(axis=(1, 2, 3)) > 100).astype(int)

    decoded = []

    def measure(labels, reference, crop_fraction=0.875):
        preparation = Preparation(8, crop_fraction=crop_fraction)

        def read(data):
            decoded.append(data)
            return read_picture(data, 10_000)

        return measure_libraries({"f": ask}, images, labels, reference, preparation, read)

    cropped = measure(labels, np.array([1, 1, 0, 0]))["f"]
    expected = {"images": 3, "top1": 1.0, "reference": 1 / 3, "lost": 0, "gained": 2}
    assert cropped["through"] == {"mediapipe": expected, "task_library": expected}
    assert cropped["whole"] == {"mediapipe": 1 / 3, "task_library": 1 / 3}
    whole = measure(labels, labels, crop_fraction=None)["f"]
    assert whole["through"]["mediapipe"] == expected | {
        "top1": 1 / 3,
        "reference": 1.0,
        "lost": 2,
        "gained": 0,
    }
    assert whole["whole"] is None
    assert measure(np.full(4, -1), labels) == {}
    # Padded, a wide picture is gray above and below; stretched, as libraries do, it is not.
    padded = measure(labels, labels, crop_fraction="padded")["f"]
    assert [found["top1"] for found in padded["through"].values()] == [1.0, 1.0]
    assert padded["whole"] == {"mediapipe": 1 / 3, "task_library": 1 / 3}
    assert len(decoded) == 3 * 3, "once a picture"


def test_a_file_that_loses_in_a_library_is_refused_where_that_is_no_chance():
    def libraries(lost, gained, images=200):
        found = {"images": images, "top1": 0.7, "reference": 0.8, "lost": lost, "gained": gained}
        return {"through": {"mediapipe": found}}

    reason = find_library_refusal(libraries(20, 4), Tolerance())
    assert reason == (
        "top-1 accuracy 70.00 % through MediaPipe, where Keras has 80.00 %: 8.00 points lost (allowed 3)"
    )
    assert find_library_refusal(libraries(20, 4), Tolerance(library_points=9)) is None
    assert find_library_refusal(libraries(16, 11), Tolerance(library_points=0)) is None  # chance
    assert find_library_refusal(libraries(2, 0, 10), Tolerance()) is None  # few images
    assert find_library_refusal(None, Tolerance()) is None and find_library_refusal({}, Tolerance()) is None


@pytest.mark.task_libraries
@pytest.mark.parametrize(
    ("library", "variable", "lines"),
    [
        ("mediapipe", "URNET_MEDIAPIPE_PYTHON", "MediaPipe"),
        ("task_library", "URNET_TASK_LIBRARY_PYTHON", "TFLite Task Library"),
    ],
)
def test_the_copies_give_what_the_libraries_give(library, variable, lines, tmp_path):
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"set {variable} to a Python interpreter that has the library")
    side = 32
    write_probe(tmp_path / "probe.tflite", side)
    rng = np.random.default_rng(0)
    shapes = [
        (64, 64),
        (32, 32),
        (40, 57),
        (100, 150),
        (97, 33),
        (20, 24),
        (128, 64),
        (96, 160),
        (48, 32),
        (33, 32),
    ]
    images = {f"{h}x{w}": rng.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in shapes}
    np.savez(tmp_path / "images.npz", **images)
    (tmp_path / "lines.py").write_text(region_lines(0.875)[lines])
    script = pathlib.Path(__file__).with_name("task_library_reader.py")
    paths = [tmp_path / name for name in ("probe.tflite", "images.npz", "lines.py", "answers.npz")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([python, script, library, *paths], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = np.load(paths[-1])
    copy = task_libraries.LIBRARIES[library]
    for name, image in images.items():
        whole, part = (answers[n].reshape(side, side, 3) for n in (name, f"{name}_region"))
        difference = np.abs(copy(image, side).astype(float) - whole)
        assert difference.max() <= (0.01 if library == "mediapipe" else 1.01), name
        region = region_of_interest(*image.shape[:2], 0.875)
        difference = np.abs(copy(image, side, region).astype(float) - part)
        # MediaPipe's places are in float32: noise moves by up to 1/32 where one lies between two steps.
        assert difference.max() <= (255 / 16 if library == "mediapipe" else 1.01), name
        assert difference.mean() <= 3, name


def write_probe(path, side):
    """A classifier whose classes are the pixels that it is given."""
    import tensorflow as tf

    from urnet_tf.export.tflite_metadata import add_metadata

    @tf.function(input_signature=[tf.TensorSpec([1, side, side, 3], tf.float32, name="image")])
    def predict(image):
        return {"probabilities": tf.reshape(image, [1, -1]) / 255.0}

    converter = tf.lite.TFLiteConverter.from_concrete_functions([predict.get_concrete_function()])
    path.write_bytes(converter.convert())
    add_metadata(path, "probe", [f"c{number}" for number in range(3 * side * side)])
