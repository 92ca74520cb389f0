"""Near copies: what is found of planted ones, and what their groups do not depend on."""

import io

import numpy as np
import pyarrow as pa
import pytest
import scipy.fft
from PIL import Image, ImageDraw, ImageFont, ImageOps
from urnet_fixtures.blobs import SIZE, draw_blobs

from urnet_tf.crawl import near_copies
from urnet_tf.images.thumbnails import SIDE, THUMBNAIL_BYTES, read_thumbnail


def thumbnail(image, quality=95):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return read_thumbnail(file.getvalue(), 10**7)


def crop(image, x=0.03, y=0.07, part=0.9):
    width, height = image.size
    return image.crop((int(x * width), int(y * height), int((x + part) * width), int((y + part) * height)))


def mark(image):
    image, font = image.copy(), ImageFont.load_default(size=10)
    ImageDraw.Draw(image).text((20, 60), "www.example.com", fill=(190, 190, 190), font=font)
    return image


def planted(number):
    """Thumbnails of pictures with five copies each."""
    return np.stack(
        [
            copy
            for image in map(draw_blobs, range(number))
            for copy in (thumbnail(image), thumbnail(image, 80), thumbnail(image, 40),
                         thumbnail(image.resize((96, 72))), thumbnail(crop(image)), thumbnail(mark(image)))
        ]
    )  # fmt: skip


@pytest.fixture(scope="module")
def pictures():
    return planted(12)


def group(thumbnails, rows=None, similarity=0.9):
    rows = np.arange(len(thumbnails)) if rows is None else rows
    return near_copies.group_copies(thumbnails, rows, similarity=similarity)


def test_planted_copies_are_found_and_nothing_else(pictures):
    groups, left_out = group(pictures)
    assert groups.tolist() == (np.arange(12).repeat(6) * 6).tolist() and left_out == 0


def test_other_pictures_stay_apart(pictures):
    alone = pictures[::6]
    assert group(alone)[0].tolist() == list(range(12))
    assert group(alone, similarity=0.5)[0].tolist() == list(range(12))


@pytest.mark.parametrize("x", [0.0, 0.02, 0.05, 0.1])
@pytest.mark.parametrize("y", [0.0, 0.04, 0.1])
def test_a_crop_is_found_wherever_it_lies_and_listed_first_or_last(x, y):
    pair = np.stack([thumbnail(draw_blobs(5)), thumbnail(crop(draw_blobs(5), x, y))])
    assert group(pair)[0].tolist() == group(pair[::-1])[0].tolist() == [0, 0]


def test_mirror_images_are_copies_if_they_may_be():
    """Of the whole and of crops, left for right and not upside down, in either order."""
    image = draw_blobs(5)
    turned, crops = ImageOps.mirror(image), [crop(image, 0, 0.1), crop(image, 0.1, 0.02)]
    for one, other in [(image, turned), (turned, crops[0]), (turned, crops[1]), (crops[0], turned)]:
        pair = np.stack([thumbnail(one), thumbnail(other, 80)])
        assert group(pair)[0].tolist() == [0, 0]
        assert near_copies.group_copies(pair, np.arange(2), similarity=0.9, mirrored=False)[0].tolist() == [
            0,
            1,
        ]
    assert group(np.stack([thumbnail(image), thumbnail(ImageOps.flip(image))]))[0].tolist() == [0, 1]
    colors = np.stack([thumbnail(image), thumbnail(turned.convert("L").convert("RGB"))])
    assert group(colors)[0].tolist() == [0, 1]


def test_a_thumbnail_is_mirrored_like_the_picture(pictures):
    image = draw_blobs(4).resize((128, 96))
    mirrored = near_copies.mirror(thumbnail(image, 100)[None])[0].astype(int)
    assert np.abs(mirrored - thumbnail(ImageOps.mirror(image), 100)).max() <= 2
    for left in (0.0, 0.05, 0.1):
        seen = near_copies.describe(near_copies.mirror(pictures), (left, 0.1, 0.9))
        turned = near_copies._flipped(near_copies.describe(pictures, (0.1 - left, 0.1, 0.9)))
        assert seen == pytest.approx(turned, abs=1e-5)


def test_another_color_is_another_picture():
    image = draw_blobs(3)
    gray = image.convert("L").convert("RGB")
    assert group(np.stack([thumbnail(image), thumbnail(gray)]))[0].tolist() == [0, 1]


def test_plain_and_undecoded_pictures_are_told_and_stay_apart():
    plain = [thumbnail(Image.new("RGB", SIZE, color)) for color in ("white", "white", (9, 99, 200))]
    groups, left_out = group(
        np.stack([*plain, np.zeros(THUMBNAIL_BYTES, np.uint8), thumbnail(draw_blobs(0))])
    )
    assert groups.tolist() == [0, 1, 2, 3, 4] and left_out == 4
    assert group(np.zeros((0, THUMBNAIL_BYTES), np.uint8))[0].tolist() == []


def test_the_index_finds_what_comparing_all_finds(pictures, monkeypatch):
    pictures = np.concatenate(
        [pictures, near_copies.mirror(pictures[::6]), near_copies.mirror(planted(24)[73::12])]
    )
    everything = group(pictures)[0]
    assert len(set(everything)) == 18
    monkeypatch.setattr(near_copies, "_COMPARED_DIRECTLY", 10)
    monkeypatch.setattr(near_copies, "_PROBED", 8)
    assert group(pictures)[0].tolist() == everything.tolist()


def test_blocks_and_collected_pairs_do_not_change_the_groups(pictures, monkeypatch):
    everything = group(pictures)[0]
    monkeypatch.setattr(near_copies, "_BLOCK_ROWS", 7)
    monkeypatch.setattr(near_copies, "_PAIRS_AT_ONCE", 1)
    told = []
    rows = np.arange(len(pictures))
    found, _ = near_copies.group_copies(pictures, rows, similarity=0.9, report=told.append)
    assert found.tolist() == everything.tolist()
    assert sum(told) == len(near_copies.WINDOWS) * len(pictures)


def test_names_do_not_depend_on_the_order_of_files(pictures):
    hashes = np.array([f"{(n + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}" for n in range(72)])
    hashes[70:] = ""  # could not be read
    thumbnails = pictures.copy()
    thumbnails[70:] = 0
    thumbnails, hashes = np.r_[thumbnails, thumbnails[:3]], np.r_[hashes, hashes[:3]]  # equal files
    named, left_out = near_copies.name_pictures(pa.chunked_array([hashes]), thumbnails, 0.9)
    named = np.array(named.to_pylist())
    for start in range(0, 72, 6):
        mine = hashes[start : start + 6]
        assert set(named[start : start + 6][mine != ""]) == {min(mine[mine != ""])}
    assert named[70:72].tolist() == ["", ""] and left_out == 0
    assert named[72:].tolist() == named[:3].tolist()
    order = np.random.default_rng(0).permutation(75)
    again, _ = near_copies.name_pictures(pa.chunked_array([hashes[order]]), thumbnails[order], 0.9)
    assert again.to_pylist() == named[order].tolist()


def test_vectors_by_another_implementation():
    shown = thumbnail(draw_blobs(1))
    brightness = shown[: SIDE**2].reshape(SIDE, SIDE).astype(float)

    def vector(pixels):
        amplitude = scipy.fft.dctn(pixels, norm="ortho")
        found = [(i + j) * amplitude[i, j] for i in range(15) for j in range(15) if 0 < i + j <= 14]
        return np.array(found) / np.linalg.norm(found)

    whole = near_copies.describe(shown[None], near_copies.WHOLE)[0]
    assert whole == pytest.approx(vector(brightness), abs=1e-5)
    corner = near_copies.describe(shown[None], (0.5, 0.25, 0.5))[0]  # left, top, side: 2 x 2 pixels for each
    assert corner == pytest.approx(vector(brightness[8:24, 16:].repeat(2, 0).repeat(2, 1)), abs=1e-5)


def test_groups_of_pairs_by_hand():
    groups = near_copies._joined(np.arange(6), [np.array([[4, 1], [2, 4]]), np.array([[5], [3]])])
    assert groups.tolist() == [0, 1, 1, 3, 1, 3]
    assert near_copies._joined(groups, [np.array([[3], [0]])]).tolist() == [0, 1, 1, 0, 1, 0]
    assert near_copies._joined(groups, []).tolist() == groups.tolist()
