"""Names of the files of a cleaned crawl: they stay unique and inside, whatever they were."""

import os

import numpy as np
import pytest
from PIL import Image

from urnet_tf.cleaning.files import place_image, safe_names, suffix_of, unique_names
from urnet_tf.errors import UsageError

HOSTILE = [
    "..",
    ".",
    "/etc/passwd",
    "a/b",
    "a_b",
    "A_B",
    ".git",
    "\x00",
    "",
    " ",
    "con\n",
    "x" * 300,
    "日本" * 99,
]


def test_names_of_classes_stay_apart_and_inside(tmp_path):
    names = safe_names(HOSTILE)
    assert len({name.casefold() for name in names}) == len(HOSTILE)
    for name in names:
        (tmp_path / name).mkdir()
        assert (tmp_path / name).parent == tmp_path and name[0] not in ". " and len(name.encode()) < 200
    assert safe_names(["red fox", "Red panda"]) == ["red fox", "Red panda"]


@pytest.mark.parametrize("seed", range(3))
def test_names_of_files_stay_apart_without_their_suffix(seed):
    draw = np.random.default_rng(seed)
    bases = ["1.jpg", "1.png", "1.JPG", "1", "a.b.jpg", "a_b.jpg", "1-11111111.jpg", "", "..", "x.jpg?w=640",
             ".hidden", "y" * 300 + ".jpg"]  # fmt: skip
    paths = [f"cat/{draw.choice(bases)}" for _ in range(60)]
    hashes = [str(draw.choice(["1" * 32, "2" * 32])) for _ in paths]
    folders = [str(draw.choice(["cat", "dog"])) for _ in paths]
    names = unique_names(paths, hashes, folders)
    stems = {
        (folder, os.path.splitext(name)[0].casefold()) for folder, name in zip(folders, names, strict=True)
    }
    assert len(stems) == len(paths)
    assert all(name and name == os.path.basename(name) and name[0] != "." for name in names)
    assert all(name.count(".") <= 1 and len(name.encode()) < 200 for name in names)


def test_a_name_that_is_unique_stays():
    assert unique_names(["a/1.jpg", "b/2.jpeg", "b/1.jpg"], ["f" * 32] * 3, ["x", "x", "y"]) == [
        "1.jpg", "2.jpeg", "1.jpg",
    ]  # fmt: skip
    assert unique_names(["a/1.jpg", "b/1.jpg"], ["a" * 32, "b" * 32], ["x", "x"]) == [
        "1-aaaaaaaa.jpg", "1-bbbbbbbb.jpg",
    ]  # fmt: skip


def test_links_and_copies(tmp_path):
    source = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(source)
    place_image(str(source), str(tmp_path / "link.png"), copy=False)
    place_image(str(source), str(tmp_path / "copy.png"), copy=True)
    assert (tmp_path / "link.png").is_symlink() and not (tmp_path / "copy.png").is_symlink()
    assert (tmp_path / "copy.png").read_bytes() == source.read_bytes()
    with pytest.raises(UsageError, match="which is not there"):
        place_image(str(tmp_path / "gone.png"), str(tmp_path / "x.png"), copy=False)


@pytest.mark.parametrize(
    ("kind", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("TIFF", ".tif"), ("WEBP", ".webp")]
)
def test_what_a_file_without_suffix_is(tmp_path, kind, suffix):
    Image.new("RGB", (4, 4)).save(tmp_path / "image", kind)
    assert suffix_of(str(tmp_path / "image")) == suffix
