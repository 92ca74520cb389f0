import io
import pickle
import threading

import numpy as np
import pytest
from PIL import Image

from urnet_tf.errors import UsageError
from urnet_tf.images.image_store import ImageStore, plain_jpeg, shard_path, write_index, write_shard
from urnet_tf.store import machine

COUNTS = [0, 7, 0, 5, 12, 0]  # a shard is empty when all of its images were damaged


def record(i):
    return b"%d " % i * (1 + 97 * (i % 5))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory, first = tmp_path_factory.mktemp("store"), 0
    for shard, count in enumerate(COUNTS):
        write_shard(directory, shard, [record(i) for i in range(first, first + count)])
        first += count
    write_index(directory, COUNTS)
    return directory


def test_random_access_over_shards(directory):
    images = ImageStore(directory)
    assert len(images) == 24
    ids = np.random.default_rng(0).integers(0, 24, 200)
    assert images.read(ids) == [record(i) for i in ids]
    assert images.read([]) == [] and images.read([23, 0, 23]) == [record(23), record(0), record(23)]


def test_few_open_readers_suffice(directory):
    images = ImageStore(directory, max_open=1)
    for _ in range(3):
        assert images.read(np.arange(24)) == [record(i) for i in range(24)]
    assert len(images._readers) == 1


def test_threads_read_at_once(directory):
    images, wrong = ImageStore(directory, max_open=1), []

    def read(seed):
        for ids in np.random.default_rng(seed).integers(0, 24, (150, 8)):
            if images.read(ids) != [record(i) for i in ids]:
                wrong.append(ids)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_pickled_store_reads(directory):
    images = ImageStore(directory, max_open=3)
    images.read([1])
    again = pickle.loads(pickle.dumps(images))
    assert again.read([20]) == [record(20)] and again._max_open == 3


def test_equal_records_give_equal_files(tmp_path):
    for shard in (0, 1):
        write_shard(tmp_path, shard, [record(i) for i in range(50)])
    assert shard_path(tmp_path, 0).read_bytes() == shard_path(tmp_path, 1).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        shard_path("", shard).name for shard in (0, 1)
    ]


def test_a_shard_is_written_whole_or_not_at_all(tmp_path):
    def records():
        yield b"one"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, 0, records())
    assert not list(tmp_path.iterdir())


def test_impossible_requests(directory, tmp_path):
    for ids in ([24], [-1, 3]):
        with pytest.raises(UsageError, match="from 0 to 23"):
            ImageStore(directory).read(ids)
    with pytest.raises(UsageError, match="image store"):
        ImageStore(tmp_path)


def jpeg(mode="RGB", size=(40, 30), **options):
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    image = Image.fromarray(np.stack([x * 5, y * 7, x + y], -1).clip(0, 255).astype(np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_jpeg_loses_metadata_and_no_pixel(mode):
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    data = jpeg(mode, exif=exif.tobytes(), comment=b"hello", icc_profile=b"p" * 3000)
    found = plain_jpeg(data, 30)
    assert len(found) < len(data) - 3000
    assert not any(text in found for text in (b"where I live", b"hello", b"Exif", b"ICC_PROFILE"))
    np.testing.assert_array_equal(*(np.asarray(Image.open(io.BytesIO(d))) for d in (data, found)))
    assert plain_jpeg(jpeg(mode), 30) == jpeg(mode)


@pytest.mark.parametrize(
    "data",
    [
        jpeg(size=(40, 31)),  # too large
        jpeg(progressive=True),
        jpeg("CMYK"),
        b"",
        b"\xff\xd8",
        b"\x89PNG",
        jpeg()[:60],
        jpeg().replace(b"\xff\xc0", b"\xff\xc3"),
        b"\xff\xd8\xff\xda\x00\x02",
        b"\xff\xd8" + b"\xff\xe1\x00\x00" * 3,
    ],
)
def test_other_files_are_encoded_anew(data):
    assert plain_jpeg(data, 30) is None


def test_the_marker_that_says_how_colors_are_coded_stays():
    """Adobe's: three channels without it are taken for brightness and two colors."""
    data = jpeg(keep_rgb=True)
    assert b"Adobe" in data and b"JFIF" not in data
    plain = plain_jpeg(data, 64)
    assert b"Adobe" in plain
    pixels = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in (data, plain)]
    np.testing.assert_array_equal(*pixels)


def test_all_shards_stay_open_where_the_system_allows_it(directory, monkeypatch):
    asked = []
    monkeypatch.setattr(machine.resource, "getrlimit", lambda kind: asked[-1] if asked else (1024, 4096))
    monkeypatch.setattr(machine.resource, "setrlimit", lambda kind, limits: asked.append(limits))
    assert machine.allow_open_files(512) == 512 and not asked  # of 1024, half is left to others
    assert machine.allow_open_files(600) == 600 and asked == [(1112, 4096)]
    assert machine.allow_open_files(7_813) == 4096 - 512 and asked[-1] == (4096, 4096)
    monkeypatch.setattr(machine.resource, "getrlimit", lambda kind: (200, 200))
    assert machine.allow_open_files(600) == 1
    images = ImageStore(directory)
    images.read(np.arange(24))
    assert images._max_open == 1 and len(images._readers) == 1
