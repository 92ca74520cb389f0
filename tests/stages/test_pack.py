import errno
import io
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
import tensorflow as tf
from PIL import Image
from urnet_fixtures import layouts

from urnet_tf import schema, store
from urnet_tf.config import from_dict
from urnet_tf.errors import RunError, UsageError
from urnet_tf.images import image_store, picture
from urnet_tf.images.image_store import ImageStore
from urnet_tf.images.probe import content_hash
from urnet_tf.stages import ingest, pack, shard_maker
from urnet_tf.stages.settings import packed_with
from urnet_tf.stages.stage import PlanContext, StageContext

CONFIG = {"pack": {"short_side_px": 32, "images_per_shard": 4}, "ingest": {"max_pixels": 700_000}}


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
    others = [Image.new("RGB", (40, 30), color) for color in ("blue", "green")]
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "WEBP", save_all=True, append_images=others)
    return file.getvalue()


FILES = [  # (split, label, name, bytes)
    ("train", 0, "large.png", encode("PNG")),
    ("train", 0, "kept.jpg", encode("JPEG", (40, 32), comment=b"note")),
    ("train", 0, "turned.jpg", turned()),
    ("train", 0, "cut.jpg", encode("JPEG", (40, 32), shade=9)[:-120]),
    ("train", 1, "animated.webp", animated()),
    ("train", 1, "still.webp", encode("WEBP", (64, 33))),
    ("train", 1, "huge.png", encode("PNG", (1000, 800))),
    ("train", 1, "a.gif", encode("GIF", (33, 64))),
    ("val", 0, "b.bmp", encode("BMP", (20, 20))),
    ("val", 1, "long.bmp", encode("BMP", (70_000, 9))),
    ("test", -1, "c é.jpg", encode("JPEG", (100, 90), quality=90)),
    ("test", -1, "page.jpg", b"<html>"),
]
STATUS_OF = {
    "cut.jpg": "decode_error",
    "animated.webp": "unsupported",
    "huge.png": "too_many_pixels",
    "long.bmp": "unsupported",
    "page.jpg": "not_an_image",
}


def make_context(tmp_path, files=FILES, classes=2):
    root, workdir = tmp_path / "crawl", store.Workdir(tmp_path / "work")
    ingest = workdir.open_partial("ingest", "key")
    root.mkdir(exist_ok=True)
    for _, _, name, data in files:
        (root / name).write_bytes(data)
    splits, labels, names, _ = zip(*files, strict=True)
    count = len(files)
    columns = {name: [""] * count for name in schema.INSTANCE_COLUMNS}
    columns |= {"split": splits, "label": labels, "path": names, "rank": range(1, count + 1)}
    columns["content_hash"] = [content_hash(data) for _, _, _, data in files]
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
    workdir.finish("ingest", {"metadata": {"root": str(root)}})
    return StageContext(from_dict(CONFIG), workdir, workdir.open_partial("pack", "key"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    context = make_context(tmp_path_factory.mktemp("pack"))
    return context, pack.run(context)


def test_every_candidate_is_an_image_or_a_row_with_a_reason(packed):
    context, metadata = packed
    assert metadata == {
        "images": 7, "train_images": 5, "val_images": 1, "test_images": 1, "num_classes": 2,
        "bytes": metadata["bytes"],
        "quarantined": {"unsupported": 2, "decode_error": 1, "too_many_pixels": 1, "not_an_image": 1},
        "packed_with": packed_with(context.config),
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
    assert [shard["count"] for shard in store.read_json(context.out / "shards.json")] == [3, 2, 2]


def test_images_are_reduced_and_never_enlarged(packed):
    context, metadata = packed
    images = ImageStore(context.out)
    records = images.read(np.arange(len(images)))
    assert sum(map(len, records)) == metadata["bytes"]
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
    assert written == [0, 1, 2]  # none twice
    for path in sorted(packed[0].out.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (context.out / path.relative_to(packed[0].out)).read_bytes(), (
                path.name
            )


def hide(context, name="still.webp"):
    """Lets an image be gone, and gives the function that brings it back."""
    path = context.workdir.marker("ingest")["metadata"]["root"] + f"/{name}"
    os.rename(path, path + ".hidden")
    return lambda: os.rename(path + ".hidden", path)


def test_images_that_cannot_be_opened_stop_it_and_nothing_is_lost(packed, tmp_path):
    context = make_context(tmp_path)
    bring_back = [hide(context, name) for name in ("still.webp", "a.gif", "b.bmp", "c é.jpg")]
    with pytest.raises(RunError, match="4 of the images that ingest has read") as error:
        pack.run(context)
    assert str(error.value).count("No such file or directory") == 3
    assert "--from ingest" in str(error.value) and "\n" not in str(error.value)
    assert [path.name for path in context.out.glob("*.arrayrecord")] == ["images-00000.arrayrecord"]
    for function in bring_back:
        function()
    assert pack.run(context) == packed[1]
    for name in ("images-00001.arrayrecord", "instances.parquet", "quarantine.parquet"):
        assert (context.out / name).read_bytes() == (packed[0].out / name).read_bytes()


def test_a_folder_that_is_not_mounted_is_named(tmp_path):
    context = make_context(tmp_path)
    os.rename(tmp_path / "crawl", tmp_path / "elsewhere")
    with pytest.raises(RunError, match=f"{len(FILES)} of the images .* The folder .*crawl is not there"):
        pack.run(context)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES])
def test_a_disk_that_fails_is_no_verdict_on_an_image(tmp_path, monkeypatch, code):
    def fails(path, max_bytes):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(shard_maker, "read_file", fails)
    with pytest.raises(RunError, match=rf"1 of the images .*{os.strerror(code)}"):
        pack.run(make_context(tmp_path))


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8\xff" + bytes(80), encode("JPEG", shade=77)], ids=["empty", "zeros", "other"]
)
def test_a_file_that_was_changed_since_ingest_stops_it(tmp_path, content):
    context = make_context(tmp_path)
    (tmp_path / "crawl" / "kept.jpg").write_bytes(content)
    with pytest.raises(RunError, match=r"1 of the images .*kept.jpg \((the file holds other|.*no bytes)"):
        pack.run(context)


def test_an_error_that_is_not_the_images_is_not_swallowed(tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(picture, "read_picture", fails)
    with pytest.raises(RunError, match="large.png cannot be packed: it does not fit into memory"):
        pack.run(make_context(tmp_path))


@pytest.mark.tensorflow
def test_packing_imports_no_tensorflow(tmp_path):
    """Its import alone takes longer than packing a thousand images."""
    make_context(tmp_path)
    code = (
        "import sys; from urnet_tf import store; from urnet_tf.config import from_dict\n"
        "from urnet_tf.stages import pack; from urnet_tf.stages.stage import StageContext\n"
        f"workdir = store.Workdir({str(tmp_path / 'work')!r})\n"
        f"pack.run(StageContext(from_dict({CONFIG!r}), workdir, workdir.open_partial('pack', 'key')))\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr


def test_pillow_decides_where_opencv_is_more_lenient(tmp_path, capfd):
    jpeg = bytearray(encode("JPEG", (40, 32), quality=98))
    scan = jpeg.index(b"\xff\xda")
    place = next(p for p in range(scan + 200, len(jpeg)) if 0xFF not in jpeg[p - 1 : p + 3])
    jpeg[place : place + 2] = b"\xff\x2f"  # a marker that nobody knows, in the middle of the picture
    files = [("train", 0, "a.jpg", encode("JPEG")), ("train", 0, "odd.jpg", bytes(jpeg))]
    context = make_context(tmp_path, [*files, ("train", 0, "b.png", encode("PNG")), *FILES[4:8]])
    assert pack.run(context)["quarantined"]["decode_error"] == 1
    rows = store.read_table(context.out / "quarantine.parquet").to_pydict()
    assert rows["reason"][rows["path"].index("odd.jpg")].startswith("the image data is damaged: ")
    assert "Corrupt" not in capfd.readouterr().err


def test_what_libjpeg_prints_is_not_seen_and_not_kept(tmp_path, capfd):
    jpeg = encode("JPEG", (40, 32))
    noisy = jpeg[:-2] + b"abcdef" + jpeg[-2:]  # "Corrupt JPEG data: 6 extraneous bytes", and it is decoded
    files = [("train", 0, f"{name}.jpg", data) for name, data in (("clean", jpeg), ("noisy", noisy))]
    context = make_context(tmp_path, [*files, ("train", 1, "a.png", encode("PNG")), *FILES[-4:-2],
                                      ("train", 1, "b.png", encode("PNG", shade=9))])  # fmt: skip
    capfd.readouterr()
    pack.run(context)
    records = ImageStore(context.out).read([0, 1])
    assert records[0] == image_store.plain_jpeg(jpeg, 32) and b"abcdef" not in records[1]
    for record in records:
        tf.io.decode_jpeg(record)
    assert "JPEG" not in capfd.readouterr().err
    tf.io.decode_jpeg(noisy)
    assert "extraneous bytes" in capfd.readouterr().err  # outside of the stage all is as before


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
    assert pack.estimate(config, PlanContext()).rows is None
    small, large = (pack.estimate(config, PlanContext(images=n, cores=2)) for n in (1000, 2000))
    assert large.rows == 2000 and large.seconds == pytest.approx(2 * small.seconds)
    assert json.dumps(large.disk_bytes)


@pytest.mark.parametrize("kind", ["tar", "zip", "parquet", "tfds"])
def test_images_are_packed_where_they_lie(tmp_path, kind):
    """From archives and tables as from files: ingested, packed, and told when the container is gone."""
    rows = [(n, layouts.NAMES[n % 2], layouts.jpeg(n)) for n in range(10)]
    files, path = [(f"{name}/{n}.jpg", data) for n, name, data in rows], tmp_path / f"crawl.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(layouts.hf_table(rows), path, row_group_size=3)
    elif kind == "tfds":
        layouts.write_tfds(path, {"train": rows})
    else:
        {"tar": layouts.write_tar, "zip": layouts.write_zip}[kind](path, files)
    config = from_dict({"ingest": {"path": str(path)}})
    workdir = store.Workdir(tmp_path / "work")
    for _ in range(2):  # the second time it looks whether the folders of the first are there
        context = StageContext(config, workdir, workdir.open_partial("ingest", "key"))
        metadata = ingest.run(context)
        workdir.finish("ingest", {"key": "key", "metadata": metadata})
    assert metadata["images"] == 10 and ingest.STAGE.rescan(config, workdir) is None
    context = StageContext(config, workdir, workdir.open_partial("pack", "key"))
    assert pack.run(context)["images"] == 10
    kept = [image_store.plain_jpeg(data, 256) for _, _, data in rows]
    labels = store.read_table(context.out / "instances.parquet")["label"].to_pylist()
    for record, label in zip(ImageStore(context.out).read(np.arange(10)), labels, strict=True):
        assert kept.index(record) % 2 == label
    os.rename(path, tmp_path / "away")
    context = StageContext(config, workdir, workdir.open_partial("pack", "another"))
    assert pack.run(context)["images"] == 10, "ingest has packed them ahead"
    os.makedirs(tmp_path / "other")
    os.symlink(workdir.path("ingest"), tmp_path / "other/ingest")  # as the ablation shares stages
    store.Workdir(tmp_path / "other").drop_ahead("ingest")
    assert (workdir.path("ingest") / store.AHEAD).is_dir()
    workdir.drop_ahead("ingest")
    with pytest.raises(RunError, match="10 of the images that ingest has read cannot be read now"):
        pack.run(StageContext(config, workdir, workdir.open_partial("pack", "other")))
