"""Crawls in the layouts of other tools, with the right reading of each; images are read where they lie."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from urnet_fixtures import layouts
from urnet_fixtures.layouts import NAMES, jpeg, put, samples, write_tar, write_zip

from urnet_tf.config import from_dict
from urnet_tf.crawl import readers
from urnet_tf.errors import UsageError
from urnet_tf.flow import survey
from urnet_tf.images.probe import read_file
from urnet_tf.stages import ingest


def per_class(root):
    for name in NAMES:
        layouts.write_img2dataset(root / name, "files", labels=False)


def webdataset(root):
    files = [
        (f"{n}.{kind}", data)
        for n, name, image in samples()
        for kind, data in (("jpg", image), ("cls", name))
    ]
    write_tar(root / "shard-0.tar", files[:6])
    write_tar(root / "shard-1.tar", files[6:])


def _split_shards(split, count):
    return [
        (f"{n:06d}.{kind}", data)
        for n, name, _ in samples(count)
        for kind, data in (("jpg", jpeg(n + 20 * len(split))), ("cls", name))
    ]


def webdataset_splits(root):
    for split, count in (("train", 6), ("val", 3)):
        write_tar(root / f"pets-{split}-000000.tar", _split_shards(split, count))


def webdataset_split_folders(root):
    for split, count in (("train", 6), ("validation", 3)):
        write_tar(root / split / "000000.tar", _split_shards(split, count))


def tar_of_classes(root):
    files = [(f"./photos/{name}/x{n}.jpg", data) for n, name, data in samples()]
    write_tar(root / "crawl.tar", [*files, ("./photos/cat/notes.txt", "x"), ("./photos/.DS_Store", "x")])
    return root / "crawl.tar"


def zip_of_splits(root):
    files = [(f"{split}/{name}/x{n}.jpg", jpeg(n + 50 * len(split))) for split in ("Train", "Val")
             for n, name, _ in samples()]  # fmt: skip
    write_zip(root / "crawl.zip", [*files, *((f"__MACOSX/Train/cat/._{n}", "x") for n in range(3))])
    return root / "crawl.zip"


def hub(root):
    (root / "data").mkdir(parents=True)
    for split, rows in (("train", samples()), ("validation", samples(3)), ("test", samples(2))):
        table = layouts.hf_table([(n, name, jpeg(n + 10 * len(split))) for n, name, _ in rows])
        pa.parquet.write_table(table, root / f"data/{split}-00000-of-00001-0a1b2c.parquet", row_group_size=2)
    put(root / "README.md", "x")


def one_parquet(root):
    root.mkdir()
    pa.parquet.write_table(
        layouts.hf_table([*samples(), (9, None, jpeg(9))]), root / "t.parquet", row_group_size=2
    )
    return root / "t.parquet"


def saved(root):
    layouts.write_saved_dataset(root, samples())


def saved_splits(root):
    layouts.write_saved_dataset(root / "train", samples())
    layouts.write_saved_dataset(root / "validation", [(n, name, jpeg(n + 50)) for n, name, _ in samples(3)])
    put(root / "dataset_dict.json", json.dumps({"splits": ["train", "validation"]}))


def tfds_arrays(root):
    layouts.write_tfds(root, {"train": samples(), "test": samples(7)[6:]}, "array_record")


def tfds(root):
    layouts.write_tfds(root / "animals/1.0.0", {"train": samples(), "test": [(0, "cat", jpeg(70))]})


def metadata_with_labels(root):
    for n, _, data in samples():
        put(root / f"train/{n}.jpg", data)
    put(root / "train/unlisted.jpg", jpeg(80))
    rows = "".join(f"{n}.jpg,{name},a {name}\n" for n, name, _ in samples())
    put(root / "train/metadata.csv", "file_name,label,text\n" + rows)


def metadata_of_class_folders(root):
    rows = [{"file_name": f"{name}/{n}.jpg", "text": f"a {name}"} for n, name, _ in samples()]
    for row, (_, _, data) in zip(rows, samples(), strict=True):
        put(root / row["file_name"], data)
    put(root / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def fiftyone(root):
    for n, _, data in samples():
        put(root / f"data/{n}.jpg", data)
    labels = {str(n): NAMES.index(name) for n, name, _ in samples()}
    put(
        root / "labels.json",
        json.dumps({"classes": NAMES, "labels": labels | {"a": None, "b": 17, "c": [0, 1]}}),
    )


def fiftyone_splits(root):
    for split, count in (("train", 6), ("validation", 3)):
        for n, _, _ in samples(count):
            put(root / f"{split}/data/{n}.jpg", jpeg(n + 10 * len(split)))
        labels = {str(n): {"label": name, "confidence": None} for n, name, _ in samples(count)}
        put(root / split / "labels.json", json.dumps({"classes": None, "labels": labels}))


def fiftyone_samples(root):
    found = []
    for n, name, data in samples():
        put(root / f"data/{n}.jpg", data)
        tags = ["validation" if n > 3 else "train", "mine"]
        found.append({"filepath": f"data/{n}.jpg", "tags": tags, "ground_truth": {"label": name}})
    put(root / "samples.json", json.dumps({"samples": found}))


def unrelated_metadata(root):
    for n, name, data in samples():
        put(root / f"{name}/x{n}.jpg", data)
    put(root / "metadata.csv", "id,license\n1,CC0\n")


def img2dataset(output, **options):
    return lambda root: layouts.write_img2dataset(root, output, **options)


# name → (writer, kind, rows of train, val and test, rows set aside, a path, its description)
LAYOUTS = {
    "img2dataset files": (
        img2dataset("files"),
        "dataset",
        (6, 0, 0),
        2,
        "00000/000000000.jpg",
        "a cat, seen",
    ),
    "img2dataset files without tables": (
        img2dataset("files", table=False),
        "dataset",
        (6, 0, 0),
        0,
        "00001/000010002.jpg",
        "a owl, seen",
    ),
    "img2dataset tars": (
        img2dataset("webdataset"),
        "dataset",
        (6, 0, 0),
        2,
        "00000.tar/000000001.jpg",
        "a dog, seen",
    ),
    "img2dataset tars without tables": (
        img2dataset("webdataset", table=False),
        "dataset",
        (6, 0, 0),
        0,
        "00000.tar/000000001.jpg",
        "a dog, seen",
    ),
    "img2dataset parquet": (
        img2dataset("parquet"),
        "dataset",
        (6, 0, 0),
        2,
        "00000.parquet/jpg/1",
        "a dog, seen",
    ),
    "img2dataset a class": (per_class, "dataset", (18, 0, 0), 6, "cat/00000/000000000.jpg", "a cat, seen"),
    "webdataset": (webdataset, "dataset", (6, 0, 0), 0, "shard-1.tar/4.jpg", ""),
    "webdataset splits": (webdataset_splits, "dataset", (6, 3, 0), 0, "pets-val-000000.tar/000001.jpg", ""),
    "webdataset split folders": (
        webdataset_split_folders,
        "dataset",
        (6, 3, 0),
        0,
        "validation/000000.tar/000001.jpg",
        "",
    ),
    "tar": (tar_of_classes, "folder", (6, 0, 0), 0, "photos/cat/x0.jpg", ""),
    "zip": (zip_of_splits, "folder", (6, 6, 0), 0, "Train/cat/x0.jpg", ""),
    "hub": (hub, "dataset", (6, 3, 2), 0, "data/train-00000-of-00001-0a1b2c.parquet/image/5", ""),
    "parquet": (one_parquet, "dataset", (6, 0, 0), 1, "t.parquet/image/3", ""),
    "saved": (saved, "dataset", (6, 0, 0), 0, "data-00000-of-00001.arrow/image/5", ""),
    "saved splits": (saved_splits, "dataset", (6, 3, 0), 0, "train/data-00000-of-00001.arrow/image/0", ""),
    "tfds": (
        tfds,
        "dataset",
        (6, 0, 1),
        0,
        "animals/1.0.0/animals-train.tfrecord-00000-of-00001/image/5",
        "",
    ),
    "tfds arrays": (
        tfds_arrays,
        "dataset",
        (6, 0, 1),
        0,
        "animals-train.array_record-00000-of-00001/image/5",
        "",
    ),
    "metadata": (metadata_with_labels, "dataset", (6, 0, 0), 0, "train/1.jpg", "a dog"),
    "metadata of folders": (metadata_of_class_folders, "dataset", (6, 0, 0), 0, "dog/1.jpg", "a dog"),
    "fiftyone": (fiftyone, "dataset", (6, 0, 0), 3, "data/1.jpg", ""),
    "fiftyone splits": (fiftyone_splits, "dataset", (6, 3, 0), 0, "train/data/1.jpg", ""),
    "fiftyone samples": (fiftyone_samples, "dataset", (4, 2, 0), 0, "data/1.jpg", ""),
    "unrelated metadata": (unrelated_metadata, "folder", (6, 0, 0), 0, "cat/x0.jpg", ""),
}


def settings_of(path, **settings):
    return from_dict({"ingest": {"path": str(path), **settings}})


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(tmp_path, name):
    write, kind, splits, aside, picture, text = LAYOUTS[name]
    path = write(tmp_path / "crawl") or tmp_path / "crawl"
    assert readers.detect_kind(str(path)) == kind
    crawl = ingest.read_crawl(settings_of(path))
    assert [entry["name"] for entry in crawl.classes] == list(NAMES)
    found = crawl.rows["split"].to_pylist()
    assert tuple(found.count(split) for split in ("train", "val", "test")) == splits
    assert len(crawl.rejected) == aside
    rows = {row["path"]: row for row in crawl.rows.to_pylist()}
    assert rows[picture]["description"] == text
    images = {p: read_file(os.path.join(crawl.root, p), 10**6) for p in rows}
    assert all(data.startswith(b"\xff\xd8") for data in images.values())
    assert name == "img2dataset a class" or len(set(images.values())) == len(images)
    sizes = [len(data) for data in images.values()]
    assert min(sizes) / 2 < survey.mean_size(crawl) < 2 * max(sizes)
    before = ingest.inputs(settings_of(path))
    assert ingest.inputs(settings_of(path)) == before
    os.utime(next(p for p in [path, *sorted(tmp_path.rglob("*.*"))] if p.is_file()), ns=(1, 1))
    assert ingest.inputs(settings_of(path)) != before


def test_reasons_of_rows_that_were_not_downloaded(tmp_path):
    layouts.write_img2dataset(tmp_path / "i", "webdataset")
    rejected = ingest.read_crawl(settings_of(tmp_path / "i")).rejected.to_pylist()
    assert rejected[0]["reason"] == "000000009 of 00000.tar: not downloaded (HTTP Error 404: Not Found)"
    assert {row["status"] for row in rejected} == {"missing"}


def test_what_is_said_of_them(tmp_path):
    metadata_with_labels(tmp_path / "m")
    notes = ingest.read_crawl(settings_of(tmp_path / "m")).notes
    assert "1 images in the folder are not in its metadata and are left out" in notes
    layouts.write_img2dataset(tmp_path / "i", "files", labels=False)
    with pytest.raises(UsageError, match="labels in the shards .* columns caption; .* ingest.columns={lab"):
        ingest.read_crawl(settings_of(tmp_path / "i"))
    crawl = ingest.read_crawl(settings_of(tmp_path / "i", columns={"label": "caption"}))
    assert [entry["name"] for entry in crawl.classes] == [f"a {name}, seen" for name in NAMES]
    put(tmp_path / "x.tar.gz", b"x")
    with pytest.raises(UsageError, match=r"read on its own \(.tar, .zip\); received .*x.tar.gz; unpack it"):
        readers.detect_kind(str(tmp_path / "x.tar.gz"))
    put(tmp_path / "x.zip", b"nothing")
    with pytest.raises(
        UsageError, match="tar or zip archive at .*x.zip; it cannot be read: File is not a zip"
    ):
        ingest.read_crawl(settings_of(tmp_path / "x.zip"))
    put(tmp_path / "y.tar", b"nothing at all" * 100)
    with pytest.raises(UsageError, match="tar or zip archive at .*y.tar"):
        ingest.read_crawl(settings_of(tmp_path / "y.tar"))
    layouts.write_tfds(tmp_path / "t", {"train": samples()})
    records = tmp_path / "t/animals-train.tfrecord-00000-of-00001"
    records = records.rename(tmp_path / "t/a-train.riegeli-00000-of-00001")
    with pytest.raises(UsageError, match="Expected TFRecord or ArrayRecord files .* file_format=array_rec"):
        ingest.read_crawl(settings_of(tmp_path / "t"))
    records = records.rename(tmp_path / "t/a-train.array_record-00000-of-00001")
    with pytest.raises(UsageError, match="a-train.array_record-00000-of-00001.* damaged ArrayRecord file"):
        ingest.read_crawl(settings_of(tmp_path / "t"))
    layouts.write_saved_dataset(tmp_path / "s", samples())
    put(tmp_path / "s/state.json", json.dumps({"_indices_data_files": [{"filename": "x"}]}))
    with pytest.raises(UsageError, match="flatten_indices"):
        ingest.read_crawl(settings_of(tmp_path / "s"))


def test_a_dataset_read_as_what_the_user_says(tmp_path):
    metadata_of_class_folders(tmp_path / "m")
    crawl = ingest.read_crawl(settings_of(tmp_path / "m", kind="folder"))
    assert len(crawl.rows) == 6 and not any(crawl.rows["description"].to_pylist())
    with pytest.raises(UsageError, match="Expected a list"):
        ingest.read_crawl(settings_of(tmp_path / "m", kind="list"))


def test_validation_images_of_another_layout(tmp_path):
    unrelated_metadata(tmp_path / "train")
    saved(tmp_path / "val")
    zip_of_splits(tmp_path / "test")
    write_zip(tmp_path / "test.zip", [(f"{name}/t{n}.jpg", data) for n, name, data in samples(2)])
    paths = {"val_path": str(tmp_path / "val"), "test_path": str(tmp_path / "test.zip")}
    crawl = ingest.read_crawl(settings_of(tmp_path / "train", **paths))
    splits = crawl.rows["split"].to_pylist()
    assert (splits.count("train"), splits.count("val"), splits.count("test")) == (6, 6, 2)
    assert all(read_file(os.path.join(crawl.root, path), 10**6) for path in crawl.rows["path"].to_pylist())


def test_cells_without_bytes_lead_to_files(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": data if n else None, "path": f"out/{n}.jpg"} for n, _, data in samples(4)]
    put(tmp_path / "s/out/0.jpg", jpeg(0))
    table = pa.table({"image": pa.array(cells, kind), "label": ["a", "a", "b", "b"]})
    with pa.ipc.new_stream(tmp_path / "s/data.arrow", table.schema) as stream:
        stream.write_table(table)
    put(tmp_path / "s/state.json", json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    put(tmp_path / "s/dataset_info.json", "{}")
    crawl = ingest.read_crawl(settings_of(tmp_path / "s"))
    assert crawl.rows["path"].to_pylist()[:2] == ["out/0.jpg", "data.arrow/image/1"]


def test_labels_by_random_classes_stay_with_their_images(tmp_path):
    """Whatever the layout, the image of a row is the one that had its label."""
    rng = np.random.default_rng(0)
    rows = [(n, NAMES[rng.integers(3)], jpeg(n)) for n in range(40)]
    by_bytes = {data: name for _, name, data in rows}
    pa_path = tmp_path / "p.parquet"
    pa.parquet.write_table(layouts.hf_table(rows), pa_path, row_group_size=7)
    layouts.write_tfds(tmp_path / "t", {"train": rows})
    layouts.write_saved_dataset(tmp_path / "s", rows)
    write_zip(tmp_path / "z.zip", [(f"{name}/{n}.jpg", data) for n, name, data in rows])
    for path in (pa_path, tmp_path / "t", tmp_path / "s", tmp_path / "z.zip"):
        crawl = ingest.read_crawl(settings_of(path))
        assert len(crawl.rows) == 40
        for row in crawl.rows.to_pylist():
            data = read_file(os.path.join(crawl.root, row["path"]), 10**6)
            assert by_bytes[data] == crawl.classes[row["label"]]["name"], path


def test_several_prepared_datasets(tmp_path):
    for version in ("1.0.0", "2.0.0"):
        layouts.write_tfds(tmp_path / "animals" / version, {"train": samples()})
    (tmp_path / "downloads/extracted").mkdir(parents=True)
    with pytest.raises(UsageError, match="one prepared .* animals/1.0.0, animals/2.0.0; give the folder"):
        ingest.read_crawl(settings_of(tmp_path))
    assert len(ingest.read_crawl(settings_of(tmp_path / "animals/2.0.0")).rows) == 6


@pytest.mark.slow
def test_what_tensorflow_datasets_itself_prepares(tmp_path):
    """Half a minute: TensorFlow is imported. The library comes with the extra `augment`."""
    library = pytest.importorskip("tensorflow_datasets")
    features = library.features

    class Animals(library.core.GeneratorBasedBuilder):
        VERSION = library.core.Version("1.0.0")
        code_path = None  # it asks for this module's file, which pytest imports in its own way

        def _info(self):
            found = {"image": features.Image(), "label": features.ClassLabel(names=list(NAMES)),
                     "text": features.Text()}  # fmt: skip
            return library.core.DatasetInfo(builder=self, features=features.FeaturesDict(found))

        def _split_generators(self, manager):
            return {"train": self._rows(6), "validation": self._rows(3)}

        def _generate_examples(self):
            raise NotImplementedError

        def _rows(self, count):
            for n, name, data in samples(count):
                put(tmp_path / f"{n}.jpg", data)
                yield n, {"image": str(tmp_path / f"{n}.jpg"), "label": name, "text": f"a {name}"}

    Animals(data_dir=str(tmp_path / "data")).download_and_prepare()
    crawl = ingest.read_crawl(settings_of(tmp_path / "data"))
    by_bytes = {data: (name, f"a {name}") for _, name, data in samples()}
    assert sorted(crawl.rows["split"].to_pylist()) == ["train"] * 6 + ["val"] * 3
    for row in crawl.rows.to_pylist():
        data = read_file(os.path.join(crawl.root, row["path"]), 10**6)
        assert by_bytes[data] == (crawl.classes[row["label"]]["name"], row["description"])
