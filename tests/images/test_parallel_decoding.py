"""How many files of a request are decoded at a time goes by their pixels; the images are the same."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from urnet_tf.images import decode


def encode(size, kind="PNG"):
    pixels = np.random.default_rng(size).integers(0, 256, (size, size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((10, 20, 30), 64), ((10, 100), 10), ((10, 250), 1), ((10, 1000), 1), ((1000,), 1), ((), 1)],
)
def test_the_largest_image_decides(sizes, expected, monkeypatch):
    monkeypatch.setattr(decode, "_PIXELS_AT_ONCE", 100_000)
    files = [*(encode(size) for size in sizes), *([b"no image", b"\xff\xd8\xffcut"] if sizes[1:] else [])]
    images = tf.constant(files, tf.string)
    assert decode._parallel_decoders(images, tf.size(images, tf.int64)) == expected


def test_what_a_header_promises_counts_and_not_the_bytes(monkeypatch):
    file = io.BytesIO()
    Image.new("1", (4000, 4000)).save(file, "PNG")  # 2 kB
    images = tf.constant([file.getvalue(), encode(8)])
    assert decode._parallel_decoders(images, tf.constant(2, tf.int64)) == 50_000_000 // 16_000_000


def test_images_are_the_same_one_after_the_other(monkeypatch):
    files = tf.constant([encode(40), b"bad", encode(90, "JPEG"), encode(60), b"", encode(50, "BMP")])
    settings = (16, "1", (1.0,), 0.875, 1_000_000)
    images, valid = decode.build_batch_decoder(*settings)(files)
    monkeypatch.setattr(decode, "_PIXELS_AT_ONCE", 1)
    again, valid_again = decode.build_batch_decoder.__wrapped__(*settings)(files)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(valid, valid_again)
    assert valid.numpy().tolist() == [True, False, True, True, False, True]


def test_no_call_sets_a_graph_up_anew():
    """`Dataset.reduce` has its function optimized in each call: of all time to decode a batch, two thirds."""

    def parallel(files):
        return decode._parallel_decoders(files, tf.size(files, tf.int64))

    graph = tf.function(parallel).get_concrete_function(tf.TensorSpec([None], tf.string)).graph.as_graph_def()
    operations = {node.op for function in graph.library.function for node in function.node_def}
    assert "DatasetToSingleElement" in operations and "ReduceDataset" not in operations
