"""The evaluate stage on small work directories written by hand."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from urnet_tf import config as config_lib, store
from urnet_tf.errors import UsageError
from urnet_tf.evaluation import ensemble, metrics
from urnet_tf.feed.batches import stream_images
from urnet_tf.schema import JUDGED, QUARANTINE_COLUMNS, TEST, TRAIN, VAL
from urnet_tf.stages import evaluate
from urnet_tf.stages.stage import PlanContext, StageContext

C, D, SIZE, FOLDS = 6, 8, 24, 2
COUNTS = {TRAIN: 30, VAL: 13, TEST: 17}
RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((sum(COUNTS.values()), D)).astype(np.float16)
IMAGES = RNG.integers(0, 256, (sum(COUNTS.values()), 30, 34, 3), np.uint8)


class MemoryStore:
    """In place of the image store."""

    def __init__(self, directory):
        pass

    def read(self, ids):
        import tensorflow as tf

        return [tf.io.encode_png(IMAGES[i]).numpy() for i in ids]


def head(seed, inputs=(D,)):
    import keras

    layers = [keras.layers.Dense(C, kernel_initializer=keras.initializers.RandomNormal(0, 1, seed))]
    if len(inputs) == 3:
        layers = [keras.layers.Rescaling(1 / 64), keras.layers.GlobalAveragePooling2D(), *layers]
    return keras.Sequential([keras.Input(inputs), *layers])


def write_workdir(root, test_labels=True, finetune=False):
    splits = np.repeat([TRAIN, VAL, TEST], list(COUNTS.values()))
    labels = np.concatenate([np.sort(np.arange(30) % C), np.arange(13) % 4, np.arange(17) % C])
    labels = labels.astype(np.int32)
    if not test_labels:
        labels[splits == TEST] = -1
    ranks = np.concatenate([np.arange(30), np.arange(13), np.arange(17)]) + 1
    ranks[splits == TEST] += ranks[splits == TEST] > 4  # the fifth test file could not be read
    paths = [f"{s}/{s}{r:06d}.jpg" for s, r in zip(splits, ranks, strict=True)]
    for stage in ("ingest", "pack", "baseline", "reweight", "train"):
        (root / stage).mkdir(parents=True)
    columns = {"split": splits, "label": labels, "rank": ranks, "path": paths}
    dtypes = {"split": "string", "label": "int32", "rank": "int32", "path": "string"}
    store.write_table(root / "pack" / "instances.parquet", columns, dtypes)
    lost = {"path": ["test/test000005.jpg", "train/x.jpg"], "split": [TEST, TRAIN], "label": [-1, 0]}
    lost |= {"source": ["", ""], "rank": [5, 1], "status": ["empty"] * 2, "reason": ["no bytes"] * 2}
    store.write_table(root / "pack" / "quarantine.parquet", lost, QUARANTINE_COLUMNS)
    store.write_json(root / "pack" / "classes.json", [{"label": c, "name": f"class {c}"} for c in range(C)])
    inputs = (SIZE, SIZE, 3) if finetune else (D,)
    head(1, inputs).save(root / "baseline" / "model_full.keras")
    head(2, inputs).save(root / "train" / "instance.keras")
    for fold in range(FOLDS):
        head(3 + fold, inputs).save(root / "baseline" / f"model_fold{fold}.keras")
    if not finetune:
        (root / "features").mkdir()
        store.write_array(root / "features" / "features.npy", FEATURES)
    return labels


def write_members(root, count=3):
    """More URNets beside the first."""
    for number in range(1, count):
        (root / "train" / f"member{number}").mkdir()
        head(10 + number).save(root / "train" / f"member{number}" / "instance.keras")
    return ("train.head=trained", f"train.members={count}")


def context_of(root, *overrides):
    settings = [f"baseline.folds={FOLDS}", f"model.image_size_px={SIZE}", "evaluate.batch_images=8"]
    config = config_lib.load_config(None, [*settings, *overrides])
    workdir = store.Workdir(root)
    for stage in ("ingest", "pack", "features", "baseline", "reweight", "train"):
        if workdir.path(stage).exists():
            workdir.write_marker(workdir.path(stage), {"metadata": {}})
    return StageContext(config, workdir, workdir.open_partial("evaluate", "k"))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def expected_probs(root, name, ids):
    import keras

    kernel, bias = keras.saving.load_model(root / name).get_weights()
    return softmax(FEATURES[ids].astype(np.float32) @ kernel + bias)


def test_cached_features_give_all_figures(tmp_path):
    labels = write_workdir(tmp_path)
    context = context_of(tmp_path)
    metadata = evaluate.run(context)
    written = json.loads((context.out / "metrics.json").read_text())
    assert written["split"] == metadata["split"] == TEST and written["views"] == 1
    assert sorted(written["models"]) == ["baseline", "folds", "folds_rank", "urnet"]
    assert not list(context.out.glob("*ensemble*")), "one URNet is no ensemble"

    ids = np.arange(43, 60)
    ours = expected_probs(tmp_path, "train/instance.keras", ids)
    folds = [expected_probs(tmp_path, f"baseline/model_fold{f}.keras", ids) for f in range(FOLDS)]
    plain = metrics.top_k(expected_probs(tmp_path, "baseline/model_full.keras", ids), 5)[0]
    for name, probs in {"urnet": ours, "folds": np.mean(folds, 0)}.items():
        expected = metrics.summarize(labels[ids], *metrics.top_k(probs, 5), C)
        found = written["models"][name]
        intervals, others = found.pop("intervals"), expected.pop("intervals")
        change = metrics.summarize_change(labels[ids], plain, metrics.top_k(probs, 5)[0], C)
        for key, ends in found.pop("change").items():
            assert ends == pytest.approx(change[key], abs=1e-6), key
        assert found == pytest.approx(expected, abs=1e-5)
        assert all(intervals[key] == pytest.approx(others[key]) for key in others)
    assert written["models"]["folds_rank"]["ece"] is None
    with np.load(context.out / "predictions_urnet.npz") as kept:
        assert kept["instance_id"].tolist() == ids.tolist()
        np.testing.assert_allclose(kept["given_prob"], ours[np.arange(17), labels[ids]], atol=1e-6)

    table = store.read_table(context.out / "per_class.parquet").to_pylist()
    assert [row["n_train"] for row in table] == [5] * C and sum(row["n"] for row in table) == 17
    balanced = np.mean([row["urnet_top5"] for row in table])
    assert balanced == pytest.approx(written["models"]["urnet"]["balanced_top5"])
    confused = json.loads((context.out / "confusion.json").read_text())["baseline"]
    wrong = 17 * (1 - written["models"]["baseline"]["top1"])
    assert sum(pair["count"] for pair in confused) == round(wrong)
    assert confused[0]["name"] == f"class {confused[0]['label']}"
    assert not (context.out / "parts").exists()


@pytest.mark.parametrize("joined", ["urnets", "urnets_and_folds"])
def test_the_ensemble_joins_the_urnets_and_the_folds_where_that_is_asked_for(tmp_path, joined):
    write_workdir(tmp_path, test_labels=False)
    members = write_members(tmp_path)
    context = context_of(tmp_path, *members, f"evaluate.ensemble={joined}")
    evaluate.run(context)
    files = ["train/instance.keras", "train/member1/instance.keras", "train/member2/instance.keras"]
    if joined == "urnets_and_folds":
        files += [f"baseline/model_fold{fold}.keras" for fold in range(FOLDS)]
    ids = np.arange(30, 60)
    probs = np.stack([expected_probs(tmp_path, file, ids) for file in files])
    for name, fused in (("ensemble", probs.mean(0)), ("ensemble_rank", ensemble.rank_fusion(probs))):
        with np.load(context.out / f"predictions_{name}.npz") as kept:
            np.testing.assert_allclose(kept["top_probs"], metrics.top_k(fused, 5)[1], atol=1e-6)
    lines = (context.out / "submission_ensemble.txt").read_text().splitlines()
    best = metrics.top_k(probs.mean(0)[13:], 5)[0].tolist()
    assert [list(map(int, line.split()[1:])) for line in lines[:4] + lines[5:]] == best


def test_the_calibration_error_takes_the_bins_that_are_asked_for(tmp_path):
    import keras

    labels, ids = write_workdir(tmp_path), np.arange(43, 60)
    unsure = head(2)
    unsure.set_weights([0.2 * values for values in unsure.get_weights()])
    keras.saving.save_model(unsure, tmp_path / "train" / "instance.keras")
    top = metrics.top_k(expected_probs(tmp_path, "train/instance.keras", ids), 5)
    told = {}
    for bins in (2, 40):
        context = context_of(tmp_path, f"evaluate.ece_bins={bins}", "baseline.folds=1")
        told[bins] = evaluate.run(context)["models"]["urnet"]["ece"]
        expected = metrics.summarize(labels[ids], *top, C, bins)["ece"]
        assert told[bins] == pytest.approx(expected, abs=1e-5)
    assert abs(told[2] - told[40]) > 0.01


def test_without_test_labels_val_is_measured_and_every_listed_test_image_has_a_line(tmp_path):
    labels = write_workdir(tmp_path, test_labels=False)
    context = context_of(tmp_path)
    assert evaluate.run(context)["split"] == VAL
    figures = json.loads((context.out / "metrics.json").read_text())["models"]
    assert figures["urnet"]["n"] == 13
    lines = [line.split() for line in (context.out / "submission.txt").read_text().splitlines()]
    assert [line[0] for line in lines] == [f"test{i:06d}.jpg" for i in range(1, 19)]
    best = np.argsort(-expected_probs(tmp_path, "train/instance.keras", np.arange(43, 60)), 1, kind="stable")
    assert [list(map(int, line[1:])) for line in lines[:4] + lines[5:]] == best[:, :5].tolist()
    assert lines[4][1:] == ["0", "1", "2", "3", "4"]  # unreadable: the largest classes
    assert labels.min() == -1


def test_a_killed_run_goes_on_and_gives_the_same_files(tmp_path, monkeypatch):
    write_workdir(tmp_path)
    monkeypatch.setattr(evaluate, "_PART_FEATURES", 5)
    whole = context_of(tmp_path)
    evaluate.run(whole)
    files = {p.name: p.read_bytes() for p in whole.out.iterdir()}
    shutil.rmtree(whole.out)

    written = evaluate._write_part
    calls = []

    def killed(*arguments):
        calls.append(arguments[0].name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        written(*arguments)

    monkeypatch.setattr(evaluate, "_write_part", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(context_of(tmp_path))
    assert len(list((whole.out / "parts").iterdir())) == 2
    again = context_of(tmp_path)
    evaluate.run(again)
    assert calls[2:] == ["000000010.npz", "000000010.npz", "000000015.npz"]
    assert {p.name: p.read_bytes() for p in again.out.iterdir()} == files


def test_finetuned_models_see_several_views(tmp_path, monkeypatch):
    write_workdir(tmp_path, finetune=True)
    monkeypatch.setattr(evaluate, "ImageStore", MemoryStore)
    monkeypatch.setattr(evaluate, "_PART_IMAGES", 9)
    overrides = (
        "model.mode=finetune",
        "baseline.networks=full",
        'evaluate.crops="5"',
        "evaluate.scales=[1.0, 0.9]",
    )
    context = context_of(tmp_path, *overrides)
    metadata = evaluate.run(context)
    assert metadata["views"] == 10 and metadata["models"]["urnet"]["n"] == 17


def test_a_whole_network_stands_beside_heads_on_frozen_features(tmp_path, monkeypatch):
    import keras

    write_workdir(tmp_path)
    head(2, (SIZE, SIZE, 3)).save(tmp_path / "train" / "instance.keras")
    backbone = keras.Sequential([
        keras.Input((SIZE, SIZE, 3)), keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(D, name="frozen"),
    ])  # fmt: skip
    monkeypatch.setattr(evaluate, "ImageStore", MemoryStore)
    monkeypatch.setattr(evaluate, "open_backbone", lambda config: backbone)
    context = context_of(tmp_path, "model.mode=finetune")
    evaluate.run(context)
    whole = keras.models.load_model(tmp_path / "train" / "instance.keras")
    plain = keras.models.load_model(tmp_path / "baseline" / "model_full.keras")
    ids = np.arange(43, 60)
    images = np.concatenate(list(stream_images(MemoryStore(None), ids, SIZE, 0.875, 8)))
    for name, logits in (("urnet", whole(images)), ("baseline", plain(backbone(images)))):
        with np.load(context.out / f"predictions_{name}.npz") as kept:
            expected = metrics.top_k(softmax(np.asarray(logits)), 5)[1]
            np.testing.assert_allclose(kept["top_probs"], expected, atol=1e-5)


def test_the_bag_branch_is_averaged_with_the_instance_branch(tmp_path):
    import keras

    from urnet_tf.models.urnet import bag_branch, build_urnet, instance_branch

    write_workdir(tmp_path)
    model = build_urnet(D, C, 3, seed=5)
    model.save(tmp_path / "train" / "urnet.keras")
    evaluate.run(context := context_of(tmp_path, "evaluate.bag_branch=true", "train.head=trained"))
    features = FEATURES[43:60].astype(np.float32)
    parts = [keras.ops.softmax(branch(model)(features)).numpy() for branch in (instance_branch, bag_branch)]
    with np.load(context.out / "predictions_urnet.npz") as kept:
        np.testing.assert_allclose(kept["top_probs"], metrics.top_k(np.mean(parts, 0), 5)[1], atol=1e-6)


def test_frozen_mode_with_crops_runs_the_backbone(tmp_path, monkeypatch):
    import keras

    write_workdir(tmp_path)
    backbone = keras.Sequential([
        keras.Input((SIZE, SIZE, 3)), keras.layers.Rescaling(1 / 64),
        keras.layers.Conv2D(D, 3), keras.layers.GlobalAveragePooling2D(),
    ])  # fmt: skip
    monkeypatch.setattr(evaluate, "open_backbone", lambda config: backbone)
    monkeypatch.setattr(evaluate, "ImageStore", MemoryStore)
    assert evaluate.run(context_of(tmp_path, 'evaluate.crops="10"'))["views"] == 10


def test_choose_split():
    splits, labels = np.array([TRAIN, VAL, TEST]), np.array([0, 0, -1])
    assert evaluate.choose_split(splits, labels, None) == VAL
    assert evaluate.choose_split(splits, np.array([0, 0, 0]), None) == TEST
    assert evaluate.choose_split(splits, labels, "test") == TEST
    assert evaluate.choose_split(splits, np.array([0, -1, -1]), None) == TEST
    assert evaluate.choose_split(splits[:1], labels[:1], None) is None
    with pytest.raises(UsageError, match="no val image"):
        evaluate.choose_split(splits[:1], labels[:1], "val")


def test_judged_images_stand_in_for_labels_of_the_crawl():
    splits = np.repeat([TRAIN, VAL, TEST, JUDGED], [3, 20, 4, 60])
    labels = np.zeros(87, int)
    labels[splits == TEST], labels[-10:] = -1, -1  # no labels; none of the classes
    assert evaluate.choose_split(splits, labels, None) == VAL
    assert evaluate.choose_split(splits, labels, None, [VAL]) == JUDGED
    labels[-20:] = -1  # too few to tell much
    assert evaluate.choose_split(splits, labels, None, [VAL]) == VAL
    assert evaluate.choose_split(splits, labels, "judged") == JUDGED
    alone = splits != VAL
    assert evaluate.choose_split(splits[alone], labels[alone], None) == JUDGED
    split, ids, wanted = evaluate.held_rows(splits, labels, None, [VAL])
    assert split == VAL and ids.tolist() == list(range(3, 23))
    assert wanted.tolist() == list(range(3, 87)), "test and judged images are predicted, too"
    assert evaluate.held_rows(splits, labels, "judged")[2].tolist() == [*range(27, 87), *range(23, 27)]


def test_unlabeled_images_give_predictions_only(tmp_path):
    write_workdir(tmp_path, test_labels=False)
    context = context_of(tmp_path, "evaluate.split=test")
    assert evaluate.run(context) == {"split": TEST, "views": 1, "models": {}}
    assert (context.out / "submission.txt").exists()
    assert not (context.out / "per_class.parquet").exists()


def test_estimate_knows_that_cached_features_are_cheap():
    config = config_lib.from_dict({})
    metadata = PlanContext(images=12_000, train_images=2_000, num_classes=50, cores=2)
    cheap = evaluate.estimate(config, metadata)
    crops = dataclasses.replace(config.evaluate, crops="10")
    dear = evaluate.estimate(dataclasses.replace(config, evaluate=crops), metadata)
    more = config_lib.load_config(None, ["train.head=trained", "train.members=29"])
    assert evaluate.estimate(more, metadata).seconds - cheap.seconds == pytest.approx(28 * 10_000 / 20_000)
    assert cheap.rows == dear.rows == 10_000 and cheap.seconds < 60 < dear.seconds
    assert evaluate.estimate(config, PlanContext()).seconds is None
