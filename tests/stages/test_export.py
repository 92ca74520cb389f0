"""The export stage on small work directories written by hand."""

import csv
import json

import numpy as np
import pytest

from urnet_tf import config as config_lib, store
from urnet_tf.errors import RunError
from urnet_tf.schema import TEST, TRAIN, VAL
from urnet_tf.stages import export
from urnet_tf.stages.stage import PlanContext, StageContext

C, D, SIZE = 4, 6, 32


class DrawnStore:
    """In place of the image store: smooth pictures, made when they are read."""

    asked = []

    def __init__(self, directory):
        pass

    def read(self, ids):
        import tensorflow as tf

        DrawnStore.asked.append(list(ids))

        coarse = np.random.default_rng(1).integers(0, 256, (9, 4, 5, 3))
        images = tf.cast(tf.image.resize(coarse, (48, 60)), tf.uint8).numpy()
        return [tf.io.encode_jpeg(images[i]).numpy() for i in ids]


@pytest.fixture
def root(tmp_path, monkeypatch):
    import keras

    monkeypatch.setattr(export, "ImageStore", DrawnStore)
    workdir = store.Workdir(tmp_path)
    splits, labels = [TRAIN] * 4 + [VAL] * 5, [0, 1, 2, 3, 0, 1, 2, 3, 0]
    columns = {"split": splits, "label": labels, "content_hash": [f"{i:032x}" for i in range(9)]}
    classes = [{"label": c, "name": f"class {c}"} for c in range(C)]
    head = keras.Sequential([keras.Input((D,)), keras.layers.Dropout(0.5), keras.layers.Dense(C)])
    weights = {"instance_id": [0, 1, 2, 3], "sample_weight": [-3.0, 2.0, 0.0, 1.0]}
    metadata = {
        "ingest": {"quarantined": {"empty": 2}, "duplicates": {}},
        "pack": {"images": 9, "train_images": 4},
        "features": {},
        "reweight": {"clean_rate_estimate": 0.7},
        "train": {},
    }
    for stage, told in metadata.items():
        out = workdir.open_partial(stage, "k")
        if stage == "pack":
            dtypes = {"split": "string", "label": "int32", "content_hash": "string"}
            store.write_table(out / "instances.parquet", columns, dtypes)
            store.write_json(out / "classes.json", classes)
        if stage == "features":
            store.write_array(out / "features.npy", np.zeros((9, D), np.float16))
        if stage == "train":
            head.save(out / "instance.keras")
            dtypes = {"instance_id": "int64", "sample_weight": "float32"}
            store.write_table(out / "weights.parquet", weights, dtypes)
        workdir.finish(stage, {"key": "k", "metadata": told})
    return tmp_path


def backbone(config):
    import keras

    return keras.Sequential([
        keras.Input((SIZE, SIZE, 3)), keras.layers.Rescaling(1 / 64), keras.layers.Conv2D(D, 3, strides=2),
        keras.layers.GlobalAveragePooling2D(),
    ])  # fmt: skip


def context_of(root, *overrides):
    settings = [f"model.image_size_px={SIZE}", "pack.short_side_px=40", "export.check_images=3", *overrides]
    workdir = store.Workdir(root)
    return StageContext(config_lib.load_config(None, settings), workdir, workdir.open_partial("export", "k"))


@pytest.mark.slow
def test_frozen_mode_puts_the_backbone_before_the_head(root, monkeypatch):
    monkeypatch.setattr(export, "open_backbone", backbone)
    context = context_of(root, "export.name=birds", "export.formats=[saved_model,tflite_int8]")
    metadata = export.run(context)
    assert metadata["version"] == 1 and metadata["path"] == "birds/1"
    assert metadata["formats"]["saved_model"]["path"] == "birds/1/saved_model.pb"
    assert metadata["formats"]["saved_model"]["parity"]["max_difference"] < 1e-5
    assert "features" in metadata["formats"]["saved_model"]["parity"]["signatures"]
    written = json.loads((context.out / "birds" / "1" / "export.json").read_text())
    assert written["check"] == {"images": 3, "labeled": 3, "split": "val"} and written["classes"] == C
    assert written["preparation"]["short_side_px"] == 40
    assert written["data"]["noise"]["clean_rate_estimate"] == 0.7 and written["data"]["images"] == 9
    assert written["settings"]["export"]["name"] == "birds"
    assert [1, 3] in DrawnStore.asked, "int8 takes its ranges from what counts for its label"
    labels = (context.out / "birds" / "1" / "labels.txt").read_text().splitlines()
    assert labels == [f"class {c}" for c in range(C)]


@pytest.mark.slow
def test_classes_of_one_word_are_told_apart_in_every_file(root, monkeypatch, tmp_path_factory):
    import onnxruntime

    from urnet_tf.crawl.class_names import tell_apart
    from urnet_tf.crawl.webvision_info import read_synsets
    from urnet_tf.export.saved_model import open_saved_model
    from urnet_tf.export.tflite_metadata import read_metadata
    from urnet_tf.serving.model_files import find_model
    from urnet_tf.serving.opened_version import open_version
    from urnet_tf.serving.predict import predict

    out = tmp_path_factory.mktemp("cranes")
    (out / "info").mkdir()
    synsets = "n02012849 crane\nn03126707 crane\nn1 maillot\nn2 maillot, tank suit\n"
    (out / "info" / "synsets.txt").write_text(synsets)
    classes, _ = tell_apart(read_synsets(str(out)))
    names = ["crane (n02012849)", "crane (n03126707)", "maillot (n1)", "maillot (tank suit)"]
    ids = ["n02012849", "n03126707", "n1", "n2"]
    store.write_json(root / "pack" / "classes.json", classes)
    store.Workdir(root).write_marker(root / "pack", {"metadata": {}})
    monkeypatch.setattr(export, "open_backbone", backbone)
    context = context_of(root, "export.formats=[saved_model,keras,tflite_float32,onnx]")
    export.run(context)
    version = context.out / "urnet" / "1"
    for place in (version, version / "assets"):
        assert (place / "labels.txt").read_text().splitlines() == names
        assert (place / "class_ids.txt").read_text().splitlines() == ids
    assert json.loads((version / "export.json").read_text())["class_ids"] == ids
    assert f"| {names[1]} | {ids[1]} |" in (version / "README.md").read_text()
    inside = read_metadata(version / "urnet_float32.tflite")
    assert (inside.labels, inside.class_ids) == (names, ids)
    told = onnxruntime.InferenceSession(version / "urnet.onnx").get_modelmeta().custom_metadata_map
    assert (json.loads(told["labels"]), json.loads(told["class_ids"])) == (names, ids)
    (encoded,) = DrawnStore(None).read([4])
    keras_file = open_version(find_model(version / "urnet.keras"))
    of_server = keras_file.run("serving_default", {"image_bytes": np.array([encoded, b""], object)})
    served = open_saved_model(version)("serving_default", {"image_bytes": [encoded, b""]})
    assert set(of_server) == set(served) == set(keras_file.signatures["serving_default"].outputs)
    for answers in (served, of_server):
        assert [label.decode() for label in answers["labels"][0]] == [names[c] for c in answers["classes"][0]]
        assert [found.decode() for found in answers["ids"][0]] == [ids[c] for c in answers["classes"][0]]
        assert answers["ids"][1].tolist() == [b""] * C
    (out / "photo.jpg").write_bytes(encoded)
    predict(version / "urnet_float32.tflite", [str(out / "photo.jpg")], out=out / "answers.csv")
    with open(out / "answers.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    best = served["classes"][0]
    assert [row[f"label_{place}"] for place in range(1, C + 1)] == [names[c] for c in best]
    assert [row[f"id_{place}"] for place in range(1, C + 1)] == [ids[c] for c in best]


@pytest.mark.slow
def test_an_ensemble_is_exported_as_one_model(root, monkeypatch):
    import keras

    from urnet_tf.export.preparation import Preparation
    from urnet_tf.export.saved_model import open_saved_model

    network = backbone(None)
    monkeypatch.setattr(export, "open_backbone", lambda config: network)
    heads = [keras.saving.load_model(root / "train" / "instance.keras")]
    for number in (1, 2):
        (root / "train" / f"member{number}").mkdir()
        other = keras.Sequential([keras.Input((D,)), keras.layers.Dense(C)])
        other.save(root / "train" / f"member{number}" / "instance.keras")
        heads.append(other)
    store.Workdir(root).write_marker(root / "train", {"metadata": {}})
    members = "train.head=trained", "train.members=3", "export.model=ensemble"
    files = "export.formats=[saved_model]"
    context = context_of(root, *members, files, "export.top_k=4")
    formats = export.run(context)["formats"]
    assert all(entry["kept"] and entry["parity"]["max_difference"] < 1e-5 for entry in formats.values())
    (encoded,) = DrawnStore(None).read([4])
    features = network(Preparation(SIZE, short_side_px=40).decode([encoded])[0])
    expected = np.mean([keras.ops.softmax(head(features)) for head in heads], axis=0)[0]
    call = open_saved_model(context.out / "urnet" / "1")
    served = call("serving_default", {"image_bytes": [encoded]})
    np.testing.assert_allclose(served["probabilities"][0], expected[served["classes"][0]], atol=1e-5)
    np.testing.assert_allclose(call("features", {"image_bytes": [encoded]})["features"], features, rtol=1e-4)
    whole = [config_lib.load_config(None, ["model.mode=finetune", *own]) for own in ((), members[1:])]
    estimates = [export.estimate(config, PlanContext(90, 80, C)) for config in whole]
    assert estimates[1].disk_bytes == pytest.approx(3 * estimates[0].disk_bytes, rel=1e-3)
    assert estimates[1].seconds > 2 * estimates[0].seconds


def test_versions_grow_with_complete_exports_only(root, monkeypatch):
    monkeypatch.setattr(export, "open_backbone", backbone)
    versions = []

    def recorded(*arguments, first_version, **keywords):
        versions.append(first_version)
        (arguments[2] / "urnet" / str(first_version)).mkdir(parents=True)
        return {key: {} for key in ("machine", "check", "reference", "formats")} | {
            "name": "urnet", "version": first_version
        }  # fmt: skip

    monkeypatch.setattr(export.export, "export_classifier", recorded)
    export.run(context_of(root))
    export.run(context := context_of(root))  # the first was killed before the stage was finished
    context.workdir.finish("export", {})
    export.run(context_of(root))
    assert versions == [1, 1, 2]


def test_finetuned_models_are_exported_with_the_backbone_they_have(root):
    from urnet_tf.models.classifier import build_image_classifier

    build_image_classifier(backbone(None), C).save(root / "train" / "instance.keras")
    store.Workdir(root).write_marker(root / "train", {"metadata": {}})
    metadata = export.run(context_of(root, "model.mode=finetune", "export.formats=[tflite_float32]"))
    assert metadata["formats"]["tflite_float32"]["parity"]["top1_agreement"] == 1.0


def test_check_images_are_spread_over_the_best_labeled_split():
    splits = np.array([TRAIN] * 3 + [VAL] * 9 + [TEST] * 2)
    labels = np.array([0] * 12 + [-1] * 2)
    assert export.choose_check_ids(splits, labels, 3).tolist() == [3, 7, 11]
    assert export.choose_check_ids(splits, labels, None).tolist() == list(range(3, 12))
    labels[13] = 0
    assert export.choose_check_ids(splits, labels, 9).tolist() == [13]
    assert export.choose_check_ids(splits[:3], labels[:3], 2).tolist() == [0, 2]
    assert export.choose_check_ids(splits, np.full(14, -1), None).tolist() == [12, 13]


def test_calibration_images_are_drawn_by_weight():
    ids, weights = np.arange(100, 1100), np.where(np.arange(1000) < 100, 9.0, 0.1)
    chosen = export.choose_trusted_ids(ids, weights, 50, seed=0)
    assert len(set(chosen)) == 50 and (chosen < 200).mean() > 0.75
    assert (chosen == export.choose_trusted_ids(ids, weights, 50, seed=0)).all()
    assert export.choose_trusted_ids(ids[:4], np.array([0.0, 1, 2, 0]), 9, seed=0).tolist() == [101, 102]


def test_images_that_count_against_their_labels_calibrate_nothing():
    ids, weights = np.arange(4), np.array([-9.0, 0.06, -0.01, 0.05], np.float32)
    assert export.choose_trusted_ids(ids, weights, 9, seed=0).tolist() == [1, 3]
    for nothing in (np.zeros(4), np.array([-1.0, 0, -2, -3])):
        with pytest.raises(RunError, match="all 4 weigh 0 or less. Leave tflite_int8 out of export.formats"):
            export.choose_trusted_ids(ids, nothing, 9, seed=0)


def test_weights_are_looked_at_for_int8_alone(root, monkeypatch):
    monkeypatch.setattr(export, "open_backbone", backbone)
    weights = {"instance_id": [0, 1, 2, 3], "sample_weight": [-1.0] * 4}
    dtypes = {"instance_id": "int64", "sample_weight": "float32"}
    store.write_table(root / "train" / "weights.parquet", weights, dtypes)
    store.Workdir(root).write_marker(root / "train", {"metadata": {}})
    assert export.run(context_of(root, "export.formats=[keras]"))["formats"]["keras"]["kept"]
    with pytest.raises(RunError, match="weight above 0"):
        export.run(context_of(root, "export.formats=[keras,tflite_int8]"))


def test_estimate_counts_all_files():
    config = config_lib.from_dict({})
    # EfficientNet-Lite0 with 1,000 classes: its published 4,652,008 weights, and 2 x 21,008 statistics;
    # three files of full size, one of half, two of int8.
    weights = 4 * (4_652_008 + 42_016)
    assert export.estimate(config, PlanContext()).disk_bytes == pytest.approx(4.1 * weights, abs=6)
