"""`urnet ensemble` on small finished runs written by hand."""

import json
import shutil

import numpy as np
import pytest
import yaml

from urnet_tf import config as config_lib, schema, store
from urnet_tf.errors import UsageError
from urnet_tf.evaluation import ensemble, metrics
from urnet_tf.flow import joined_runs
from urnet_tf.schema import TEST, TRAIN, VAL
from urnet_tf.stages import export
from urnet_tf.stages.effects import effective_settings
from urnet_tf.stages.train import STAGE as TRAIN_STAGE

C, D, SIZE = 6, 8, 32
HELD = np.arange(13 + 17)
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 30, 34, 3), np.uint8)


class MemoryStore:
    """In place of the image store."""

    def __init__(self, directory):
        pass

    def read(self, ids):
        import tensorflow as tf

        return [tf.io.encode_png(IMAGES[i]).numpy() for i in ids]


def backbone(config):
    import keras

    start = keras.initializers.RandomNormal(0, 1, seed=7)
    layers = [keras.layers.Rescaling(1 / 64), keras.layers.Conv2D(D, 3, kernel_initializer=start)]
    return keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), *layers, keras.layers.GlobalAveragePooling2D()], name="b"
    )


def write_run(root, train_images, seed, *settings, change=lambda columns, classes: None):
    """A finished run whose training images, and so the ids of its held ones, are its own."""
    import keras

    config = config_lib.load_config(
        None,
        [f"model.image_size_px={SIZE}", "export.formats=[keras]", "export.check_images=3", *settings],
    )
    workdir, rng = store.Workdir(root), np.random.default_rng(seed)
    labels = np.r_[np.arange(train_images) % C, np.arange(13) % 4, np.full(17, -1)]
    ranks = np.r_[np.arange(train_images), np.arange(13), np.arange(17)] + 1
    splits = np.repeat([TRAIN, VAL, TEST], [train_images, 13, 17])
    hashes = [f"{seed}-{i}" for i in range(train_images)] + [f"held{i}" for i in HELD]
    columns = {"split": splits, "label": labels, "rank": ranks, "content_hash": hashes}
    columns["path"] = [f"{s}{r:06d}.jpg" for s, r in zip(splits, ranks, strict=True)]
    classes = [{"label": c, "name": f"class {c}"} for c in range(C)]
    change(columns, classes)
    features = rng.standard_normal((len(labels), D)).astype(np.float16)
    for stage in ("ingest", "pack", "features", "reweight", "train"):
        out = workdir.open_partial(stage, "k")
        if stage == "pack":
            dtypes = {name: "string" for name in columns} | {"label": "int32", "rank": "int32"}
            store.write_table(out / "instances.parquet", columns, dtypes)
            lost = {name: [] for name in schema.QUARANTINE_COLUMNS}
            store.write_table(out / "quarantine.parquet", lost, schema.QUARANTINE_COLUMNS)
            store.write_json(out / "classes.json", classes)
        if stage == "features":
            store.write_array(out / "features.npy", features)
        heads = []
        for number in range(config_lib.count_members(config) if stage == "train" else 0):
            (out / (place := f"member{number}" if number else "")).mkdir(exist_ok=True)
            head = keras.Sequential([keras.Input((D,)), keras.layers.Dense(C, bias_initializer="ones")])
            head.set_weights([rng.normal(0, 1, (D, C)), np.zeros(C)])
            head.save(out / place / "instance.keras")
            heads.append(head.get_weights()[0])
        told = effective_settings(config, TRAIN_STAGE.depends_on) if stage == "train" else {}
        workdir.finish(stage, {"key": "k", "settings": told, "metadata": {}})
    (root / "config.yaml").write_text(yaml.safe_dump(config_lib.to_dict(config)))
    logits = features[train_images:].astype(np.float32) @ np.stack(heads)
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)  # [members, held, C]


@pytest.fixture
def runs(tmp_path):
    two = "train.head=trained", "train.members=2"
    probs = [write_run(tmp_path / "a", 30, 1, *two), write_run(tmp_path / "b", 12, 2, "evaluate.split=val")]
    return [tmp_path / "a", tmp_path / "b"], np.concatenate(probs)


def test_runs_are_joined_by_all_their_members(runs, tmp_path, monkeypatch):
    import keras

    from urnet_tf.serving.model_files import find_model

    places, probs = runs
    network = backbone(None)
    monkeypatch.setattr(joined_runs, "open_backbone", lambda config: network)
    monkeypatch.setattr(export, "ImageStore", MemoryStore)
    out = tmp_path / "joined"
    done = joined_runs.join_runs(places, out)
    assert probs.shape == (3, 30, C)
    models = {"run1": probs[:2].mean(0), "run2": probs[2], "ensemble": probs.mean(0)}
    models["ensemble_rank"] = ensemble.rank_fusion(probs)
    labels = np.arange(13) % 4
    for name, fused in models.items():
        expected = metrics.summarize(labels, *metrics.top_k(fused[:13], 5), C)
        told = done["metrics"]["models"][name]
        assert told["balanced_top1"] == pytest.approx(expected["balanced_top1"]), name
        with np.load(out / "evaluate" / f"predictions_{name}.npz") as kept:
            np.testing.assert_allclose(kept["top_probs"], metrics.top_k(fused, 5)[1], atol=1e-6)
            assert kept["instance_id"].tolist() == list(range(30, 60)), "those of the first run"
    assert done["metrics"]["split"] == VAL and done["metrics"]["runs"] == [str(place) for place in places]
    lines = [line.split() for line in (out / "evaluate" / "submission_ensemble.txt").read_text().splitlines()]
    best = metrics.top_k(probs.mean(0)[13:], 5)[0].tolist()
    assert [list(map(int, line[1:])) for line in lines] == best and lines[0][0] == "test000001.jpg"

    model = keras.saving.load_model(find_model(out).path)
    images = IMAGES[:4, :, :30].astype(np.float32)
    images = np.pad(images, ((0, 0), (0, 2), (0, 2), (0, 0)))
    seen = network(images).numpy()
    kernels = [keras.saving.load_model(path).get_weights()[0] for place in places
               for path in sorted((place / "train").rglob("instance.keras"))]  # fmt: skip
    expected = np.mean([keras.ops.softmax(seen @ kernel) for kernel in kernels], axis=0)
    np.testing.assert_allclose(keras.ops.softmax(model(images)), expected, atol=1e-5)
    card = json.loads((out / "export" / "urnet" / "1" / "export.json").read_text())
    assert card["settings"]["train"]["members"] == 3 and card["settings"]["export"]["model"] == "ensemble"

    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    assert joined_runs.join_runs(places, out) == done
    assert written == {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}, "it was complete"


def test_a_killed_call_goes_on_and_members_of_other_preparations_are_not_exported(
    runs, tmp_path, monkeypatch
):
    places, _ = runs
    write_run(tmp_path / "c", 20, 3, "model.image_size_px=64")
    monkeypatch.setattr(joined_runs, "_PART_IMAGES", 8)
    asked, stream_of = [], joined_runs._stream_of

    def recorded(run):
        probs_of = stream_of(run)

        def stopped(rows):
            asked.append(int(rows[0]))
            if len(asked) == 4:  # the second of two runs in the second part
                raise KeyboardInterrupt
            return probs_of(rows)

        return stopped

    monkeypatch.setattr(joined_runs, "_stream_of", recorded)
    joined = [places[0], tmp_path / "c"]
    with pytest.raises(KeyboardInterrupt):
        joined_runs.join_runs(joined, tmp_path / "out")
    done = joined_runs.join_runs(joined, tmp_path / "out")
    assert asked == [0, 0, 8, 8, 8, 8, 16, 16, 24, 24]
    assert "prepare images otherwise" in done["no_export"] and not (tmp_path / "out" / "export").exists()
    plan = joined_runs.format_plan(*joined_runs.open_runs(joined, tmp_path / "out"))
    assert "No export, since" in plan and " 2 " in plan.splitlines()[1]


def changed(key, position, value):
    def change(columns, classes):
        columns[key] = list(columns[key])
        columns[key][position] = value

    return change


def one_class_less(columns, classes):
    del classes[-1]


def another_name(columns, classes):
    classes[2]["name"] = "gnu"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (one_class_less, "the same classes; .*a has 6 and .*c has 5"),
        (another_name, "the same classes; .*a has 'class 2' as class 2 and .*c has 'gnu'"),
        (changed("split", 0, VAL), "the same validation and test images; .*a has 30 and .*c has 31"),
        (changed("split", -1, VAL), "1 of 30 have another split in .*c than in .*a"),
        (changed("content_hash", -1, "x"), "1 of 30 have another contents in .*c"),
        (changed("label", 20, 5), "1 of 30 have another label in .*c"),
    ],
)
def test_runs_on_other_lists_are_refused(runs, tmp_path, change, words):
    write_run(tmp_path / "c", 20, 3, change=change)
    with pytest.raises(UsageError, match=words):
        joined_runs.join_runs([runs[0][0], tmp_path / "c"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_finished_run_is_refused(runs, tmp_path):
    (a, b), _ = runs
    out = tmp_path / "out"
    refused = [
        ([a], out, (), "at least two different work directories .*; received .*a"),
        ([a, a], out, (), "at least two different"),
        ([a, tmp_path / "none"], out, (), "there is none at .*none"),
        ([a, b], b, (), "of its own for the ensemble; .*b is that of a run"),
        ([a, b], out, ("train.members=3",), "received train.members=3. The runs keep"),
        ([a, b], out, ("export.formats=[x]",), "export.formats"),
    ]
    for places, where, overrides, words in refused:
        with pytest.raises(UsageError, match=words):
            joined_runs.join_runs(places, where, overrides)
    text = (b / "config.yaml").read_text()
    (b / "config.yaml").write_text(text.replace("\nseed: 0", "\nseed: 1"))
    with pytest.raises(UsageError, match="trained with other settings"):
        joined_runs.join_runs([a, b], out)
    (b / "config.yaml").unlink()
    with pytest.raises(UsageError, match="Expected config.yaml of a run in .*b; it has none"):
        joined_runs.join_runs([a, b], out)
    (b / "config.yaml").write_text(text)
    shutil.rmtree(b / "train")
    with pytest.raises(UsageError, match="its stage train is not complete"):
        joined_runs.join_runs([a, b], out)
    assert not out.exists()
