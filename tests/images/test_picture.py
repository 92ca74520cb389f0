"""Formats and orientations beside Pillow's own reading; the pixels of common formats are in `test_decode`."""

import importlib.util
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from urnet_tf.images import headers, picture
from urnet_tf.images.headers import Refused, guessed, read_size
from urnet_tf.images.orientation import exif_orientation

HEIGHT, WIDTH = 21, 34
HEIC = pytest.param(
    "HEIF", marks=pytest.mark.skipif(not importlib.util.find_spec("pillow_heif"), reason="no pillow_heif")
)


def gradient(mode="RGB", size=(WIDTH, HEIGHT)):
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    planes = np.stack([x * 7, y * 11, (x + y) * 4, np.where(x < 10, 0, 255)], -1)
    return Image.fromarray(planes.clip(0, 255).astype(np.uint8), "RGBA").convert(mode)


def encode(image, kind, **options):
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pillow_reads(data):
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGBA")
    white = Image.new("RGBA", upright.size, "white")
    return np.asarray(Image.alpha_composite(white, upright).convert("RGB")).astype(int)


def assert_as_pillow(data):
    found, wanted = picture.read_picture(data, 10**6), pillow_reads(data)
    assert found.dtype == np.uint8 and found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1  # of rounding


@pytest.mark.parametrize("kind", ["TIFF", "JPEG2000", "AVIF", HEIC])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_formats_that_only_pillow_reads(kind, mode):
    data = encode(gradient(mode), kind)
    assert read_size(data) == (WIDTH, HEIGHT)
    assert_as_pillow(data)
    assert "a SavedModel" in guessed(data).replace("an exported", "a")


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg", "tiff_deflate"])
def test_tiff(compression):
    assert_as_pillow(encode(gradient(), "TIFF", compression=compression))
    first_of_two = encode(gradient(), "TIFF", save_all=True, append_images=[Image.new("RGB", (5, 5))])
    assert_as_pillow(first_of_two)


@pytest.mark.parametrize("kind", ["TIFF", "AVIF", HEIC])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_formats_of_pillow_are_turned_upright(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(gradient(), kind, exif=exif if kind == "TIFF" else exif.tobytes())
    assert_as_pillow(data)
    assert picture.read_picture(data, 10**6).shape[0] == (WIDTH if orientation >= 6 else HEIGHT)


def exif_of(orientation, order="<"):
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "a camera"
    exif[0x0112] = orientation
    return exif.tobytes()


def late(data, filler=b"http://ns.adobe.com/xap/1.0/\0"):
    """A JPEG file whose Exif comes behind 120 kB of other application data."""
    segment = b"\xff\xe1" + (60_000).to_bytes(2, "big") + filler.ljust(59_998, b" ")
    return data[:2] + 2 * segment + data[2:]


def png_with_late_exif(orientation):
    """A PNG file whose Exif comes behind the picture."""
    kind_and_exif = b"eXIf" + exif_of(orientation).removeprefix(b"Exif\0\0")
    chunk = (len(kind_and_exif) - 4).to_bytes(4, "big") + kind_and_exif
    plain, end = encode(gradient(), "PNG"), 12
    return plain[:-end] + chunk + zlib.crc32(kind_and_exif).to_bytes(4, "big") + plain[-end:]


def turned_files(orientation, order="<"):
    jpeg = encode(gradient(), "JPEG", quality=95, exif=exif_of(orientation, order))
    return {
        "jpeg": jpeg,
        "jpeg_late": late(jpeg),
        "jpeg_late_behind_icc": late(jpeg, b"ICC_PROFILE\0\1\1"),
        "png": encode(gradient(), "PNG", exif=exif_of(orientation, order)),
        "png_late": png_with_late_exif(orientation),
        "webp": encode(gradient(), "WEBP", lossless=True, exif=exif_of(orientation, order)),
        "webp_lossy": encode(gradient(), "WEBP", quality=95, exif=exif_of(orientation, order)),
    }


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_wherever_it_lies(orientation, order):
    import tensorflow as tf

    from urnet_tf.images import decode

    for name, data in turned_files(orientation, order).items():
        valid = orientation if 1 <= orientation <= 8 else 1
        assert exif_orientation(data) == valid, name
        assert decode.exif_orientation(tf.constant(data)) == valid, name
        assert_as_pillow(data)
        served = decode.decode_rgb(tf.constant(data)).numpy().astype(int)
        assert np.abs(served - picture.read_picture(data, 10**6)).max() <= 2, name


def test_the_orientation_of_a_second_picture_is_not_that_of_the_first():
    data = encode(gradient(), "JPEG") + encode(gradient(), "JPEG", exif=exif_of(6))
    assert exif_orientation(data) == 1


def test_garbage_is_orientation_1_here_and_in_graphs():
    import tensorflow as tf

    from urnet_tf.images import decode

    in_graph = tf.function(decode.exif_orientation, input_signature=[tf.TensorSpec([], tf.string)])
    rng = np.random.default_rng(0)
    seen = set()
    for data in turned_files(6).values():
        data = data[:4000]
        start = max(data.find(b"II*\0"), 60)
        for _ in range(12):
            mutated = bytearray(data)
            for place in rng.integers(2, start + 40, 3):
                mutated[place % len(data)] = rng.integers(256)
            cut = bytes(mutated[: rng.integers(1, len(mutated)) if rng.random() < 0.3 else None])
            found = exif_orientation(cut)
            assert in_graph(tf.constant(cut)).numpy() == found and 1 <= found <= 8
            seen.add(found)
    assert {1, 6} <= seen


def bmp(bits, compression=0, pixels=b"", size=(8, 4), colors=None):
    """A BMP file by hand: Pillow writes only some kinds."""
    palette = b"" if bits > 8 else np.random.default_rng(0).bytes(4 * (colors or 2**bits))
    offset = 54 + len(palette)
    info = b"".join(
        value.to_bytes(length, "little")
        for value, length in (
            (40, 4), (size[0], 4), (size[1], 4), (1, 2), (bits, 2), (compression, 4), (len(pixels), 4),
            (2835, 4), (2835, 4), (colors or 0, 4), (0, 4),
        )
    )  # fmt: skip
    total = (offset + len(pixels)).to_bytes(4, "little")
    return b"BM" + total + bytes(4) + offset.to_bytes(4, "little") + info + palette + pixels


BMP = {
    "1 bit": bmp(1, pixels=bytes([0xA5, 0, 0, 0] * 4)),
    "4 bits": bmp(4, pixels=bytes(range(0, 160, 10))),
    "16 bits": bmp(16, pixels=bytes(range(64))),
    "RLE of 8 bits": bmp(8, 1, b"".join(bytes([5, row, 3, 9, 0, 0]) for row in range(4)) + b"\0\1"),
    "RLE of 4 bits": bmp(4, 2, b"".join(bytes([8, 0x12 + row, 0, 0]) for row in range(4)) + b"\0\1"),
}


@pytest.mark.parametrize("name", BMP)
def test_bmp_of_rare_variants(name):
    assert_as_pillow(BMP[name])
    assert len(np.unique(picture.read_picture(BMP[name], 100).reshape(-1, 3), axis=0)) > 1
    assert "BMP of a rare variant" in guessed(BMP[name])
    assert not guessed(encode(gradient(), "BMP"))


def test_a_jpeg_without_its_last_bytes_is_damaged_and_a_png_without_its_end_is_not():
    jpeg, png = encode(gradient(), "JPEG"), encode(gradient(), "PNG")
    for cut in (1, 2, 3, 30):
        with pytest.raises(Refused, match="truncated") as refused:
            picture.read_picture(jpeg[:-cut], 10**6)
        assert refused.value.status == "decode_error"
    assert_as_pillow(png[:-12])
    assert "last chunk" in guessed(png[:-12]) and not guessed(png)
    with pytest.raises(Refused, match="truncated"):
        picture.read_picture(png[:-40], 10**6)


def test_16_bits_become_8_and_32_are_refused():
    for kind in ("PNG", "TIFF"):
        data = encode(Image.fromarray(np.full((4, 5), 40_000, np.uint16)), kind)
        np.testing.assert_array_equal(picture.read_picture(data, 100), np.full((4, 5, 3), 40_000 // 256))
    with pytest.raises(Refused, match="32 bits a sample") as refused:
        picture.read_picture(encode(Image.fromarray(np.zeros((4, 5), np.float32)), "TIFF"), 100)
    assert refused.value.status == "unsupported"


def hostile():
    gif = bytearray(encode(Image.new("P", (4, 4)), "GIF"))
    at = gif.index(b"\x2c\x00\x00\x00\x00")
    gif[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    large = gradient(size=(2000, 1000))
    return {
        "png": encode(Image.new("1", (3000, 3000)), "PNG"),
        "jpeg": encode(large, "JPEG"),
        "gif": bytes(gif),
        "tiff": encode(large, "TIFF"),
        "jpeg2000": encode(large, "JPEG2000"),
        "avif": encode(gradient(size=(1200, 1000)), "AVIF", speed=10),
    }


def png_chunks(data):
    place = 8
    while place < len(data):
        length = int.from_bytes(data[place : place + 4])
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += 12 + length


def png_of(chunks):
    found = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        found += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return found


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_png_files_are_decoded_as_pillow_does(mode, monkeypatch):
    """By OpenCV, also with a gamma that no viewer of pictures applies; Pillow is not asked."""
    chunks = list(png_chunks(encode(gradient(mode), "PNG")))
    data = png_of([chunks[0], (b"gAMA", struct.pack(">I", 100_000)), *chunks[1:]])
    assert_as_pillow(data)
    assert_as_pillow(data + b"behind the end")
    wanted = picture.read_picture(data, 10**6)
    monkeypatch.setattr(picture, "_by_pillow", None)
    np.testing.assert_array_equal(picture.read_picture(data, 10**6), wanted)
    with pytest.raises(TypeError):
        picture.read_picture(data, 10**6, by_pillow=True)


def test_other_png_files_are_left_to_pillow():
    transparent = gradient().quantize(8)
    transparent.info["transparency"] = 0
    others = [gradient("RGBA"), gradient("LA"), gradient("P"), gradient("1"), transparent,
              Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30) * 70)]  # fmt: skip
    files = [encode(image, "PNG") for image in others]
    plain = encode(gradient(), "PNG")
    files.append(encode(gradient(), "PNG", transparency=(0, 0, 0)))
    files += [plain[:-12], plain[:-4], plain[:60], plain[:45] + b"x" + plain[46:], plain[:8] + plain[33:]]
    for data in files:
        assert not picture._is_plain_png(data)
    for data in files[:6]:
        assert picture.read_picture(data, 10**6).shape[2] == 3
    assert picture._is_plain_png(plain)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_damaged_picture_data_of_sound_chunks_is_read_where_pillow_reads_it(mode):
    rng = np.random.default_rng(0)
    chunks = list(png_chunks(encode(gradient(mode), "PNG")))
    read = 0
    for kind in ("flip", "cut", "checksum", "more") * 40:
        damaged = []
        for name, body in chunks:
            body = bytearray(body)
            if name == b"IDAT" and kind == "cut":
                del body[rng.integers(1, len(body)) :]
            elif name == b"IDAT" and kind == "more":
                body += rng.bytes(9)
            elif name == b"IDAT":
                body[-1 if kind == "checksum" else rng.integers(len(body))] ^= 1
            damaged.append((name, bytes(body)))
        data = png_of(damaged)
        assert picture._is_plain_png(data)
        try:
            wanted = pillow_reads(data)
        except (OSError, SyntaxError):
            with pytest.raises(Refused):
                picture.read_picture(data, 10**6)
            continue
        np.testing.assert_array_equal(picture.read_picture(data, 10**6), wanted)
        read += 1
    assert 40 <= read < 80


def test_nothing_is_decoded_that_promises_too_much(monkeypatch):
    def decodes(*args):
        raise AssertionError("decoded")

    files = hostile()
    monkeypatch.setattr(picture, "_as_rgb", decodes)
    monkeypatch.setattr(picture, "_plain_pixels", decodes)
    for name, data in files.items():
        if name == "gif":
            continue
        with pytest.raises(Refused) as refused:
            picture.read_picture(data, 1_000_000)
        assert refused.value.status == "too_many_pixels", name
    monkeypatch.undo()
    with pytest.raises(Refused, match="65535 x 65535|bomb") as refused, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture.read_picture(files["gif"], 1_000_000)
    assert refused.value.status == "too_many_pixels"


def test_damage_never_raises_anything_else():
    rng = np.random.default_rng(0)
    files = [*hostile().values(), *BMP.values(), encode(gradient(), "TIFF", compression="tiff_lzw")]
    files = [data for data in files if len(data) < 40_000] + [
        encode(gradient(), "AVIF"),
        *turned_files(3).values(),
    ]
    ends = {"image": 0, "refused": 0}
    for data in files:
        for _ in range(15):
            mutated = bytearray(data[: rng.integers(1, len(data))] if rng.random() < 0.3 else data)
            for place in rng.integers(0, len(mutated), 3):
                mutated[place] = rng.integers(256)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    assert picture.read_picture(bytes(mutated), 10**6).shape[2] == 3
                ends["image"] += 1
            except Refused:
                ends["refused"] += 1
    assert min(ends.values()) > 20


def test_heic_without_its_decoder_says_what_to_install(monkeypatch):
    monkeypatch.setattr(headers, "find_missing", lambda *modules: modules[0])
    with pytest.raises(Refused, match=r"pip install 'urnet_tf\[heif\]'") as refused:
        read_size(b"\0\0\0\x20ftypheic\0\0\0\0mif1heic")
    assert refused.value.status == "unsupported"


def test_encoding_keeps_colors_at_full_resolution():
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[::2, ::2, 0] = 255
    with Image.open(io.BytesIO(picture.encode_jpeg(pixels, 100))) as image:
        assert image.layer[0][1:3] == (1, 1)
        assert np.abs(np.asarray(image).astype(int) - pixels).max() < 12
    with Image.open(io.BytesIO(picture.encode_png(pixels))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize(("side", "is_read"), [(65_500, True), (65_501, False)])
def test_what_is_too_long_to_be_stored_is_not_read(side, is_read):
    for size in ((side, 1), (1, side)):
        data = encode(Image.new("L", size), "PNG")
        if is_read:
            assert len(picture.encode_jpeg(picture.read_picture(data, 10**6), 90)) > 0
            continue
        with pytest.raises(Refused, match="65500 can be stored") as refused:
            picture.read_picture(data, 10**6)
        assert refused.value.status == "unsupported"
