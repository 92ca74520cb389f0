"""Metadata of `.tflite` files: read back by hand from the bytes, by our reader, by a task library."""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import zipfile

import flatbuffers
import numpy as np
import pytest

from urnet_tf.errors import UsageError
from urnet_tf.export.flatbuffer_model import unpack_model
from urnet_tf.export.tflite import KINDS, build_tflite_classifier, write_tflite
from urnet_tf.export.tflite_metadata import add_metadata, read_metadata, set_version

NAMES = ["great white", "Käfer", "three\nlines", "d", "e", "f"]
IDS = [f"n{number:08}" for number in range(6)]
LINES = ["great white", "Käfer", "three lines", "d", "e", "f"]


@pytest.fixture(scope="module")
def path(tiny_model, tiny_preparation, tmp_path_factory):
    path = tmp_path_factory.mktemp("metadata") / "tiny.tflite"
    write_tflite(
        tiny_model, path, image_size_px=32, labels=NAMES, class_ids=IDS, preparation=tiny_preparation,
        name="Fische", version="3",
    )  # fmt: skip
    return path


class Table:
    """A table in a buffer, read slot by slot with the flatbuffers runtime."""

    def __init__(self, data, position):
        self.table = flatbuffers.table.Table(data, position)

    def _at(self, slot):
        offset = self.table.Offset(4 + 2 * slot)
        return offset and offset + self.table.Pos

    def byte(self, slot):
        return self._at(slot) and self.table.Bytes[self._at(slot)]

    def string(self, slot):
        return self.table.String(self._at(slot)).decode()

    def child(self, slot):
        return Table(self.table.Bytes, self.table.Indirect(self._at(slot)))

    def children(self, slot):
        offset = self._at(slot) - self.table.Pos
        start = self.table.Vector(offset)
        starts = range(start, start + 4 * self.table.VectorLen(offset), 4)
        return [Table(self.table.Bytes, self.table.Indirect(s)) for s in starts]

    def floats(self, slot):
        offset = self._at(slot) - self.table.Pos
        count, start = self.table.VectorLen(offset), self.table.Vector(offset)
        return np.frombuffer(self.table.Bytes, "<f4", count, start).tolist()


def read_buffer(path):
    model = unpack_model(path.read_bytes())
    (entry,) = [m for m in model.metadata if m.name == b"TFLITE_METADATA"]
    return bytes(bytearray(model.buffers[entry.buffer].data))


def test_another_version_is_in_every_place(path, tmp_path):
    copy = tmp_path / "tiny.tflite"
    copy.write_bytes(path.read_bytes())
    set_version(copy, "Fische", "1234567")
    data = read_buffer(copy)
    root = Table(data, flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, 0))
    assert [root.string(i) for i in (0, 1, 2)] == ["Fische", "Image classifier", "1234567"]
    with zipfile.ZipFile(copy) as archive:
        assert json.loads(archive.read("preparation.json"))["version"] == "1234567"
    assert read_metadata(copy) == read_metadata(path)
    content = copy.read_bytes()
    assert content.count(b"M001") == 1  # no earlier metadata lives on
    assert content.count(b"preparation.json") == path.read_bytes().count(b"preparation.json")
    set_version(copy, "Fische", "3")
    assert len(copy.read_bytes()) == len(path.read_bytes())


def test_the_buffer_holds_what_the_schema_says(path):
    data = read_buffer(path)
    assert data[4:8] == b"M001"
    root = Table(data, flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, 0))
    assert [root.string(i) for i in (0, 1, 2, 7)] == ["Fische", "Image classifier", "3", "1.0.0"]
    (graph,) = root.children(3)
    (image,), (probabilities,) = graph.children(2), graph.children(3)
    assert [t.string(0) for t in (image, probabilities)] == ["image", "probabilities"]
    content = image.child(3)
    assert content.byte(0) == 2 and content.child(1).byte(0) == 1  # ImageProperties, RGB
    (unit,) = image.children(4)
    assert unit.byte(0) == 1  # NormalizationOptions
    assert (unit.child(1).floats(0), unit.child(1).floats(1)) == ([0.0], [1.0])  # mean, std
    assert (image.child(5).floats(0), image.child(5).floats(1)) == ([255.0], [0.0])  # max, min
    assert (probabilities.child(5).floats(0), probabilities.child(5).floats(1)) == ([1.0], [0.0])
    assert probabilities.child(3).byte(0) == 1  # FeatureProperties
    (labels,), beside = probabilities.children(6), root.children(6)
    assert (labels.string(0), labels.byte(2)) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS
    told = [(file.string(0), file.byte(2)) for file in beside]
    assert told == [("class_ids.txt", 1), ("preparation.json", 1)]  # DESCRIPTIONS


def test_files_are_appended_uncompressed(path, tiny_preparation):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {i.filename: i.compress_type for i in archive.infolist()} == {
            "labels.txt": zipfile.ZIP_STORED, "class_ids.txt": zipfile.ZIP_STORED,
            "preparation.json": zipfile.ZIP_STORED,
        }  # fmt: skip
        assert archive.read("labels.txt").decode() == "\n".join(LINES) + "\n"
        assert archive.read("class_ids.txt").decode() == "\n".join(IDS) + "\n"
        metadata = json.loads(archive.read("preparation.json"))
    assert metadata == tiny_preparation.to_dict() | {"name": "Fische", "version": "3"}
    assert read_metadata(path) == (LINES, tiny_preparation, IDS)


def test_metadata_replaces_what_was_there(path, tmp_path, tiny_preparation):
    again = tmp_path / "again.tflite"
    again.write_bytes(path.read_bytes())
    add_metadata(again, "Fische", NAMES, tiny_preparation, class_ids=IDS, version="3")
    assert zipfile.ZipFile(again).namelist() == ["labels.txt", "class_ids.txt", "preparation.json"]
    assert read_buffer(again) == read_buffer(path)
    add_metadata(again, "other", LINES[::-1])
    assert read_metadata(again) == (LINES[::-1], None, LINES[::-1])  # the names where no id is given
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        build_tflite_classifier(again)(images), build_tflite_classifier(path)(images)
    )


def test_an_archive_that_unpacks_to_gigabytes_or_is_damaged_is_told(tmp_path):
    bomb = tmp_path / "bomb.tflite"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", bytes(65 << 20))
    assert bomb.stat().st_size < 100_000
    with pytest.raises(UsageError, match="labels.txt is too large"):
        read_metadata(bomb)
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("preparation.json", "[" * 100_000)
    with pytest.raises(UsageError, match="damaged"):
        read_metadata(bomb)
    data = bytearray(bomb.read_bytes())
    for at in range(len(data)):  # every byte of the archive
        bomb.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        with contextlib.suppress(UsageError):
            read_metadata(bomb)


def test_a_plain_file_has_none_and_damage_is_told(path, tmp_path, tiny_model):
    plain = tmp_path / "plain.tflite"
    write_tflite(tiny_model, plain, image_size_px=32)
    assert read_metadata(plain) == (None, None, None)
    with pytest.raises(UsageError, match="Expected 6 labels, as .*plain.tflite has classes; received 2"):
        add_metadata(plain, "x", ["a", "b"])
    with pytest.raises(UsageError, match="Expected 6 ids, as .*plain.tflite has classes; received 2"):
        add_metadata(plain, "x", NAMES, class_ids=["a", "b"])
    whole = io.BytesIO(plain.read_bytes())
    with zipfile.ZipFile(whole, "a") as archive:
        archive.writestr("preparation.json", "no JSON")
    plain.write_bytes(whole.getvalue())
    with pytest.raises(UsageError, match="inside .*plain.tflite are damaged .* Export the model again"):
        read_metadata(plain)
    with pytest.raises(UsageError, match="Expected a TFLite model"):
        (tmp_path / "text").write_text("no model")
        add_metadata(tmp_path / "text", "x", ["a"])


@pytest.mark.parametrize("kind", [k for k in KINDS if k in ("float32", "int8")])
def test_a_task_library_reads_it(kind, webtiny, tmp_path):
    """EfficientNet-Lite0 on photographs; a head on random directions tells them apart."""
    python = os.environ.get("URNET_MEDIAPIPE_PYTHON")
    if not python:
        pytest.skip("set URNET_MEDIAPIPE_PYTHON to a Python interpreter that has mediapipe")
    import keras

    from urnet_tf.export.preparation import Preparation
    from urnet_tf.models.backbone import build_backbone

    preparation = Preparation(96)
    photos = sorted((webtiny / "test_images_256").iterdir())[:24]
    images = np.rint(preparation.decode([p.read_bytes() for p in photos])[0].numpy())
    backbone = build_backbone("efficientnet_lite0", 96)
    features = backbone.predict(images, verbose=0)
    head = keras.layers.Dense(len(NAMES))
    model = keras.Sequential([backbone, head])
    model.build((None, 96, 96, 3))
    kernel = features[: len(NAMES)] - features.mean(axis=0)  # the first photographs are the classes
    kernel /= np.square(kernel).sum(axis=1, keepdims=True) / 4
    head.set_weights([kernel.T, -kernel @ features.mean(axis=0)])
    path = tmp_path / "photos.tflite"
    write_tflite(
        model, path, image_size_px=96, kind=kind, calibration=images[8:] if kind == "int8" else None,
        labels=NAMES, preparation=preparation,
    )  # fmt: skip
    np.save(tmp_path / "images.npy", images.astype(np.uint8))
    script = pathlib.Path(__file__).with_name("mediapipe_reader.py")
    command = [python, script, path, tmp_path / "images.npy", tmp_path / "answers.json"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads((tmp_path / "answers.json").read_text())
    expected = build_tflite_classifier(path)(images)
    assert expected[: len(NAMES)].argmax(axis=1).tolist() == list(range(len(NAMES)))
    for answer, probabilities in zip(answers, expected, strict=True):
        assert answer[0][2] == pytest.approx(probabilities.max(), abs=1e-5)
        assert [label for label, _, _ in answer] == [LINES[index] for _, index, _ in answer]
        for _, index, score in answer:
            assert score == pytest.approx(probabilities[index], abs=1e-5)
