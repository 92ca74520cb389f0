"""The export stage on small work directories written by hand."""

import json

import numpy as np
import pytest

from urnet_tf import config as config_lib, store
from urnet_tf.errors import RunError
from urnet_tf.schema import TEST, TRAIN, VAL
from urnet_tf.stages import export
from urnet_tf.stages.stage import Facts, StageContext

C, D, SIZE = 4, 6, 32


class DrawnStore:
    """In place of the image store: smooth pictures, made when they are read."""

    def __init__(self, directory):
        pass

    def read(self, ids):
        import tensorflow as tf

        coarse = np.random.default_rng(1).integers(0, 256, (9, 4, 5, 3))
        images = tf.cast(tf.image.resize(coarse, (48, 60)), tf.uint8).numpy()
        return [tf.io.encode_jpeg(images[i]).numpy() for i in ids]


@pytest.fixture
def root(tmp_path, monkeypatch):
    import keras

    monkeypatch.setattr(export, "ImageStore", DrawnStore)
    (tmp_path / "pack").mkdir()
    (tmp_path / "train").mkdir()
    splits = [TRAIN] * 4 + [VAL] * 5
    store.write_table(tmp_path / "pack" / "instances.parquet", {"split": splits}, {"split": "string"})
    classes = [{"label": c, "name": f"class {c}"} for c in range(C)]
    store.write_json(tmp_path / "pack" / "classes.json", classes)
    head = keras.Sequential([keras.Input((D,)), keras.layers.Dropout(0.5), keras.layers.Dense(C)])
    head.save(tmp_path / "train" / "instance.keras")
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


def test_frozen_mode_puts_the_backbone_before_the_head(root, monkeypatch):
    monkeypatch.setattr(export, "open_backbone", backbone)
    context = context_of(root, "export.name=birds")
    facts = export.run(context)
    assert facts["version"] == 1
    assert facts["saved_model"]["path"] == "birds/1" and facts["tflite"]["path"] == "birds.tflite"
    assert facts["saved_model"]["parity"]["max_difference"] < 1e-5
    written = json.loads((context.out / "export.json").read_text())
    assert written["check_images"] == 3 and written["classes"] == C
    assert written["preparation"]["short_side_px"] == 40
    assert (context.out / "labels.txt").read_text().splitlines() == [f"class {c}" for c in range(C)]


def test_versions_grow_with_complete_exports_only(root, monkeypatch):
    monkeypatch.setattr(export, "open_backbone", backbone)
    versions = []

    def recorded(*arguments, first_version, **keywords):
        versions.append(first_version)
        (arguments[2] / "urnet" / str(first_version)).mkdir(parents=True)
        return {"version": first_version}

    monkeypatch.setattr(export.serving, "export_classifier", recorded)
    export.run(context_of(root))
    export.run(context := context_of(root))  # the first was killed before the stage was finished
    context.workdir.finish("export", {})
    export.run(context_of(root))
    assert versions == [1, 1, 2]


def test_finetuned_models_are_exported_as_they_are(root):
    import keras

    keras.Sequential([
        keras.Input((SIZE, SIZE, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(C),
    ]).save(root / "train" / "instance.keras")  # fmt: skip
    facts = export.run(context_of(root, "model.mode=finetune", "export.saved_model=false"))
    assert facts["version"] is None and "saved_model" not in facts
    assert facts["tflite"]["parity"]["top1_agreement"] == 1.0


def test_a_tolerance_that_cannot_be_met_refuses_the_export(root, monkeypatch):
    monkeypatch.setattr(export, "open_backbone", backbone)
    parity = {"max_difference": 0.2, "top1_agreement": 0.5}
    monkeypatch.setattr(export.serving, "check_tflite", lambda *arguments: parity)
    context = context_of(root, "export.saved_model=false")
    with pytest.raises(RunError, match=r"up to 0.2 \(allowed 0.0001\), same best class on 50.0 %"):
        export.run(context)
    assert not list(context.out.glob("*.tflite"))


def test_check_images_are_spread_over_the_best_split():
    splits = np.array([TRAIN] * 3 + [VAL] * 9 + [TEST])
    assert export.choose_check_ids(splits, 3).tolist() == [3, 7, 11]
    assert export.choose_check_ids(splits, 99).tolist() == list(range(3, 12))
    assert export.choose_check_ids(splits[:3], 2).tolist() == [0, 2]


def test_estimate_counts_both_files():
    config = config_lib.from_dict({})
    # EfficientNet-Lite0 with 1,000 classes: its published 4,652,008 weights, and 2 x 21,008 statistics.
    assert export.estimate(config, Facts()).disk_bytes == 2 * 4 * (4_652_008 + 42_016)
