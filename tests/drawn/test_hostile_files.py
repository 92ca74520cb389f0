"""Each hostile file is what its name promises."""

import os
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from urnet_tf.drawn.hostile_files import USABLE, write_hostile_files
from urnet_tf.schema import STATUS


@pytest.fixture
def picture():
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return small.resize((96, 64), Image.Resampling.BICUBIC)


@pytest.fixture
def files(tmp_path, picture):
    return {file.name: file for file in write_hostile_files(tmp_path, picture)}


def gray_difference(image, picture):
    both = [np.asarray(i.convert("L"), dtype=float) for i in (image, picture)]
    return np.abs(both[0] - both[1]).mean()


def test_there_are_twelve_and_each_has_a_known_fate(files, tmp_path):
    assert len(files) == 12 == len(os.listdir(tmp_path))
    assert all(os.path.lexists(tmp_path / name) and name.endswith(".jpg") for name in files)
    assert {file.expectation for file in files.values()} <= {USABLE, *STATUS}


@pytest.mark.parametrize(
    ("name", "kind", "mode"),
    [("png", "PNG", "RGB"), ("cmyk", "JPEG", "CMYK"), ("16bit", "PNG", "I;16"), ("rotated", "JPEG", "RGB")],
)
def test_usable_ones_show_the_picture(files, tmp_path, picture, name, kind, mode):
    name = f"hostile_{name}.jpg"
    assert files[name].expectation == USABLE
    with Image.open(tmp_path / name) as image:
        assert (image.format, image.mode) == (kind, mode)
        image = ImageOps.exif_transpose(image)
        if mode == "I;16":
            levels = np.asarray(image)
            assert levels.max() > 255
            image = Image.fromarray((levels // 257).astype(np.uint8))
        assert image.size == picture.size
        assert gray_difference(image, picture) < 6


def test_rotated_needs_its_exif(files, tmp_path, picture):
    with Image.open(tmp_path / "hostile_rotated.jpg") as image:
        assert image.size == picture.size[::-1] and image.getexif()[0x0112] == 6


def test_empty_and_html_are_no_images(files, tmp_path):
    assert (tmp_path / "hostile_empty.jpg").stat().st_size == 0
    assert files["hostile_empty.jpg"].expectation == "empty"
    assert b"<html>" in (tmp_path / "hostile_html.jpg").read_bytes()
    assert files["hostile_html.jpg"].expectation == "not_an_image"


def test_truncated_has_a_good_header_and_breaks_off(files, tmp_path):
    with Image.open(tmp_path / "hostile_truncated.jpg") as image:
        assert image.size == (96, 64)
        with pytest.raises(OSError, match="truncated"):
            image.load()
    assert files["hostile_truncated.jpg"].expectation == "decode_error"


def test_bomb_is_small_on_disk_and_400_megapixels(files, tmp_path):
    content = (tmp_path / "hostile_bomb.jpg").read_bytes()
    assert struct.unpack(">IIB", content[16:25]) == (20_000, 20_000, 1)
    assert 40_000 < len(content) < 60_000
    assert files["hostile_bomb.jpg"].expectation == "too_many_pixels"


def test_animation_has_two_frames(files, tmp_path):
    with Image.open(tmp_path / "hostile_animated.jpg") as image:
        assert image.format == "WEBP" and image.n_frames == 2
    assert files["hostile_animated.jpg"].expectation == "unsupported"


def test_the_default_picture_makes_an_animation_too(tmp_path):
    write_hostile_files(tmp_path)
    with Image.open(tmp_path / "hostile_animated.jpg") as image:
        assert image.n_frames == 2


def test_names_links_and_directories(files, tmp_path):
    assert files["hostile_loop.jpg"].expectation == "symlink_loop"
    with pytest.raises(OSError):
        (tmp_path / "hostile_loop.jpg").stat()
    assert files["hostile_directory.jpg"].expectation == "not_a_file"
    assert (tmp_path / "hostile_directory.jpg").is_dir()
    (name,) = (name for name, file in files.items() if file.expectation == "bad_name")
    assert os.fsencode(name) == b"hostile_caf\xe9.jpg"


def test_bytes_repeat(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_hostile_files(tmp_path / folder)
    for path in (tmp_path / "a").iterdir():
        if path.is_file() and not path.is_symlink():
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
