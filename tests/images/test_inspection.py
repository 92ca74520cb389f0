"""Files looked into: what is decoded, what is known, and what belongs to one file alone."""

import io

import numpy as np
import pytest
from PIL import Image

from urnet_tf.errors import RunError
from urnet_tf.images import picture
from urnet_tf.images.image_store import plain_jpeg
from urnet_tf.images.inspection import Inspector
from urnet_tf.images.packing import Packer
from urnet_tf.images.probe import content_hash


def encoded(kind, size=(48, 40), shade=0, **options):
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    file = io.BytesIO()
    Image.fromarray(np.stack([x * 5 + shade, y * 6, x + y], -1).clip(0, 255).astype(np.uint8)).save(
        file, kind, **options
    )
    return file.getvalue()


FILES = {
    "kept.jpg": encoded("JPEG", (40, 32), comment=b"note"),
    "large.png": encoded("PNG"),
    "cut.jpg": encoded("JPEG", (40, 32), shade=9)[:-120],
    "page.jpg": b"<html>",
    "small.png": encoded("PNG", (7, 40)),
    "long.png": encoded("PNG", (70_000, 9)),
}


@pytest.fixture
def folder(tmp_path):
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def inspect(folder, names=tuple(FILES), printed=lambda: 0, find=lambda content: -1, workers=3):
    packer = Packer(short_side_px=32, jpeg_quality=90, max_pixels=700_000, printed=printed)
    inspector = Inspector(
        packer, decoders=2, max_bytes=10**6, max_pixels=700_000, min_side_px=8, thumbnails=True, find=find
    )
    done = []
    found = inspector.inspect([str(folder / name) for name in names], workers, lambda: done.append(1))
    assert len(done) == len(names)
    return dict(zip(names, found, strict=True))


def test_each_file_is_a_picture_or_has_a_reason(folder):
    found = inspect(folder, (*FILES, "absent.jpg"))
    statuses = {name: result.probe.status for name, result in found.items()}
    assert statuses == {
        "kept.jpg": None, "large.png": None, "cut.jpg": "decode_error", "page.jpg": "not_an_image",
        "small.png": "too_small", "long.png": "unsupported", "absent.jpg": "missing",
    }  # fmt: skip
    assert found["cut.jpg"].probe.reason.startswith("the image data is damaged: ")
    assert found["cut.jpg"].probe.content_hash == content_hash(FILES["cut.jpg"])
    assert found["kept.jpg"].packed.record == plain_jpeg(FILES["kept.jpg"], 32)
    with Image.open(io.BytesIO(found["large.png"].packed.record)) as image:
        assert image.size == (38, 32) and image.format == "JPEG"
    packed = [name for name, result in found.items() if result.packed and result.packed.record]
    assert packed == ["kept.jpg", "large.png"]
    assert found["long.png"].probe.reason == "70000 x 9 pixels; a side of at most 65500 can be stored as JPEG"
    for name, result in found.items():
        assert (
            (name in packed)
            == bool(result.record_key)
            == (result.packed is not None and result.packed.thumbnail is not None)
        )
    assert found["large.png"].record_key == content_hash(found["large.png"].packed.record)
    assert found["kept.jpg"].record_key == content_hash(found["kept.jpg"].packed.record)


def test_what_is_known_is_not_decoded(folder, monkeypatch):
    monkeypatch.setattr(picture, "read_picture", None)
    rows = {content_hash(data): row for row, data in enumerate(FILES.values())}
    found = inspect(folder, find=rows.get)
    assert [result.known for result in found.values()] == list(range(6))
    assert {result.probe for result in found.values()} == {None}


@pytest.mark.parametrize("workers", [1, 5])
def test_results_come_in_the_order_of_the_paths(tmp_path, workers):
    names = [f"{n}.gif" for n in range(60)]
    for n, name in enumerate(names):
        if n % 3:
            (tmp_path / name).write_bytes(encoded("GIF", (10 + n, 10)))
    found = inspect(tmp_path, names, workers=workers)
    assert [r.probe.width for r in found.values()] == [10 + n if n % 3 else 0 for n in range(60)]


def test_a_file_that_makes_a_library_print_is_decoded_by_pillow(folder, monkeypatch):
    """Whichever file it was of those that were decoded at the time, only that one is."""
    printed, by_pillow, read = [0], [], picture.read_picture

    def prints(data, *arguments, **options):
        if options.get("by_pillow"):
            by_pillow.append(data)
        elif data == FILES["large.png"]:
            printed[0] += 10
        return read(data, *arguments, **options)

    monkeypatch.setattr(picture, "read_picture", prints)
    found = inspect(folder, ("large.png", "kept.jpg"), printed=lambda: printed[0])
    assert set(by_pillow) == {FILES["large.png"]}
    assert all(result.packed.record for result in found.values())
    assert found["kept.jpg"].packed.record == plain_jpeg(FILES["kept.jpg"], 32)


def test_too_little_memory_ends_the_run(folder, monkeypatch):
    def fails(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(picture, "read_picture", fails)
    with pytest.raises(RunError, match="kept.jpg cannot be decoded: it does not fit into memory"):
        inspect(folder)
