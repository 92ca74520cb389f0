"""Small crawls in the layouts of other tools, written as these do."""

import io
import json
import pathlib
import struct
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

NAMES = ("cat", "dog", "owl")


def jpeg(seed):
    """The bytes of a small image, another for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def put(path, data):
    """Writes a file and the folders above it."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def samples(count=6):
    """Number, name of the class and bytes of each image."""
    return [(n, NAMES[n % len(NAMES)], jpeg(n)) for n in range(count)]


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            data = data if isinstance(data, bytes) else data.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def write_zip(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)


def write_img2dataset(root, output, *, labels=True, table=True):
    """Two shards of three images and one failed download, as img2dataset's `output_format` says."""
    for shard in range(2):
        rows, files = [], []
        for n, name, data in samples()[shard * 3 : shard * 3 + 3] + [(99, "cat", None)]:
            key = f"{shard:05d}{n % 3 if data else 9:04d}"
            row = {
                "url": f"http://x/{n}.jpg", "caption": f"a {name}, seen", "key": key,
                "status": "success" if data else "failed_to_download",
                "error_message": None if data else "HTTP Error 404: Not Found", "width": 16 if data else None,
            }  # fmt: skip
            rows.append(row | ({"label": name} if labels else {}))
            if data:
                known = json.dumps(rows[-1])
                files += [(f"{key}.jpg", data), (f"{key}.txt", row["caption"]), (f"{key}.json", known)]
                rows[-1]["jpg"] = data
        stem = root / f"{shard:05d}"
        if output == "files":
            for name, data in files:
                put(stem / name, data)
        elif output == "webdataset":
            write_tar(stem.with_suffix(".tar"), files)
        images = [row.pop("jpg", None) for row in rows]
        columns = pa.Table.from_pylist(rows)
        if output == "parquet":
            columns = columns.append_column("jpg", pa.array(images, pa.binary()))
        if table:
            root.mkdir(parents=True, exist_ok=True)
            pa.parquet.write_table(columns, stem.with_suffix(".parquet"))
            put(root / f"{shard:05d}_stats.json", "{}")


def hf_table(rows):
    """A table like those of Hugging Face: a structure of bytes and path, and numbers of classes."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": data, "path": f"{n}.jpg"} for n, _, data in rows]
    features = {
        "image": {"_type": "Image"}, "label": {"names": list(NAMES), "_type": "ClassLabel"}
    }  # fmt: skip
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata)
    labels = [NAMES.index(name) if name else -1 for _, name, _ in rows]
    return pa.table({"image": pa.array(cells, kind), "label": labels}, schema=schema)


def write_saved_dataset(folder, rows):
    """As `Dataset.save_to_disk` does."""
    folder.mkdir(parents=True)
    table = hf_table(rows)
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as stream:
        stream.write_table(table)
    put(folder / "state.json", json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    put(folder / "dataset_info.json", "{}")


def _field(number, data):
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value):
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def example(image, label):
    """A tf.train.Example, byte by byte."""
    values = {"image": _field(1, _field(1, image)), "label": _field(3, _field(1, _varint(label)))}
    entries = b"".join(
        _field(1, _field(1, name.encode()) + _field(2, value)) for name, value in values.items()
    )
    return _field(1, entries)


def write_records(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(struct.pack("<QI", len(r), 0) + r + bytes(4) for r in records))


def write_tfds(folder, splits, file_format="tfrecord"):
    """As tensorflow-datasets prepares a dataset: {split: rows}."""
    features = {
        "image": {"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image"},
        "label": {"pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel"},
    }
    put(folder / "features.json", json.dumps({"featuresDict": {"features": features}}))
    put(folder / "dataset_info.json", json.dumps({"name": "animals"}))
    put(folder / "label.labels.txt", "\n".join(NAMES) + "\n")
    for split, rows in splits.items():
        records = [example(data, NAMES.index(name)) for _, name, data in rows]
        path = folder / f"animals-{split}.{file_format}-00000-of-00001"
        if file_format == "tfrecord":
            write_records(path, records)
            continue
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
