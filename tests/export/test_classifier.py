"""Exports of a tiny model in all formats: what is written, the gate, refusal, promotion."""

import io
import json
import re
import zipfile

import keras
import numpy as np
import pytest
from urnet_fixtures.unreadable import Unreadable

from urnet_tf.errors import RunError, UsageError
from urnet_tf.export import classifier as export
from urnet_tf.export.checksums import find_damage
from urnet_tf.export.formats import DEFAULT_FORMATS, PRECISIONS
from urnet_tf.export.parity import Tolerance
from urnet_tf.export.preparation import Preparation
from urnet_tf.export.promotion import next_version, promote
from urnet_tf.export.rewriting import with_named_outputs
from urnet_tf.export.tflite import build_tflite_classifier
from urnet_tf.serving.model_files import find_model

SIZE = 32
IDS = [f"n{number:08}" for number in range(6)]
LABELS = np.array([0, 1, 2, 3, 4, 5, 0, 1, 2, 3, -1])


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_model, tiny_names, tiny_photos, tiny_preparation):
    directory = tmp_path_factory.mktemp("export")
    metadata = export.export_classifier(
        tiny_model,
        tiny_names,
        directory,
        "tiny",
        [*tiny_photos[:10], b"no image"],
        preparation=tiny_preparation,
        class_ids=IDS,
        check_labels=LABELS,
        check_split="test",
        calibration_images=tiny_photos,
        top_k=3,
        tolerance=Tolerance(int8_points=100),
        data={"images": 12},
        settings={"seed": 0},
    )
    return directory, metadata


def test_all_formats_are_kept_and_near_keras(exported):
    _, metadata = exported
    assert tuple(metadata["formats"]) == DEFAULT_FORMATS
    for kind, entry in metadata["formats"].items():
        assert entry["kept"] and entry["refused"] is None, kind
        assert entry["bytes"] > 0 and entry["latency_ms"] > 0, kind
        largest = {"float32": 1e-5, "float16": 1e-2, "int8": 0.2}[PRECISIONS[kind]]
        assert entry["parity"]["max_difference"] <= largest, kind
    signatures = metadata["formats"]["saved_model"]["parity"]["signatures"]
    assert set(signatures) == {"serving_default", "tensor", "features"}
    sizes = {kind: entry["bytes"] for kind, entry in metadata["formats"].items()}
    assert sizes["tflite_float16"] < sizes["tflite_float32"]


def test_the_keras_file_holds_no_date_and_repeats(exported, tiny_model, tiny_preparation, tmp_path):
    directory, metadata = exported
    written = (directory / "tiny" / "1" / "tiny.keras").read_bytes()
    with zipfile.ZipFile(io.BytesIO(written)) as archive:
        assert {info.date_time[0] for info in archive.infolist()} == {1980}
        assert json.loads(archive.read("metadata.json"))["date_saved"] == ""
    writer = export._Writer(with_named_outputs(tiny_model), [], tmp_path, metadata, tiny_preparation, ())
    writer.write("keras")
    assert (tmp_path / "tiny.keras").read_bytes() == written


def test_accuracy_is_of_the_labeled_images(exported, tiny_model, tiny_photos, tiny_preparation):
    _, metadata = exported
    assert metadata["check"] == {"images": 10, "labeled": 10, "split": "test"}
    images = tiny_preparation.decode(tiny_photos[:10])[0]
    best = np.argmax(tiny_model(images, training=False), axis=1)
    assert metadata["reference"]["top1"] == pytest.approx((best == LABELS[:10]).mean())
    for kind in ("saved_model", "keras", "tflite_float32"):
        assert metadata["formats"][kind]["accuracy"]["top1"] == metadata["reference"]["top1"]
    assert metadata["formats"]["saved_model"]["accuracy"]["top5"] is None, "three classes are served"
    assert metadata["formats"]["keras"]["accuracy"]["top5"] == metadata["reference"]["top5"]


def test_files_and_metadata(exported, tiny_names):
    directory, metadata = exported
    version = directory / "tiny" / "1"
    assert json.loads((version / "export.json").read_text()) == metadata
    assert sorted(p.name for p in version.iterdir()) == sorted([
        "README.md", "assets", "assets.extra", "class_ids.txt", "export.json", "fingerprint.pb", "labels.txt",
        "saved_model.pb", "tiny.keras", "tiny_dynamic_int8.tflite", "tiny_float16.tflite",
        "tiny_float32.tflite", "tiny_int8.tflite", "variables",
    ])  # fmt: skip
    for place in (version, version / "assets"):
        assert (place / "labels.txt").read_text(encoding="utf-8").splitlines() == tiny_names
        assert (place / "class_ids.txt").read_text(encoding="utf-8").splitlines() == IDS
    assert "tiny" in (directory / "models.config").read_text()
    assert not [p.name for p in directory.rglob(".*")]
    told = json.loads((version / "assets" / "model.json").read_text())
    assert told["version"] == metadata["version"] == 1 and told["preparation"]["short_side_px"] == 40
    assert told["class_ids"] == metadata["class_ids"] == IDS
    assert f"| {tiny_names[1]} | n00000001 |" in (version / "README.md").read_text(encoding="utf-8")
    assert find_model(version / "tiny.keras").class_ids == tuple(IDS)
    assert metadata["data"] == {"images": 12} and metadata["feature_dim"] == 16 and metadata["classes"] == 6


def small(tiny_model, tiny_names, tiny_photos, directory, **changes):
    settings = {"preparation": Preparation(SIZE, short_side_px=40), "formats": ["keras"]} | changes
    return export.export_classifier(tiny_model, tiny_names, directory, "tiny", tiny_photos, **settings)


def test_names_and_ids_of_classes_differ(tmp_path, tiny_model, tiny_names, tiny_photos):
    twice = [tiny_names[0], *tiny_names[:-1]]
    with pytest.raises(UsageError, match="Expected names of classes that differ; received .* twice"):
        small(tiny_model, twice, tiny_photos, tmp_path)
    with pytest.raises(UsageError, match="Expected ids of classes that differ; received 'n00000000' twice"):
        small(tiny_model, tiny_names, tiny_photos, tmp_path, class_ids=[IDS[0], *IDS[:-1]])
    with pytest.raises(UsageError, match="Expected 6 ids of classes, one a name; received 5"):
        small(tiny_model, tiny_names, tiny_photos, tmp_path, class_ids=IDS[:-1])


def test_a_version_is_never_written_twice(tmp_path, tiny_model, tiny_names, tiny_photos):
    small(tiny_model, tiny_names, tiny_photos, tmp_path)
    before = (tmp_path / "tiny" / "1" / "export.json").read_bytes()
    assert small(tiny_model, tiny_names, tiny_photos, tmp_path)["version"] == 2
    assert (tmp_path / "tiny" / "1" / "export.json").read_bytes() == before
    assert next_version(tmp_path / "tiny", 7) == 7


@pytest.fixture
def wrong_keras_file(monkeypatch):
    """The Keras file answers with other probabilities, as after a conversion that went wrong."""
    from urnet_tf.export import check

    true = check.open_format

    def opened(kind, path, model, preparation):
        answers = true(kind, path, model, preparation)
        if kind != "keras":
            return answers
        return {"": lambda encoded, plain: (answers[""](encoded, plain)[0] + 0.01,)}

    monkeypatch.setattr(check, "open_format", opened)


def test_a_difference_above_the_tolerance_is_refused(
    wrong_keras_file, tmp_path, tiny_model, tiny_names, tiny_photos
):
    with pytest.raises(RunError, match=r"(?s)nothing was kept.*keras: .*up to 0.01, .*allowed 0.0001"):
        small(tiny_model, tiny_names, tiny_photos, tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_the_other_files_stay(wrong_keras_file, tmp_path, tiny_model, tiny_names, tiny_photos):
    metadata = small(tiny_model, tiny_names, tiny_photos, tmp_path, formats=["keras", "tflite_float32"])
    entry = metadata["formats"]["keras"]
    assert not entry["kept"] and re.search(r"up to 0.01, .*same best class on 100.0 %", entry["refused"])
    assert metadata["formats"]["tflite_float32"]["kept"]
    version = tmp_path / "tiny" / "1"
    assert not (version / "tiny.keras").exists() and (version / "tiny_float32.tflite").exists()
    assert "allowed 0.0001" in (version / "README.md").read_text()


def test_drift_is_kept_where_it_is_allowed(wrong_keras_file, tmp_path, tiny_model, tiny_names, tiny_photos):
    metadata = small(tiny_model, tiny_names, tiny_photos, tmp_path, allow_drift=True)
    entry = metadata["formats"]["keras"]
    assert entry["kept"] and "up to 0.01" in entry["refused"]
    assert (tmp_path / "tiny" / "1" / "tiny.keras").exists()


def test_nan_is_refused(tmp_path, make_tiny_model, tiny_names, tiny_photos):
    model = make_tiny_model()
    model.get_layer("logits").kernel.assign(np.full(model.get_layer("logits").kernel.shape, np.nan))
    with pytest.raises(RunError, match="nothing was kept"):
        small(model, tiny_names, tiny_photos, tmp_path)


def test_a_file_that_keras_cannot_read_again_is_left_out(tmp_path, tiny_model, tiny_names, tiny_photos):
    x = Unreadable()(keras.layers.GlobalAveragePooling2D()(tiny_model.input))
    model = keras.Model(tiny_model.input, keras.layers.Dense(len(tiny_names))(x / 255), name="tiny")
    metadata = small(model, tiny_names, tiny_photos, tmp_path, formats=["keras", "tflite_float32"])
    entry = metadata["formats"]["keras"]
    assert not entry["kept"] and entry["refused"].startswith("The file was written, but cannot be used: ")
    assert metadata["formats"]["tflite_float32"]["kept"]
    assert not list(tmp_path.rglob("*.keras"))


def test_a_mixed_precision_model_is_exported_in_float32(tmp_path, make_tiny_model, tiny_names, tiny_photos):
    from urnet_tf.export.rewriting import float32_copy

    model = make_tiny_model(dtype="mixed_bfloat16")
    copy = float32_copy(model)
    assert copy.get_layer("backbone").layers[2].compute_dtype == "float32"
    for a, b in zip(model.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert float32_copy(copy) is copy
    metadata = small(model, tiny_names, tiny_photos, tmp_path, formats=["keras", "tflite_float32"])
    assert all(entry["parity"]["max_difference"] < 1e-5 for entry in metadata["formats"].values())


def test_a_model_that_tflite_cannot_hold_keeps_its_other_formats(tmp_path, tiny_names, tiny_photos):
    import keras

    class Unusual(keras.layers.Layer):
        def call(self, x):
            import tensorflow as tf

            return tf.linalg.expm(x[:, :3, :3, 0] / 255)[:, 0, :]

        def compute_output_shape(self, shape):
            return (shape[0], 3)

    keras.saving.register_keras_serializable(package="test")(Unusual)
    image = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(image, keras.layers.Dense(6)(Unusual()(image)))
    metadata = small(model, tiny_names, tiny_photos, tmp_path, formats=["tflite_float32", "keras"])
    assert "no built-in operation for MatrixSolve" in metadata["formats"]["tflite_float32"]["refused"]
    assert not metadata["formats"]["tflite_float32"]["kept"] and metadata["formats"]["keras"]["kept"]


def test_promotion_copies_whole_versions_and_renumbers(exported, tmp_path):
    directory, metadata = exported
    source = directory / "tiny" / "1"
    first = promote(source, tmp_path / "saved_models").version
    assert first == tmp_path / "saved_models" / "tiny" / "1"
    files = {p.relative_to(source) for p in source.rglob("*")}
    assert files == {p.relative_to(first) for p in first.rglob("*")}
    assert (first / "saved_model.pb").read_bytes() == (source / "saved_model.pb").read_bytes()
    with pytest.raises(UsageError, match="is there already, as"):
        promote(source, tmp_path / "saved_models")
    # Another run's first version becomes the second one here, in its files, too.
    other = promote_other(source, metadata, tmp_path)
    second = promote(other, tmp_path / "saved_models").version
    assert second.name == "2" and json.loads((second / "export.json").read_text())["version"] == 2
    assert json.loads((second / "assets" / "model.json").read_text())["version"] == 2
    assert (tmp_path / "saved_models" / "models.config").is_file()
    for file in second.glob("*.tflite"):
        with zipfile.ZipFile(file) as archive:
            assert json.loads(archive.read("preparation.json"))["version"] == "2"
        images = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3)).astype(np.float32)
        classify, before = build_tflite_classifier(file), build_tflite_classifier(first / file.name)
        np.testing.assert_array_equal(classify(images), before(images))
    assert "# tiny, version 2" in (second / "README.md").read_text()
    for version in (first, second):
        assert find_damage(version, json.loads((version / "export.json").read_text()), contents=True) is None
    assert len(json.loads((second / "export.json").read_text())["checksums"]["files"]) > 10
    with pytest.raises(UsageError, match="Expected an export with export.json"):
        promote(tmp_path, tmp_path / "saved_models")


def promote_other(source, metadata, tmp_path):
    import shutil

    other = shutil.copytree(source, tmp_path / "other" / "tiny" / "1")
    (other / "export.json").write_text(json.dumps(metadata | {"created": "another day"}))
    return other


def test_bad_arguments_are_named(tmp_path, tiny_model, tiny_names, tiny_photos):
    import keras

    def refuse(match, model=tiny_model, names=tiny_names, photos=tiny_photos, directory=tmp_path, **changes):
        with pytest.raises(UsageError, match=match):
            small(model, names, photos, directory, **changes)

    refuse("gives 6 classes; received 2", names=["a", "b"])
    refuse("its input is", preparation=Preparation(64))
    refuse("check image", photos=[])
    refuse("can be decoded", photos=[b"no image"])
    refuse("Expected formats of .*; received 'tflite'", formats=["tflite"])
    refuse("received none", formats=[])
    refuse("Expected calibration images", formats=["tflite_int8"])
    with pytest.raises(UsageError, match="plain name"):
        export.export_classifier(
            tiny_model, tiny_names, tmp_path, "../tiny", tiny_photos, preparation=Preparation(SIZE)
        )
    (tmp_path / "file").write_text("")
    refuse("Cannot write the export", directory=tmp_path / "file" / "x")
    image = keras.Input((SIZE, SIZE, 3))
    named = keras.Model(image, keras.layers.Dense(6, name="große Schicht")(keras.layers.Flatten()(image)))
    refuse("große Schicht", model=named)
    dense = keras.layers.Dense(6, activation="softmax", name="probs")
    refuse("ends in logits; its last layer probs is a softmax", model=keras.Sequential([image, named, dense]))
    two = keras.Model(image, {"logits": named(image), "boxes": named(image)})
    refuse("Expected outputs logits, .*; received logits, boxes", model=two)
