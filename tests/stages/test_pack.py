import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from urnet_tf import schema, store
from urnet_tf.config import from_dict
from urnet_tf.data import image_store
from urnet_tf.data.image_store import ImageStore
from urnet_tf.errors import UsageError
from urnet_tf.stages import pack
from urnet_tf.stages.stage import Facts, StageContext

CONFIG = {"pack": {"short_side_px": 32, "images_per_shard": 4}, "ingest": {"max_pixels": 10_000}}


def encode(kind, size=(48, 40), shade=0, **options):
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    planes = np.stack([x * 5 + shade, y * 6, x + y], -1)
    file = io.BytesIO()
    Image.fromarray(planes.clip(0, 255).astype(np.uint8)).save(file, kind, **options)
    return file.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode("JPEG", (30, 20), exif=exif.tobytes())


def animated():
    others = [Image.new("RGB", (40, 30), colour) for colour in ("blue", "green")]
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "WEBP", save_all=True, append_images=others)
    return file.getvalue()


FILES = [  # (split, label, name, bytes)
    ("train", 0, "large.png", encode("PNG")),
    ("train", 0, "kept.jpg", encode("JPEG", (40, 32), comment=b"note")),
    ("train", 0, "turned.jpg", turned()),
    ("train", 0, "cut.jpg", encode("JPEG", (40, 32), shade=9)[:-120]),
    ("train", 1, "gone.jpg", None),
    ("train", 1, "animated.webp", animated()),
    ("train", 1, "still.webp", encode("WEBP", (64, 33))),
    ("train", 1, "huge.png", encode("PNG", (200, 100))),
    ("train", 1, "a.gif", encode("GIF", (33, 64))),
    ("val", 0, "b.bmp", encode("BMP", (20, 20))),
    ("val", 1, "empty.jpg", b""),
    ("test", -1, "c é.jpg", encode("JPEG", (100, 90), quality=90)),
    ("test", -1, "page.jpg", b"<html>"),
]
STATUS_OF = {
    "cut.jpg": "decode_error",
    "gone.jpg": "missing",
    "animated.webp": "unsupported",
    "huge.png": "too_many_pixels",
    "empty.jpg": "empty",
    "page.jpg": "not_an_image",
}


def make_context(tmp_path, files=FILES, classes=2):
    root, workdir = tmp_path / "crawl", store.Workdir(tmp_path / "work")
    ingest = workdir.open_partial("ingest", "key")
    root.mkdir()
    for _, _, name, data in files:
        if data is not None:
            (root / name).write_bytes(data)
    splits, labels, names, _ = zip(*files, strict=True)
    count = len(files)
    columns = {name: [""] * count for name in schema.INSTANCE_COLUMNS}
    columns |= {"split": splits, "label": labels, "path": names, "rank": range(1, count + 1)}
    columns |= {"width_px": [1] * count, "height_px": [1] * count, "source": ["web"] * count}
    dtypes = {name: dtype for name, dtype in schema.INSTANCE_COLUMNS.items() if name != "instance_id"}
    store.write_table(ingest / "candidates.parquet", columns, dtypes)
    bad = {name: [""] for name in schema.QUARANTINE_COLUMNS} | {
        "label": [0],
        "rank": [3],
        "status": ["bad_row"],
    }
    store.write_table(ingest / "quarantine.parquet", bad, schema.QUARANTINE_COLUMNS)
    store.write_json(ingest / "classes.json", [{"label": j, "name": f"class {j}"} for j in range(classes)])
    workdir.finish("ingest", {"facts": {"root": str(root)}})
    return StageContext(from_dict(CONFIG), workdir, workdir.open_partial("pack", "key"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    context = make_context(tmp_path_factory.mktemp("pack"))
    return context, pack.run(context)


def test_every_candidate_is_an_image_or_a_row_with_a_reason(packed):
    context, facts = packed
    assert facts == {
        "images": 7, "train_images": 5, "val_images": 1, "test_images": 1, "num_classes": 2,
        "bytes": facts["bytes"], "decode_errors": 6,
    }  # fmt: skip
    instances = store.read_table(context.out / "instances.parquet").to_pydict()
    assert list(instances) == list(schema.INSTANCE_COLUMNS)
    assert instances["instance_id"] == list(range(7))
    assert instances["path"] == [name for _, _, name, _ in FILES if name not in STATUS_OF]
    assert instances["rank"] == [i + 1 for i, (_, _, name, _) in enumerate(FILES) if name not in STATUS_OF]
    quarantine = store.read_table(context.out / "quarantine.parquet").to_pydict()
    assert quarantine["status"][0] == "bad_row"
    assert dict(zip(quarantine["path"][1:], quarantine["status"][1:], strict=True)) == STATUS_OF
    for status, reason in zip(quarantine["status"][1:], quarantine["reason"][1:], strict=True):
        assert status in schema.STATUS and reason.endswith(".") and len(reason) <= 161
        assert "{{" not in reason and "[Op" not in reason and "\n" not in reason
    assert store.read_json(context.out / "classes.json") == store.read_json(
        context.path("ingest", "classes.json")
    )
    assert [shard["count"] for shard in store.read_json(context.out / "shards.json")] == [3, 1, 3, 0]


def test_images_are_reduced_and_never_enlarged(packed):
    context, facts = packed
    images = ImageStore(context.out)
    records = images.read(np.arange(len(images)))
    assert sum(map(len, records)) == facts["bytes"]
    shapes = [tuple(tf.io.decode_jpeg(record).shape) for record in records]
    assert shapes == [
        (32, 38, 3),
        (32, 40, 3),
        (30, 20, 3),
        (32, 62, 3),
        (62, 32, 3),
        (20, 20, 3),
        (32, 36, 3),
    ]
    original = np.asarray(Image.open(io.BytesIO(FILES[0][3])).resize((38, 32), Image.BILINEAR)).astype(int)
    assert np.abs(tf.io.decode_jpeg(records[0]).numpy() - original).mean() < 2
    sampling = {record[record.index(b"\xff\xc0") + 11] for i, record in enumerate(records) if i != 1}
    assert sampling == {0x11}  # full chroma in what was encoded here
    kept = dict((name, data) for _, _, name, data in FILES)["kept.jpg"]
    assert records[1] == image_store.plain_jpeg(kept, 32) and b"note" not in records[1]


def test_a_killed_run_resumes_to_identical_files(packed, tmp_path, monkeypatch):
    context = make_context(tmp_path)
    written, write_shard = [], image_store.write_shard

    def dies_at_the_second(directory, shard, records):
        if written:
            raise KeyboardInterrupt
        written.append(shard)
        write_shard(directory, shard, records)

    monkeypatch.setattr(image_store, "write_shard", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        pack.run(context)
    monkeypatch.setattr(
        image_store, "write_shard", lambda *args: (written.append(args[1]), write_shard(*args))
    )
    assert pack.run(context) == packed[1]
    assert written == [0, 1, 2, 3]  # none twice
    for path in sorted(packed[0].out.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (context.out / path.relative_to(packed[0].out)).read_bytes(), (
                path.name
            )


def test_a_class_left_with_one_image_ends_the_run(tmp_path):
    files = [file for file in FILES if file[2] != "still.webp"]
    with pytest.raises(UsageError, match=r"at least 2 usable training images .* class 1 \(1\)") as error:
        pack.run(make_context(tmp_path, files))
    assert "\n" not in str(error.value)


def test_a_class_without_images_ends_the_run(tmp_path):
    with pytest.raises(UsageError, match=r"class 2 \(0\)"):
        pack.run(make_context(tmp_path, classes=3))


def test_estimate_grows_with_the_data():
    config = from_dict({})
    assert pack.estimate(config, Facts()).rows is None
    small, large = (pack.estimate(config, Facts(images=n, cores=2)) for n in (1000, 2000))
    assert large.rows == 2000 and large.seconds == pytest.approx(2 * small.seconds)
    assert json.dumps(large.disk_bytes)
