"""What a network sees of an image: its central square, several crops, or all of it."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from urnet_tf.errors import UsageError
from urnet_tf.images import decode
from urnet_tf.images.crops import CROPS, num_views


def gradient():
    """21 x 34, every pixel another color."""
    y, x = np.mgrid[0:21, 0:34]
    return Image.fromarray(np.stack([x * 7, y * 11, (x + y) * 4], -1).astype(np.uint8))


def test_central_part():
    image = tf.constant(np.asarray(gradient()))
    np.testing.assert_array_equal(decode.central_part(image, 1.0), image[:, 6:27])
    np.testing.assert_array_equal(decode.central_part(image, 10 / 21), image[5:15, 12:22])
    assert decode.central_part(image, 0.001).shape == (1, 1, 3)


def test_a_central_view_of_the_right_size_is_a_crop():
    image = np.asarray(gradient())
    found = decode.central_view(tf.constant(image), 21, 1.0)
    assert found.dtype == tf.float32
    np.testing.assert_array_equal(found, image[:, 6:27])


def test_without_a_crop_the_whole_image_is_stretched():
    image = np.repeat([[[0, 40, 80]], [[100, 140, 180]]], 4, axis=1).astype(np.uint8)  # 2 x 4
    np.testing.assert_array_equal(decode.central_part(tf.constant(image), None), image)
    np.testing.assert_allclose(decode.central_view(tf.constant(image), 2, None), image[:, :2], atol=1e-4)
    rgb = np.asarray(gradient())
    whole = decode.views(tf.constant(rgb), 14, "5", (1.0, 2.0), None)
    np.testing.assert_allclose(whole[:5], np.repeat(decode.resize(rgb, 14, 14)[None], 5, 0), atol=1e-4)
    assert rgb.shape[:2] == (21, 34)  # half of 21 is rounded to an even number
    np.testing.assert_allclose(whole[6], decode.resize(rgb[:10, :17], 14, 14), atol=1e-4)


def test_padding_puts_the_whole_image_on_a_gray_square():
    rgb = np.asarray(gradient())  # 21 x 34: 10 2/5 rows of 17
    found = decode.central_view(tf.constant(rgb), 17, "padded").numpy()
    np.testing.assert_array_equal(found[3:13], decode.resize(rgb, 10, 17))
    assert found.shape == (17, 17, 3) and (found[:3] == 128).all() and (found[13:] == 128).all()
    turned = decode.central_view(tf.constant(rgb.transpose(1, 0, 2)), 17, "padded").numpy()
    np.testing.assert_allclose(turned, found.transpose(1, 0, 2), atol=1e-3)
    line = decode.central_view(tf.constant(rgb[:1]), 16, "padded").numpy()  # half a row would be none
    np.testing.assert_array_equal(line[7], decode.resize(rgb[:1], 1, 16)[0])
    assert (line[:7] == 128).all() and (line[8:] == 128).all()
    square = tf.constant(rgb[:21, :21])
    np.testing.assert_array_equal(
        decode.central_view(square, 7, "padded"), decode.central_view(square, 7, None)
    )
    whole = decode.views(tf.constant(rgb), 14, "grid", (2.0,), "padded")
    np.testing.assert_array_equal(whole[0], decode.central_view(rgb[:10, :17], 14, "padded"))
    np.testing.assert_array_equal(whole[-1], decode.central_view(rgb, 14, "padded"))


def test_views():
    image = tf.constant(np.asarray(gradient()))
    for crops in CROPS:
        for scales in ((1.0,), (1.0, 1.5, 0.5)):
            found = decode.views(image, 14, crops, scales, 2 / 3)
            assert found.shape == (num_views(crops, scales), 14, 14, 3)
            if crops != "grid":
                np.testing.assert_array_equal(found[0], decode.central_view(image, 14, 2 / 3))
    five = decode.views(image, 14, "5", (1.0,), 2 / 3).numpy()
    rgb = np.asarray(gradient())
    for view, wanted in zip(
        five[1:], (rgb[:14, :14], rgb[:14, -14:], rgb[-14:, :14], rgb[-14:, -14:]), strict=True
    ):
        np.testing.assert_array_equal(view, wanted)
    ten = decode.views(image, 14, "10", (1.0,), 2 / 3).numpy()
    np.testing.assert_array_equal(ten[:5], five)
    np.testing.assert_array_equal(ten[5:], five[:, :, ::-1])
    np.testing.assert_array_equal(decode.views(image, 21, "1", (0.1,), 2 / 3)[0], rgb[:, 6:27])


@pytest.mark.parametrize("crops, scales", [("7", (1.0,)), ("1", ()), ("1", (0.0,))])
def test_impossible_views(crops, scales):
    with pytest.raises(UsageError, match="Expected"):
        num_views(crops, scales)
