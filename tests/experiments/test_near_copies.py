"""The measurement of near copies, on a crawl of a few pictures."""

import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "experiments"))
import near_copies  # noqa: E402
from urnet_fixtures.blobs import draw_blobs  # noqa: E402

from urnet_tf.images.thumbnails import read_thumbnail  # noqa: E402


def test_what_is_found_of_a_small_crawl(tmp_path):
    for n in range(4):
        (tmp_path / f"class{n % 2}").mkdir(exist_ok=True)
        draw_blobs(n).save(tmp_path / f"class{n % 2}" / f"{n}.png")
    draw_blobs(0).save(tmp_path / "class0/again.jpg", quality=60)
    (tmp_path / "class1/equal.png").write_bytes((tmp_path / "class1/1.png").read_bytes())
    (tmp_path / "class1/bad.png").write_bytes(b"no image")
    files = near_copies.find_images(tmp_path, 100)
    assert [file.name for file in files] == ["0.png", "2.png", "again.jpg", "1.png", "3.png"]
    originals = np.stack([read_thumbnail(file.read_bytes(), 10**7) for file in files])
    pairs = near_copies.compare_all(originals)
    one, other, likeness = pairs
    assert list(zip(one[likeness > 0.9], other[likeness > 0.9], strict=True)) == [(0, 2)]
    found = {
        kind: near_copies.best_of(originals, copies) for kind, copies in near_copies.copies_of(files).items()
    }
    assert min(found["quality 80"]) > 0.99 and min(found["crop"]) > 0.9 and min(found["mirrored"]) > 0.99
    assert found["crop"] == pytest.approx(
        near_copies.best_of(originals, near_copies.copies_of(files)["crop"])
    )
    table = near_copies.format_table("crawl", [file.parent.name for file in files], pairs, found)
    # All 35 copies but maybe watermarks, and one pair of a class: 35 / 36.
    row = next(line for line in table.splitlines() if line.startswith("| 0.8 |")).split(" | ")
    assert row[-3:-1] == ["1", "0"] and float(row[-1].rstrip(" |")) == pytest.approx(35 / 36, abs=0.01)
    assert isinstance(near_copies.draw_pairs(files, pairs, 0.9), Image.Image)
