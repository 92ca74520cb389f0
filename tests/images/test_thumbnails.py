"""Thumbnails by hand: where brightness and colors lie, and what leaves them as they are."""

import io

import numpy as np
import pytest
from PIL import Image

from urnet_tf.images.packing import Packer
from urnet_tf.images.thumbnails import COLOR_SIDE, SIDE, THUMBNAIL_BYTES, read_thumbnail

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8).repeat(24, 0).repeat(32, 1)


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def thumbnail_of(data):
    return read_thumbnail(data, 10**8)


def planes(thumbnail):
    brightness, blue, red = np.split(thumbnail.astype(int), [SIDE**2, SIDE**2 + COLOR_SIDE**2])
    return brightness.reshape(SIDE, SIDE), blue.reshape(-1, COLOR_SIDE), red.reshape(-1, COLOR_SIDE)


def test_half_red_half_white_by_hand():
    pixels = np.full((40, 64, 3), 255, np.uint8)
    pixels[:, :32] = 255, 0, 0
    thumbnail = thumbnail_of(encoded(Image.fromarray(pixels)))
    assert thumbnail.shape == (THUMBNAIL_BYTES,) and thumbnail.dtype == np.uint8
    brightness, blue, red = planes(thumbnail)
    # Pure red of ITU-R BT.601: Y = 0.299 * 255, Cb = 128 - 0.1687 * 255, Cr = 128 + 0.5 * 255.
    assert (brightness[:, :16] == 76).all() and (brightness[:, 16:] == 255).all()
    assert (np.abs(blue[:, :4] - 85) <= 1).all() and (red[:, :4] == 255).all()
    assert (blue[:, 4:] == 128).all() and (red[:, 4:] == 128).all()


def test_what_makes_no_difference():
    image = Image.fromarray(PIXELS)
    wanted = thumbnail_of(encoded(image)).astype(int)
    saved = {
        "jpeg": encoded(image, "JPEG", quality=90),
        "comment": encoded(image, "JPEG", quality=90, comment=b"other"),
        "webp": encoded(image, "WEBP", quality=90),
        "larger": encoded(image.resize((1024, 768), Image.Resampling.BICUBIC), "JPEG", quality=90),
    }
    for name, data in saved.items():
        assert np.abs(thumbnail_of(data) - wanted).mean() < 4, name
    assert np.array_equal(thumbnail_of(saved["jpeg"]), thumbnail_of(saved["comment"]))
    assert np.abs(thumbnail_of(encoded(image.transpose(Image.Transpose.ROTATE_90))) - wanted).mean() > 20


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_honored(orientation):
    turned = {
        1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1], 5: PIXELS.swapaxes(0, 1),
        6: np.rot90(PIXELS), 7: PIXELS[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(PIXELS, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    thumbnail = thumbnail_of(encoded(Image.fromarray(turned.copy()), exif=exif))
    assert np.abs(thumbnail.astype(int) - thumbnail_of(encoded(Image.fromarray(PIXELS)))).max() <= 1


def test_transparent_parts_are_white():
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:32, :, 3] = 255
    brightness, _, _ = planes(thumbnail_of(encoded(Image.fromarray(pixels))))
    assert (brightness[:16] == 0).all() and (brightness[16:] == 255).all()


def test_sixteen_bits_keep_the_high_byte():
    gray = np.arange(64, dtype=np.uint16)[None].repeat(64, 0) * 1000
    brightness, _, _ = planes(thumbnail_of(encoded(Image.fromarray(gray))))
    assert np.abs(brightness[0] - (gray[0].reshape(32, 2).mean(1) / 256)).max() < 2


@pytest.mark.parametrize("short_side_px", [64, 256, 300])
@pytest.mark.parametrize("size", [(300, 190), (256, 400), (900, 280), (64, 70)])
def test_it_does_not_depend_on_what_is_packed(short_side_px, size):
    image = Image.fromarray(PIXELS).resize(size, Image.Resampling.BICUBIC)
    for data in (encoded(image), encoded(image, "JPEG"), encoded(image, "JPEG", progressive=True)):
        packer = Packer(short_side_px=short_side_px, jpeg_quality=90, max_pixels=10**8, printed=lambda: 0)
        packed = packer.pack(data, thumbnail=True)
        np.testing.assert_array_equal(packed.thumbnail, thumbnail_of(data))
