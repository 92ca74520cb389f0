"""The hostile set: every file gets a status and a reason, none raises."""

import errno
import io
import os
import struct
import tarfile
import zlib

import pytest
from PIL import Image

from urnet_tf.images import probe as probe_module
from urnet_tf.images.probe import content_hash, environment_failure, identify_file, map_in_threads, probe_file
from urnet_tf.schema import STATUS

LIMITS = {"max_bytes": 2**20, "max_pixels": 50_000_000, "min_side_px": 8}


def encoded(kind, mode="RGB", size=(40, 30), **options):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind, **options)
    return buffer.getvalue()


def animated(kind):
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "blue")]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def bomb_png(side=20_000):
    """A valid one-bit PNG of side x side pixels in about 50 kB."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((side // 8 + 1) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def exif_rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded("JPEG", exif=exif)


def probe(tmp_path, data, name="x.jpg"):
    path = tmp_path / name
    path.write_bytes(data)
    return probe_file(str(path), **LIMITS)


USABLE = {
    "jpeg": encoded("JPEG"),
    "progressive": encoded("JPEG", progressive=True),
    "gray": encoded("JPEG", "L"),
    "cmyk": encoded("JPEG", "CMYK"),
    "exif_rotated_size_is_the_headers": exif_rotated(),
    "png_named_jpg": encoded("PNG"),
    "png_16_bit": encoded("PNG", "I;16"),
    "png_palette": encoded("PNG", "P"),
    "gif": encoded("GIF"),
    "animated_gif": animated("GIF"),
    "bmp": encoded("BMP"),
    "tiff": encoded("TIFF"),
    "jpeg_2000": encoded("JPEG2000"),
    "avif": encoded("AVIF"),
    "webp_lossy": encoded("WEBP"),
    "webp_lossless": encoded("WEBP", lossless=True),
    "webp_alpha": encoded("WEBP", "RGBA"),
    "webp_extended": encoded("WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    "truncated_is_found_when_packing": encoded("JPEG", size=(40, 30), quality=95)[:-200],
    "fill_bytes": encoded("JPEG")[:2] + b"\xff\xff" + encoded("JPEG")[2:],
}
REFUSED = {
    "empty": (b"", "empty", "no bytes"),
    "html": (b"\n <!DOCTYPE html><html>gone</html>", "not_an_image", "HTML page"),
    "text": (b"404 not found", "not_an_image", "text"),
    "binary": (b"\x01\x02\x03\x04" * 9, "not_an_image", "01 02 03 04"),
    "header_cut_off": (encoded("PNG")[:18], "decode_error", "damaged or cut off"),
    "jpeg_cut_off": (encoded("JPEG")[:30], "decode_error", "damaged or cut off"),
    "webp_cut_off": (encoded("WEBP")[:20], "decode_error", "damaged or cut off"),
    "bomb": (bomb_png(), "too_many_pixels", "20000 x 20000"),
    "animated_webp": (animated("WEBP"), "unsupported", "animated WebP"),
    "tiff_cut_off": (encoded("TIFF")[:40], "decode_error", ""),
    "avif_without_a_picture": (b"\0\0\0\x20ftypavif\0\0\0\0", "decode_error", "damaged or cut off"),
    "jpeg_xl": (b"\xff\x0a" + bytes(90), "unsupported", "JPEG XL"),
    "video": (b"\0\0\0\x20ftypisom\0\0\0\0", "not_an_image", "video"),
    "svg": (b"<?xml version='1.0'?><svg></svg>", "unsupported", "SVG"),
    "pdf": (b"%PDF-1.4", "unsupported", "PDF"),
    "tiny": (encoded("PNG", size=(7, 90)), "too_small", "7 x 90"),
    "no_pixels": (encoded("GIF")[:6] + bytes(30), "too_small", "0 x 0"),
    "large": (bytes(2**20 + 1), "too_many_bytes", "1048576"),
    "twelve_bits": (b"\xff\xd8\xff\xc1\0\x0b\x0c\0\x28\0\x28\x01\0\0\0", "unsupported", "12 bits"),
}


@pytest.mark.parametrize("name", USABLE)
def test_usable_files(tmp_path, name):
    result = probe(tmp_path, USABLE[name])
    assert (result.status, result.reason) == (None, "")
    assert (result.width, result.height) == (40, 30)
    assert result.num_bytes == len(USABLE[name])
    assert len(result.content_hash) == 32


@pytest.mark.parametrize("name", REFUSED)
def test_refused_files(tmp_path, name):
    data, status, words = REFUSED[name]
    result = probe(tmp_path, data)
    assert result.status == status
    assert words in result.reason
    assert status in STATUS
    assert result.content_hash == ("" if status in ("empty", "too_many_bytes") else content_hash(data))


def test_the_bomb_is_small():
    assert len(bomb_png()) < 60_000


def test_every_cut_of_every_format_gets_a_row(tmp_path):
    for name, data in USABLE.items():
        for length in range(1, min(len(data), 700), 7):
            assert probe(tmp_path, data[:length]).status in (None, *STATUS), name


def test_equal_bytes_have_equal_hashes(tmp_path):
    one, two = (probe(tmp_path, USABLE["jpeg"], n) for n in ("a.jpg", "b.png"))
    other = probe(tmp_path, USABLE["gray"])
    assert one.content_hash == two.content_hash != other.content_hash


def test_places_that_are_no_files(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "plain.jpg").write_bytes(USABLE["jpeg"])
    expected = {
        "x.jpg": "not_a_file",
        "pipe.jpg": "not_a_file",
        "loop.jpg": "symlink_loop",
        "gone.jpg": "missing",
        "absent.jpg": "missing",
        "plain.jpg/below.jpg": "missing",
        "nul\0.jpg": "bad_name",
        "long" * 100: "unreadable",
        "plain.jpg": None,
    }
    found = {name: probe_file(str(tmp_path / name), **LIMITS).status for name in expected}
    assert found == expected
    assert probe_file("/dev/zero", **LIMITS).status == "not_a_file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(USABLE["jpeg"])
    path.chmod(0)
    assert probe_file(str(path), **LIMITS).status == "unreadable"


def test_a_name_that_is_not_utf8_can_be_probed(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")
    with open(path, "wb") as file:
        file.write(USABLE["jpeg"])
    assert probe_file(path, **LIMITS).status is None


def test_the_identity_of_a_file_changes_with_it(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    first = identify_file(str(path))
    size, time, inode = map(int, first.split(":"))
    assert (size, inode) == (3, path.stat().st_ino) and identify_file(str(path)) == first
    path.rename(tmp_path / "b.jpg")
    assert identify_file(str(tmp_path / "b.jpg")) == first, "the name is told apart elsewhere"
    os.utime(tmp_path / "b.jpg", ns=(time, time + 1))
    (tmp_path / "same.jpg").write_bytes(b"two")
    os.utime(tmp_path / "same.jpg", ns=(time, time))
    others = [identify_file(str(tmp_path / name)) for name in ("b.jpg", "same.jpg")]
    assert len({first, *others}) == 3
    assert not any(identify_file(path) for path in (str(tmp_path), str(tmp_path / "no"), "/dev/null", "a\0"))
    with tarfile.open(tmp_path / "c.tar", "w") as file:
        file.add(tmp_path / "b.jpg", "b.jpg")
    inside = identify_file(str(tmp_path / "c.tar/b.jpg"))
    assert inside == identify_file(str(tmp_path / "c.tar")), "a member is as its archive"


ENVIRONMENT = ("EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM", "ETIMEDOUT", "EHOSTDOWN", "ENOTCONN", "ENODEV")
OF_THE_FILE = ("ENOENT", "ENOTDIR", "ELOOP", "ENAMETOOLONG", "EACCES", "EPERM", "EISDIR", "ENXIO", "EILSEQ")


def raising(code, times, then):
    """A function that fails a few times, and the list of its calls."""
    calls = []

    def call(*arguments):
        calls.append(arguments)
        if len(calls) <= times:
            raise OSError(getattr(errno, code), code)
        return then(*arguments)

    return call, calls


@pytest.mark.parametrize("code", ENVIRONMENT)
def test_a_fault_of_the_environment_is_tried_again_and_is_no_verdict(tmp_path, monkeypatch, code):
    monkeypatch.setattr(probe_module.time, "sleep", lambda _: None)
    path, read = tmp_path / "x.jpg", probe_module._read
    path.write_bytes(USABLE["jpeg"])
    call, calls = raising(code, 3, read)
    monkeypatch.setattr(probe_module, "_read", call)
    assert probe_file(str(path), **LIMITS).status is None and len(calls) == 4
    call, calls = raising(code, 99, read)
    monkeypatch.setattr(probe_module, "_read", call)
    with pytest.raises(OSError) as caught:
        probe_file(str(path), **LIMITS)
    assert caught.value.filename == str(path) and len(calls) == 4
    sentence = str(environment_failure(caught.value))
    assert str(path) in sentence and code in sentence and "run the same command again" in sentence


@pytest.mark.parametrize("code", OF_THE_FILE)
def test_a_fault_of_the_file_is_a_verdict_at_once(tmp_path, monkeypatch, code):
    call, calls = raising(code, 99, None)
    monkeypatch.setattr(probe_module, "_read", call)
    result = probe_file(str(tmp_path / "x.jpg"), **LIMITS)
    assert result.status in STATUS and result.reason == code and len(calls) == 1


def test_threads_keep_the_order_and_stop_with_what_was_raised():
    assert list(map_in_threads(lambda n: n * n, range(100), 7, at_once=3)) == [n * n for n in range(100)]
    done = []
    with pytest.raises(ZeroDivisionError):
        for result in map_in_threads(lambda n: 1 // (5 - n), range(1000), 2):
            done.append(result)
    assert len(done) == 5
