"""The stage on a small work directory made by hand."""

import dataclasses
import json

import numpy as np
import pytest

import urnet_tf
from urnet_tf import schema, store
from urnet_tf.config import load_config
from urnet_tf.errors import UsageError
from urnet_tf.reweighting.judge import out_of_fold_predictions
from urnet_tf.reweighting.recipe import make_targets
from urnet_tf.stages import reweight
from urnet_tf.stages.literal_weights import describe_scale
from urnet_tf.stages.stage import PlanContext, StageContext

SIZES, DIM = (24, 40, 12), 16
QUICK = (
    "reweight.confidence.epochs=10", "reweight.rounds=1",
    "reweight.refit.learning_rate=0.05",  # few images: few steps
)  # fmt: skip
# Every kind of evidence, where no preset is named.
EVIDENCE = (
    "label_posterior", "rank_prior", "page_text", "cluster_weight", "confidence", "self_confidence",
    "soft_label",
)  # fmt: skip
EVERYTHING = tuple(f"reweight.{name}.enabled=true" for name in EVIDENCE)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, mark_complete):
    """Three classes, 30 % wrong labels, features that tell the truth; one validation image."""
    root = tmp_path_factory.mktemp("run")
    for stage in ("pack", "features", "baseline", "extract"):
        (root / stage).mkdir()
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], SIZES)
    count = len(labels)
    truth = np.where(generator.random(count) < 0.3, (labels + 1) % 3, labels)
    features = np.eye(3, DIM)[truth] * 3 + generator.standard_normal((count, DIM)) * 0.5
    probs = np.full((count, 3), 0.1)
    probs[np.arange(count), truth] = 0.8
    order = np.argsort(-probs, axis=1, kind="stable")

    everything = count + 1
    names = ["lion", "school bus", "pizza"]
    titles = [f"my {names[t]} photo" if i % 5 else "IMG_0815" for i, t in enumerate(truth)]
    columns = {name: [""] * everything for name in schema.INSTANCE_COLUMNS}
    columns |= {
        "instance_id": np.arange(everything), "label": [*labels, 0], "rank": np.arange(everything) % 12 + 1,
        "split": ["train"] * count + ["val"], "path": [f"a/{i}.jpg" for i in range(everything)],
        "source": [["google", "flickr"][i % 2] for i in range(everything)],
        "title": [*titles, ""],
        "query": [f"q{i % 3}" for i in range(everything)],
        "width_px": [64] * everything, "height_px": [64] * everything,
    }  # fmt: skip
    store.write_table(root / "pack/instances.parquet", columns, schema.INSTANCE_COLUMNS)
    store.write_json(
        root / "pack/classes.json",
        [{"label": i, "id": f"n{i}", "name": n, "words": [n], "queries": []} for i, n in enumerate(names)],
    )
    store.write_array(root / "baseline/fold.npy", (np.arange(count) % 4).astype(np.int8))
    store.write_array(root / "features/features.npy", np.r_[features, features[:1]].astype(np.float16))
    store.write_array(root / "extract/topk_ids.npy", order[:, :2].astype(np.int32))
    store.write_array(
        root / "extract/topk_probs.npy", np.take_along_axis(probs, order, 1)[:, :2].astype(np.float32)
    )
    store.write_array(root / "extract/given_prob.npy", probs[np.arange(count), labels].astype(np.float32))
    balanced = probs / np.bincount(labels)
    balanced /= balanced.sum(axis=1, keepdims=True)
    order = np.argsort(-balanced, axis=1, kind="stable")
    store.write_array(root / "extract/balanced_topk_ids.npy", order[:, :2].astype(np.int32))
    store.write_array(
        root / "extract/balanced_topk_probs.npy",
        np.take_along_axis(balanced, order, 1)[:, :2].astype(np.float32),
    )
    store.write_array(
        root / "extract/balanced_given_prob.npy", balanced[np.arange(count), labels].astype(np.float32)
    )
    np.save(root / "truth.npy", truth)
    return mark_complete(root, extract={"features": "features/features.npy"})


def run(workdir, key, *overrides):
    out = workdir.open_partial("reweight", key)
    chosen = () if any(setting.startswith("preset=") for setting in overrides) else EVERYTHING
    context = StageContext(load_config(None, [*QUICK, *chosen, *overrides]), workdir, out)
    metadata = reweight.run(context)
    json.dumps(metadata)
    table = store.read_table(out / "weights.parquet")
    assert table.column_names == list(schema.WEIGHT_COLUMNS)
    return metadata, {name: store.column(table, name) for name in table.column_names}, out


def test_weights_prefer_right_labels(workdir):
    metadata, columns, out = run(workdir, "sound")
    right = np.load(workdir.root / "truth.npy") == columns["label"]
    assert columns["sample_weight"].mean(dtype=float) == pytest.approx(1.0, abs=1e-5)
    evidence = ("cluster_weight", "confidence", "self_confidence")
    for name in (*evidence, "label_posterior", "right_prob", "sample_weight"):
        assert columns[name][right].mean() > 1.3 * columns[name][~right].mean(), name
    for label in range(3):
        own = columns["label"] == label
        for name in evidence:
            assert columns[name][own].mean() == pytest.approx(1.0, abs=1e-5)
    product = columns["label_posterior"] * columns["rank_prior"] * columns["page_text"]
    np.testing.assert_allclose(product, columns["right_prob"], rtol=1e-5)
    assert columns["page_text"].std() > 0
    assert set(columns["cluster"]) <= set(range(5)) and columns["path"][3] == "a/3.jpg"
    assert (columns["saliency"] == 1).all()

    probs = np.load(out / "target_probs.npy")
    np.testing.assert_allclose(probs.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(np.load(out / "target_ids.npy")[:, 0], columns["label"])
    low, high = metadata["clean_rate_interval"]
    assert low <= right.mean() <= high and low < metadata["clean_rate_estimate"] < high
    assert metadata["bag_guarantee"] == pytest.approx(1 - (1 - metadata["clean_rate_estimate"]) ** 3)
    assert 10 < metadata["effective_sample_size"] < sum(SIZES)
    assert metadata["pages"]["with_text"] == 1.0
    # Every fifth page is a file name, which may lie nearer to any class.
    assert metadata["pages"]["nearer_to_another_class"] == pytest.approx((~right).mean(), abs=0.2)


def test_the_second_round_asks_weighted_models_that_did_not_see_the_image(workdir):
    _, first, _ = run(workdir, "one")
    metadata, second, out = run(workdir, "two", "reweight.rounds=2", "baseline.head=trained")
    right = np.load(workdir.root / "truth.npy") == second["label"]
    assert sorted(path.name for path in (out / "second_round").iterdir()) == [
        f"head{fold}.keras" for fold in range(4)
    ]
    assert (second["predicted_label"] == np.load(workdir.root / "truth.npy")).mean() > 0.9
    assert not np.array_equal(first["self_confidence"], second["self_confidence"])
    assert second["self_confidence"][right].mean() > 1.3 * second["self_confidence"][~right].mean()
    np.testing.assert_array_equal(first["cluster"], second["cluster"])


@pytest.mark.parametrize("preset", ["best", "sound", "paper"])
def test_arrays_give_what_the_stage_writes(workdir, preset):
    rounds = 2 if preset == "best" else 1
    settings = (f"preset={preset}", "extract.top_k=2", f"reweight.rounds={rounds}")
    _, columns, out = run(workdir, f"stage {preset}", *settings)
    truth, labels = np.load(workdir.root / "truth.npy"), columns["label"]
    probs = np.full((len(labels), 3), 0.1)
    probs[np.arange(len(labels)), truth] = 0.8
    table = store.read_table(workdir.root / "pack/instances.parquet").slice(0, len(labels))
    mixed = np.random.default_rng(0).permutation(labels)
    order = np.empty(len(labels), np.int64)  # classes mixed, but each in its own order: k-means begins there
    for label in range(3):
        order[mixed == label] = np.flatnonzero(labels == label)
    column = {name: np.array(table.column(name).to_pylist())[order] for name in ("source", "query", "title")}
    found = urnet_tf.compute_weights(
        labels[order], probs[order], features=np.load(workdir.root / "features/features.npy")[order],
        texts=column["title"].tolist(), class_names=["lion", "school bus", "pizza"],
        sources=column["source"], queries=column["query"], ranks=table.column("rank").to_numpy()[order],
        folds=np.load(workdir.root / "baseline/fold.npy")[order], top_k=2, rounds=rounds,
        recipe=reweight.read_recipe(load_config(None, [*QUICK, *settings])),
    )  # fmt: skip
    shared = set(found.column_names) & set(columns)
    assert len(shared) == 15
    # The heads of a second round are fitted to a gradient of 1e-3; the order of the rows and the BLAS of the
    # processor decide where below that they stop.
    rtol, atol = (1e-4, 1e-5) if rounds == 1 else (5e-3, 1e-3)
    for name in shared:
        np.testing.assert_allclose(found[name].to_numpy(), columns[name][order], rtol=rtol, err_msg=name)
    for name in ("target_ids", "target_probs"):
        np.testing.assert_allclose(found[name].to_pylist(), np.load(out / f"{name}.npy")[order], atol=atol)


def test_the_fitted_second_round_is_that_of_the_judge_with_the_first_weights(workdir):
    _, first, _ = run(workdir, "one")
    metadata, second, out = run(workdir, "fitted", "reweight.rounds=2", "baseline.head=logistic")
    assert metadata["predicted_by"] == schema.SECOND_ROUND and not (out / "second_round").exists()
    folds, truth = np.load(workdir.root / "baseline/fold.npy"), np.load(workdir.root / "truth.npy")
    features = np.load(workdir.root / "features/features.npy")[: len(folds)]
    judgement = out_of_fold_predictions(
        features, first["label"], folds=folds, kind="logistic", sample_weight=first["sample_weight"]
    )
    np.testing.assert_array_equal(second["predicted_label"], judgement.topk_ids[:, 0])
    assert (second["predicted_label"] == truth).mean() > 0.9
    probs = np.load(out / "target_probs.npy")
    share = 0.8 + 0.2 * judgement.given_prob
    np.testing.assert_allclose(probs[:, 0], share, rtol=1e-5)


def test_one_fold_has_no_second_round(workdir):
    _, _, out = run(workdir, "one fold", "baseline.folds=1", "reweight.rounds=2", "baseline.head=trained")
    assert not (out / "second_round").exists()


def test_paper_form_is_the_literal_product(workdir):
    metadata, columns, out = run(workdir, "paper", "preset=paper")
    assert (columns["self_confidence"] == 1).all()
    product = columns["class_weight"] * columns["cluster_weight"] * columns["confidence"]
    np.testing.assert_allclose(columns["sample_weight"], product, rtol=1e-5)
    assert (columns["confidence"] < 0).mean() == pytest.approx(metadata["negative_confidence_share"])
    disagree = columns["predicted_label"] != columns["label"]
    sums = np.load(out / "target_probs.npy").sum(axis=1)
    np.testing.assert_allclose(sums, np.where(disagree, 0.8, 1.0), rtol=1e-6)
    assert metadata["factors"]["class_weight"]["max"] < 1.0
    assert metadata["negative_weight_share"] == (columns["sample_weight"] < 0).mean() > 0
    assert metadata["predicted_by"] == schema.BASELINE and metadata["formulas"] == "literal"
    mean = columns["sample_weight"].mean(dtype=float)
    _, scaled, _ = run(workdir, "paper", "preset=paper", "reweight.combine.unit_mean=true")
    np.testing.assert_allclose(scaled["sample_weight"], columns["sample_weight"] / mean, rtol=1e-5)


def test_what_the_scale_of_the_weights_does_is_told():
    assert describe_scale(np.float32([0.5, 1.5])) == []
    against, scale = describe_scale(np.float32([0.3, 0.1, -0.2, 0.0]))
    assert against == "25.0% of the weights are below 0: these images count against their labels."
    assert "mean 0.05, not 1, and Keras divides by the images of a step, so the loss is 20 times" in scale
    assert "smaller" in scale and "20 times less learning" in scale
    assert "reweight.combine.unit_mean=true" in scale
    (scale,) = describe_scale(np.float32([3.0, 5.0]))
    assert "4 times larger" in scale and "4 times more learning rate" in scale
    assert "count against the labels" in describe_scale(np.float32([-0.3, 0.1]))[1]


def test_the_paper_without_its_text_vectors_says_so(workdir, tmp_path, caplog):
    metadata, _, _ = run(workdir, "paper", "preset=paper")
    (told,) = (note for note in metadata["notes"] if "fastText" in note)
    assert "reweight.confidence.text_vectors=FILE" in told and told in caplog.text
    words = "\n".join(
        f"{word} {number} 1 0 0" for number, word in enumerate(("lion", "school", "bus", "pizza"))
    )
    (tmp_path / "words.vec").write_text(f"4 4\n{words}\n")
    given = ("preset=paper", f"reweight.confidence.text_vectors={tmp_path / 'words.vec'}")
    metadata, _, _ = run(workdir, "paper with words", *given)
    assert not [note for note in metadata["notes"] if "fastText" in note]
    metadata, _, _ = run(workdir, "sound")
    assert metadata["notes"] == []


@pytest.mark.parametrize("name", ["confidence", "self_confidence"])
def test_floors_lift_what_lies_below_a_share_of_the_class_mean(workdir, name):
    _, low, _ = run(workdir, "low", f"reweight.{name}.floor=0")
    _, high, _ = run(workdir, "high", f"reweight.{name}.floor=1")
    for label in range(3):
        before = low[name][low["label"] == label].astype(float)  # with mean 1
        lifted = np.maximum(before, 1.0)
        np.testing.assert_allclose(high[name][low["label"] == label], lifted / lifted.mean(), rtol=1e-4)
        assert (before < 0.999).any()


def test_bounds_hold_the_weights(workdir):
    _, columns, _ = run(workdir, "free", "reweight.combine.smallest=0", "reweight.combine.largest=1000")
    assert columns["sample_weight"].min() < 0.6 and columns["sample_weight"].max() > 1.5
    bounds = ("reweight.combine.smallest=0.6", "reweight.combine.largest=1.5")
    _, columns, _ = run(workdir, "bound", *bounds)
    assert columns["sample_weight"].min() == np.float32(0.6)
    assert columns["sample_weight"].max() == np.float32(1.5)


def test_everything_off_is_ones(workdir):
    names = ("class_weight", *EVIDENCE)
    metadata, columns, out = run(workdir, "off", *(f"reweight.{name}.enabled=false" for name in names))
    for name in (*names[:-1], "sample_weight"):
        assert (columns[name] == 1).all()
    assert (columns["cluster"] == -1).all()
    np.testing.assert_array_equal(np.load(out / "target_probs.npy"), [[1.0, 0.0]] * sum(SIZES))
    assert metadata["effective_sample_size"] == pytest.approx(sum(SIZES))


def test_a_killed_run_goes_on_to_the_same_files(workdir, monkeypatch):
    names = ("weights.parquet", "target_ids.npy", "target_probs.npy", "confidence.npy")
    _, _, out = run(workdir, "whole", "reweight.rounds=2")
    expected = [(out / name).read_bytes() for name in names]

    complete = store.UnitLog.complete

    def complete_one(log, unit, metadata=None):
        complete(log, unit, metadata)
        raise KeyboardInterrupt

    monkeypatch.setattr(store.UnitLog, "complete", complete_one)
    with pytest.raises(KeyboardInterrupt):
        run(workdir, "killed", "reweight.rounds=2")
    monkeypatch.setattr(store.UnitLog, "complete", complete)
    _, _, out = run(workdir, "killed", "reweight.rounds=2")
    assert [(out / name).read_bytes() for name in names] == expected


def test_soft_targets_reach_a_small_class_outside_of_the_raw_best():
    """The image of tests/test_inference.py with raw probabilities 0.5, 0.3, 0.15, 0.05 and label 0."""
    balanced = {"given_prob": [0.25 / 1.15], "topk_ids": [[3, 1]], "topk_probs": [[0.45 / 1.15, 0.3 / 1.15]]}
    seen = {"given_prob": [0.5], "topk_ids": [[0, 1]], "topk_probs": [[0.5, 0.3]]}
    seen |= {f"balanced_{name}": values for name, values in balanced.items()}
    seen = {name: np.array(values) for name, values in seen.items()}

    def targets(formulas, *settings):
        chosen = [f"reweight.formulas={formulas}", "reweight.soft_label.enabled=true", *settings]
        config = load_config(None, chosen)
        prediction = reweight._first_prediction(formulas, seen)
        return make_targets(np.array([0]), prediction, reweight.read_recipe(config))

    ids, probs = targets("repaired")
    np.testing.assert_array_equal(ids, [[0, 3, 1]])
    share = 0.8 + 0.2 * 0.25 / 1.15
    np.testing.assert_allclose(probs, [[share, (1 - share) * 0.6, (1 - share) * 0.4]], rtol=1e-6)
    ids, probs = targets("repaired", "reweight.soft_label.kind=predicted")
    np.testing.assert_array_equal(ids, [[0, 3]])
    np.testing.assert_allclose(probs, [[0.88, 0.12]], rtol=1e-6)
    ids, _ = targets("literal", "reweight.soft_label.kind=predicted")
    np.testing.assert_array_equal(ids, [[0, 0]])  # the raw prediction


def test_who_predicted_the_predicted_label_is_reported(workdir):
    import keras

    metadata, columns, _ = run(workdir, "sound")
    assert metadata["predicted_by"] == schema.BALANCED_BASELINE
    best = np.load(workdir.root / "extract/balanced_topk_ids.npy")[:, 0]
    np.testing.assert_array_equal(columns["predicted_label"], best)
    metadata, columns, _ = run(workdir, "paper", "preset=paper")
    assert metadata["predicted_by"] == schema.BASELINE
    raw = np.load(workdir.root / "extract/topk_ids.npy")[:, 0]
    np.testing.assert_array_equal(columns["predicted_label"], raw)
    metadata, columns, out = run(workdir, "two", "reweight.rounds=2", "baseline.head=trained")
    assert metadata["predicted_by"] == schema.SECOND_ROUND
    folds = np.load(workdir.root / "baseline/fold.npy")
    features = np.load(workdir.root / "features/features.npy").astype(np.float32)[: len(folds)]
    for fold in range(4):
        head = keras.saving.load_model(out / "second_round" / f"head{fold}.keras", compile=False)
        said = np.asarray(head(features[folds == fold])).argmax(axis=1)
        np.testing.assert_array_equal(columns["predicted_label"][folds == fold], said)


@pytest.mark.parametrize("kind", ["size", "quality", "density"])
def test_other_kinds_of_cluster_weight(workdir, kind):
    others = ("confidence", "self_confidence", "class_weight")
    _, columns, _ = run(
        workdir, kind, f"reweight.cluster_weight.kind={kind}",
        *(f"reweight.{name}.enabled=false" for name in others),
    )  # fmt: skip
    assert columns["cluster_weight"].std() > 0


def test_estimate_grows_with_the_data():
    config = load_config()
    small, large = (reweight.estimate(config, PlanContext(train_images=n)) for n in (1000, 1_000_000))
    assert small.seconds < large.seconds and small.disk_bytes < large.disk_bytes
    assert reweight.estimate(config, PlanContext()).seconds is None


def test_the_estimate_knows_the_network_of_the_paper_and_features_as_they_are():
    plan = PlanContext(train_images=60_000, num_classes=200, cores=1)

    def seconds(*settings):
        return reweight.estimate(load_config(None, ["preset=paper", *settings]), plan).seconds

    paper = seconds()
    assert seconds("reweight.confidence.network=linear") < paper
    # 6,000 images, 24 steps of 256 a pass, 200 classes, 1,280 features, 4 layers of 300 and 600 units.
    multiplied = [e * (6000 * (1280 + e) + 24 * 200 * (300 + e)) for e in (300, 600)]
    more = seconds("reweight.confidence.embedding_dim=600") - paper
    assert more == pytest.approx(30 * 6 * (multiplied[1] - multiplied[0]) * 1.5e-11)
    # The contrastive loss looks at all classes in each step, the pairwise one at two an image.
    plan = dataclasses.replace(plan, num_classes=5000)
    assert seconds("reweight.confidence.loss=contrastive") > 1.5 * seconds()
    assert seconds("reweight.cluster_weight.pca_dim=32") < seconds()


def test_another_file_of_text_vectors_is_another_input(tmp_path):
    path = tmp_path / "a.vec"
    config = load_config(None, ["preset=sound", f"reweight.confidence.text_vectors={path}"])
    with pytest.raises(UsageError, match="No such file"):
        reweight.inputs(config)
    path.write_text("1 2\nlion 1 2\n")
    once = reweight.inputs(config)
    path.write_text("1 2\nlion 1 2.5\n")
    assert reweight.inputs(config) != once
    assert reweight.inputs(load_config()) == {}


def test_copies_count_once_where_the_setting_says_so(workdir, monkeypatch):
    off = [setting.replace("true", "false") for setting in EVERYTHING]
    read_table = store.read_table

    def with_copies(path, columns=None, **options):
        table = read_table(path, columns, **options)
        if "picture" in table.column_names:
            place = table.column_names.index("picture")
            pictures = ["p"] * 3 + [""] * (len(table) - 3)
            table = table.set_column(place, "picture", [pictures])
        return table

    monkeypatch.setattr(store, "read_table", with_copies)
    _, plain, _ = run(workdir, "copies", *off)
    _, once, _ = run(workdir, "once", *off, "reweight.combine.copies_once=true")
    assert (plain["sample_weight"] == 1).all()
    weight = once["sample_weight"]
    assert weight[:3] == pytest.approx(weight[3] / 3) and len(set(weight[3:])) == 1
