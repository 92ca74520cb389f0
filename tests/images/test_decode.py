import io
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from urnet_tf.images import decode, picture
from urnet_tf.images.headers import guessed, read_size
from urnet_tf.schema import STATUS

HEIGHT, WIDTH = 21, 34


def gradient(mode="RGB"):
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = np.stack([x * 7, y * 11, (x + y) * 4, np.where(x < 10, 0, np.where(x < 20, 128, 255))], -1)
    return Image.fromarray(planes.clip(0, 255).astype(np.uint8), "RGBA").convert(mode)


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def white_below(image):
    image = image.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))


decode_in_graph = tf.function(decode.decode_rgb, input_signature=[tf.TensorSpec([], tf.string)])


def decoded(data):
    eager = decode.decode_rgb(tf.constant(data)).numpy()
    in_graph = decode_in_graph(tf.constant(data)).numpy()
    np.testing.assert_array_equal(eager, in_graph)
    assert eager.dtype == np.uint8
    return eager


def palette_image(colors=200):
    image = Image.fromarray((np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % colors).astype(np.uint8), "P")
    image.putpalette([v for i in range(256) for v in (i, 255 - i, i * 7 % 256)])
    return image


def gray_png(bits):
    """A PNG of 8 rows of two bytes each, in few bits of gray; Pillow cannot write it."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (16 // bits).to_bytes(4, "big") + (8).to_bytes(4, "big") + bytes([bits, 0, 0, 0, 0])
    rows = b"".join(bytes([0, 27 * row, 255 - 31 * row]) for row in range(8))
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


END_OF_PNG = b"\0\0\0\0IEND\xaeB`\x82"


def with_local_palette(gif):
    """A GIF file whose frame brings the palette along, and whose global one holds other colors."""
    frame = gif.index(b",\0\0\0\0")
    colors = 3 * 2 ** (gif[10] % 8 + 1)
    palette, head = gif[13 : 13 + colors], gif[:13] + bytes(colors) + gif[13 + colors : frame + 9]
    return head + bytes([gif[frame + 9] | 128 | gif[10] % 8]) + palette + gif[frame + 10 :]


def smaller_frame(gif):
    """A GIF file whose frame begins at (3, 2) of a canvas that is larger by (8, 5)."""
    frame = gif.index(b",\0\0\0\0")
    canvas = (WIDTH + 8).to_bytes(2, "little") + (HEIGHT + 5).to_bytes(2, "little")
    return gif[:6] + canvas + gif[10 : frame + 1] + b"\3\0\2\0" + gif[frame + 5 :]


EXACT = {
    "png_rgb": encode(gradient(), "PNG"),
    "png_rgba": encode(gradient("RGBA"), "PNG"),
    "png_gray": encode(gradient("L"), "PNG"),
    "png_gray_alpha": encode(gradient("LA"), "PNG"),
    "png_bit": encode(gradient("1"), "PNG"),
    "png_palette": encode(palette_image(), "PNG"),
    "png_palette_hole": encode(palette_image(), "PNG", transparency=5),
    "png_palette_2_bits": encode(palette_image(4), "PNG", bits=2),
    "png_palette_2_bits_hole": encode(palette_image(4), "PNG", bits=2, transparency=1),
    "png_gray_hole": encode(gradient("L"), "PNG", transparency=gradient("L").getpixel((3, 3))),
    "png_gray_1_bit": gray_png(1),
    "png_gray_2_bits": gray_png(2),
    "png_gray_4_bits": gray_png(4),
    "bmp_rgb": encode(gradient(), "BMP"),
    "bmp_palette": encode(palette_image(), "BMP"),
    "bmp_gray": encode(gradient("L"), "BMP"),
    "webp": encode(gradient(), "WEBP", lossless=True),
    "webp_alpha": encode(gradient("RGBA"), "WEBP", lossless=True, exact=True),
    "png_without_its_end": encode(gradient(), "PNG").removesuffix(END_OF_PNG),
    "png_palette_without_its_end": encode(palette_image(4), "PNG", bits=2).removesuffix(END_OF_PNG),
    "gif": encode(palette_image(), "GIF"),
    "gif_hole": encode(palette_image(), "GIF", transparency=5),
    "gif_of_few_colors_hole": encode(palette_image(4), "GIF", transparency=3),
    "gif_hole_animated": encode(
        palette_image(), "GIF", transparency=7, save_all=True, append_images=[palette_image(9)]
    ),
    "gif_local_palette_hole": with_local_palette(encode(palette_image(), "GIF", transparency=5)),
    "gif_smaller_frame": smaller_frame(encode(palette_image(), "GIF")),
    "gif_smaller_frame_hole": smaller_frame(encode(palette_image(), "GIF", transparency=9)),
    "gif_animated": encode(
        palette_image(), "GIF", save_all=True, append_images=[Image.new("P", (WIDTH, HEIGHT), 9)] * 3
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_lossless_formats_equal_pillow(name):
    with Image.open(io.BytesIO(EXACT[name])) as image:
        np.testing.assert_allclose(decoded(EXACT[name]).astype(int), white_below(image), atol=1)


@pytest.mark.parametrize("name", EXACT)
def test_packing_reads_the_same_pixels(name):
    found = picture.read_picture(EXACT[name], 10**6)
    np.testing.assert_array_equal(found, decode.decode_rgb(EXACT[name]))


def photograph(mode="RGB", size=(336, 256)):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8))
    return small.resize(size, Image.BICUBIC).convert(mode)


@pytest.mark.parametrize(
    "short_side_px, ratio", [(255, 1), (180, 1), (160, 1), (128, 2), (100, 2), (40, 4), (32, 8), (9, 8)]
)
@pytest.mark.parametrize("mode, options", [
    ("RGB", {}), ("RGB", {"subsampling": 0, "progressive": True}), ("L", {}), ("CMYK", {}),
])  # fmt: skip
def test_packing_reduces_like_a_served_graph(mode, options, short_side_px, ratio):
    assert picture.scaled_ratio(256, short_side_px) == ratio
    for size in ((331, 257), (336, 256)):
        data = encode(photograph(mode, size), "JPEG", quality=90, **options)
        packed = picture.read_picture(data, 10**6, short_side_px)
        served = decode.resize_short_side(
            decode.decode_rgb(tf.constant(data), short_side_px=short_side_px), short_side_px
        ).numpy()
        assert min(packed.shape[:2]) == short_side_px and packed.shape == served.shape
        assert np.abs(packed.astype(int) - served).max() <= 1
    if short_side_px < 32:
        return  # too few pixels for the picture: no two filters agree
    whole = np.asarray(photograph(mode).convert("RGB").resize(packed.shape[1::-1], Image.LANCZOS)).astype(int)
    assert np.abs(packed - whole).mean() < 2.5


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_near_pillow(mode, progressive):
    data = encode(gradient(mode), "JPEG", quality=95, progressive=progressive)
    with Image.open(io.BytesIO(data)) as image:
        wanted = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(decoded(data) - wanted).max() <= 4
    assert np.abs(picture.read_picture(data, 10**6) - wanted).max() <= 4


def test_cmyk_without_a_mark_is_adobes_kind():
    data = encode(gradient("CMYK"), "JPEG", quality=95)
    start = data.index(b"\xff\xee")
    unmarked = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4]) :]
    assert b"Adobe" not in unmarked
    np.testing.assert_array_equal(decoded(unmarked), decoded(data))
    np.testing.assert_array_equal(picture.read_picture(unmarked, 10**6), picture.read_picture(data, 10**6))
    assert "Adobe's mark" in guessed(unmarked) and not guessed(data)


def test_lossy_webp_is_near_pillow():
    data = encode(gradient(), "WEBP", quality=90)
    with Image.open(io.BytesIO(data)) as image:
        assert np.abs(decoded(data) - np.asarray(image.convert("RGB")).astype(int)).max() <= 6


def test_16_bits_become_8():
    data = encode(Image.fromarray(np.full((4, 5), 40000, np.uint16)), "PNG")
    np.testing.assert_array_equal(decoded(data), np.full((4, 5, 3), 40000 // 256))


def test_bmp_padding_is_no_transparency():
    data = bytearray(encode(gradient("RGBA"), "BMP"))
    start = int.from_bytes(data[10:14], "little")
    data[start + 3 :: 4] = bytes(HEIGHT * WIDTH)
    np.testing.assert_array_equal(decoded(bytes(data)), np.asarray(gradient("RGBA"))[..., :3])


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_orientation(orientation, order):
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "a camera"
    exif[0x0112] = orientation
    data = encode(gradient(), "JPEG", quality=95, exif=exif.tobytes())
    with Image.open(io.BytesIO(data)) as image:
        wanted = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    found = decoded(data)
    assert found.shape == wanted.shape and np.abs(found - wanted).max() <= 4
    assert decode.exif_orientation(data) == (orientation if 1 <= orientation <= 8 else 1)


def test_garbage_exif_is_orientation_1():
    rng = np.random.default_rng(0)
    plain = encode(gradient(), "JPEG")
    for size in (0, 3, 8, 9, 30, 400):
        for tiff in (b"", b"II*\0\x08\0\0\0\xff\xff", b"MM\0*\xff\xff\xff\xff", b"II*\0\xff\xff\xff\x7f"):
            payload = b"Exif\0\0" + (tiff + rng.bytes(size))
            segment = b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload
            data = plain[:2] + segment + plain[2:]
            assert 1 <= decode.exif_orientation(data) <= 8
            decode.decode_rgb(data)
    for data in (
        b"",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe1\x00\x08Exif\0\0",
        b"\xff\xd8\xff\xe1\x00\x08Exif\0\0I",
    ):
        assert decode.exif_orientation(data) == 1


def animated_webp():
    others = [Image.new("RGB", (40, 30), color) for color in ("blue", "green")]
    return encode(Image.new("RGB", (40, 30), "red"), "WEBP", save_all=True, append_images=others)


def large_png():
    return encode(Image.new("1", (3000, 3000)), "PNG")


def two_frame_bomb():
    """A GIF of a tiny canvas whose first frame says 65535 x 65535."""
    data = bytearray(encode(Image.new("P", (4, 4)), "GIF"))
    at = data.index(b"\x2c\x00\x00\x00\x00")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    return bytes(data)


BAD = {
    "empty": (b"", "not PNG"),
    "text": (b"<html>404</html>", "not PNG"),
    "png_header_only": (EXACT["png_rgb"][:40], None),
    "png_cut": (EXACT["png_rgb"][:-60], None),
    "png_too_large": (large_png(), "more than 1000000 pixels"),
    "jpeg_cut": (encode(gradient(), "JPEG")[:-80], None),
    "jpeg_magic": (b"\xff\xd8\xff", None),
    "webp_animated": (animated_webp(), "Animated WebP"),
    "webp_animated_flag_off": (animated_webp()[:20] + b"\0" + animated_webp()[21:], None),
    "riff_but_wave": (b"RIFF\0\0\0\0WAVEfmt ", None),
    "gif_cut": (EXACT["gif"][:20], None),
    "gif_no_frame": (EXACT["gif"][:13] + b";", None),
    "gif_bomb": (two_frame_bomb(), "more than"),
    "bmp_bit": (encode(gradient("1"), "BMP"), "variant of BMP"),
    "bmp_cut": (EXACT["bmp_rgb"][:80], None),
    "tiff": (encode(gradient(), "TIFF"), "not PNG"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_raise_one_clear_error(name):
    data, message = BAD[name]
    with pytest.raises(tf.errors.InvalidArgumentError, match=message) as caught:
        decode.decode_rgb(tf.constant(data), max_pixels=1_000_000)
    statuses = {"not PNG": "not_an_image", "more than": "too_many_pixels", "Animated": "unsupported",
                "variant of BMP": "unsupported"}  # fmt: skip
    expected = next((status for words, status in statuses.items() if words in (message or "")), None)
    assert getattr(caught.value, "status", None) == expected
    assert expected is None or expected in STATUS


@pytest.mark.parametrize("name", EXACT)
def test_headers_promise_what_is_decoded(name):
    height, width, _ = decode.decode_rgb(EXACT[name]).shape
    assert read_size(EXACT[name]) == (width, height)


@pytest.mark.parametrize("name", EXACT)
def test_pixels_are_known_before_decoding(name):
    height, width, _ = decode.decode_rgb(EXACT[name]).shape
    assert decode.promised_pixels(EXACT[name]) == height * width


@pytest.fixture(scope="module")
def decode_batch():
    return decode.build_batch_decoder(16, "1", (1.0,), 0.875, max_pixels=1_000_000)


def test_one_bad_image_never_kills_the_batch(decode_batch):
    good, bad = list(EXACT.values()), [data for data, _ in BAD.values()]
    files = [data for pair in zip(good, bad, strict=False) for data in pair] + bad[len(good) :]
    expect = np.array([data in good for data in files])
    images, valid = decode_batch(tf.constant(files))
    np.testing.assert_array_equal(valid, expect)
    assert images.shape == (len(files), 1, 16, 16, 3) and not images.numpy()[~expect].any()
    for image, data in zip(images.numpy()[expect], np.array(files, object)[expect], strict=True):
        np.testing.assert_array_equal(image[0], decode.central_view(decode.decode_rgb(data), 16, 0.875))


def test_batches_of_none_and_of_bad_only(decode_batch):
    images, valid = decode_batch(tf.constant([], tf.string))
    assert images.shape == (0, 1, 16, 16, 3) and valid.shape == (0,)
    assert not decode_batch(tf.constant([b"", b"x"]))[1].numpy().any()


def test_mutated_files_never_crash(decode_batch):
    rng = np.random.default_rng(1)
    files = []
    for data in [*EXACT.values(), encode(gradient(), "JPEG"), animated_webp()]:
        for _ in range(12):
            mutated = bytearray(data)
            for position in rng.integers(0, len(data), 3):
                mutated[position] = rng.integers(256)
            files.append(bytes(mutated[: rng.integers(10, len(data) + 1)] if rng.random() < 0.3 else mutated))
    images, valid = decode_batch(tf.constant(files))
    assert np.isfinite(images.numpy()).all() and images.numpy().min() >= 0 and images.numpy().max() <= 256
    assert 0 < valid.numpy().sum() < len(files)


def test_resize_short_side_keeps_the_shape_and_never_enlarges():
    image = tf.constant(np.asarray(gradient()))
    assert decode.resize_short_side(image, 7).shape == (7, 11, 3)
    assert decode.resize_short_side(tf.transpose(image, [1, 0, 2]), 7).shape == (11, 7, 3)
    np.testing.assert_array_equal(decode.resize_short_side(image, 21), image)
    np.testing.assert_array_equal(decode.resize_short_side(image, 100), image)
    assert decode.resize_short_side(image, 7).dtype == tf.uint8


@pytest.mark.parametrize("size", [(7, 11), (20, 9), (40, 50), (21, 5), (3, 5), (1, 1)])
def test_resize_is_that_of_tensorflow(size):
    image = tf.constant(np.asarray(gradient()))
    smaller = image
    if HEIGHT >= 4 * size[0] and WIDTH >= 4 * size[1]:
        smaller = tf.image.resize(image, [2 * side for side in size], method="area")
    wanted = tf.image.resize(smaller, size, antialias=True)
    for kind in (tf.uint8, tf.float32):
        np.testing.assert_allclose(decode.resize(tf.cast(image, kind), *size), wanted, atol=1e-4)


def test_large_reductions_average():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (400, 640, 3)).astype(np.uint8)
    noise[:, 320:] //= 2
    small = decode.resize(noise, 10, 16).numpy()
    wanted = np.asarray(Image.fromarray(noise).resize((16, 10), Image.BILINEAR)).astype(float)
    assert np.abs(small - wanted).mean() < 3
    assert abs(small.mean() - noise.mean()) < 1
