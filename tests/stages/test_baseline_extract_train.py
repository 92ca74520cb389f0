"""The three training stages on a drawn image store, with a tiny network in place of the backbone."""

import dataclasses

import keras
import numpy as np
import pytest
from urnet_fixtures.squares import (
    PER_CLASS,
    TRAIN,
    VAL,
    run_stage as run,
    small_settings as settings,
)

from urnet_tf import config as config_lib, store
from urnet_tf.errors import RunError, UsageError
from urnet_tf.models.unfreezing import list_blocks
from urnet_tf.reweighting.judge import out_of_fold_predictions
from urnet_tf.stages import baseline, extract, features, fitted_heads, pack, reweight, train, urnet_fit
from urnet_tf.stages.settings import images_per_step
from urnet_tf.stages.stage import PlanContext, StageContext


def test_folds_are_stratified_seeded_and_keep_copies_together():
    labels = np.repeat([0, 1, 2], [40, 8, 1])
    hashes = np.arange(49)
    hashes[[3, 9, 41]] = 99
    hashes[[10, 11]] = -1
    folds = baseline.assign_folds(labels, hashes, 4, seed=1)
    assert folds.dtype == np.int8 and folds[3] == folds[9] == folds[41]
    counts = np.bincount(folds[:40], minlength=4)
    assert counts.min() >= 8 and counts.max() <= 12
    assert set(folds[40:48]) == {0, 1, 2, 3}
    np.testing.assert_array_equal(folds, baseline.assign_folds(labels, hashes, 4, seed=1))
    assert not np.array_equal(folds, baseline.assign_folds(labels, hashes, 4, seed=2))
    assert not baseline.assign_folds(labels, hashes, 1, seed=1).any()


def test_frozen_stages(tiny, workdir, monkeypatch):
    config = settings("frozen", 2)
    metadata = run(baseline, config, workdir)
    columns = store.read_array(workdir / "features" / "features.npy")
    assert columns.shape == (TRAIN + VAL, 16) and columns.dtype == np.float16
    assert metadata.keys() == {"folds", "loss", "accuracy"}
    folds = store.read_array(workdir / "baseline" / "fold.npy")
    assert folds.shape == (TRAIN,) and folds[4] == folds[5] == folds[25]
    assert sorted(p.name for p in (workdir / "baseline").glob("model_*")) == [
        "model_fold0.keras", "model_fold1.keras", "model_full.keras",
    ]  # fmt: skip
    assert len(store.read_json(workdir / "baseline" / "history_full.json")) == 20

    metadata = run(extract, config, workdir)
    assert metadata["features"] == "features/features.npy" and metadata["accuracy_out_of_fold"] > 0.8
    ids, probs, given = (
        np.asarray(store.read_array(workdir / "extract" / f"{name}.npy"))
        for name in ("topk_ids", "topk_probs", "given_prob")
    )
    assert ids.shape == probs.shape == (TRAIN, 2) and (probs[:, 0] >= probs[:, 1]).all()
    labels = np.repeat(np.arange(3), PER_CLASS)
    head = keras.models.load_model(workdir / "baseline" / "model_fold1.keras")
    rows = np.flatnonzero(folds == 1)
    logits = head(np.asarray(columns[rows], np.float32)).numpy().astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(given[rows], expected[np.arange(len(rows)), labels[rows]], atol=1e-5)

    metadata = run(train, config, workdir)
    assert metadata["instance_accuracy"] > 0.8 and metadata["steps"] == 100
    saliency = store.read_array(workdir / "train" / "saliency.npy")
    assert saliency.shape == (TRAIN,) and saliency.mean() == pytest.approx(1, abs=0.05) and saliency.std() > 0
    table = store.read_table(workdir / "train" / "weights.parquet")
    np.testing.assert_array_equal(store.column(table, "saliency"), saliency)
    np.testing.assert_array_equal(
        store.column(table, "sample_weight"),
        store.column(store.read_table(workdir / "reweight" / "weights.parquet"), "sample_weight"),
    )
    branch = keras.models.load_model(workdir / "train" / "instance.keras")
    assert branch.input_shape == (None, 16)
    # a second run gives the same bytes
    before = (workdir / "train" / "urnet.keras").read_bytes()
    run(train, config, workdir)
    assert (workdir / "train" / "urnet.keras").read_bytes() == before


@pytest.mark.parametrize("folds", [1, 2])
def test_fitted_heads(tiny, workdir, folds):
    config = settings("frozen", folds, head="logistic")
    metadata = run(baseline, config, workdir)
    assert 0.8 < metadata["accuracy"] <= 1.0
    names = ["full", "fold0", "fold1"] if folds == 2 else ["full"]
    written = {path.stem for path in (workdir / "baseline").glob("model_*.keras")}
    assert written == {f"model_{name}" for name in names}
    columns = np.asarray(store.read_array(workdir / "features" / "features.npy"), np.float32)[:TRAIN]
    labels, assigned = np.repeat(np.arange(3), PER_CLASS), np.load(workdir / "baseline" / "fold.npy")
    # A baseline knows how frequent the classes are; the judge, like the final head, counts them alike.
    dealt = assigned if folds == 2 else fitted_heads.CHOOSING_FOLDS
    expected = out_of_fold_predictions(columns, labels, folds=dealt, kind="logistic")
    model = keras.models.load_model(workdir / "baseline" / f"model_{names[-1]}.keras")
    head = expected.heads[1] if folds == 2 else expected.head
    prior = np.log(np.bincount(labels) / TRAIN)
    np.testing.assert_allclose(model(columns), head.logits(columns) + prior, atol=1e-4)

    run(extract, config, workdir)
    metadata = run(train, config, workdir)
    assert metadata["instance_accuracy"] > 0.8 and not (workdir / "train" / "urnet.keras").exists()
    weight = store.column(store.read_table(workdir / "reweight" / "weights.parquet"), "sample_weight")
    expected = out_of_fold_predictions(
        columns, labels, folds=dealt, kind="logistic", sample_weight=weight, trust=weight
    )
    branch = keras.models.load_model(workdir / "train" / "instance.keras")
    np.testing.assert_allclose(branch(columns), expected.head.logits(columns), atol=1e-4)
    assert (np.load(workdir / "train" / "saliency.npy") == 1).all()


def test_the_mass_of_a_class_is_counted_in_average_images():
    labels = np.array([0, 0, 0, 1, 1, 2])
    # 0.03, 0.01, -0.5 | 0.02, 0.04 | -0.1: 0.04, 0.06 and 0 of 0.1 for their labels, on 6 images
    weights = np.array([0.03, 0.01, -0.5, 0.02, 0.04, -0.1])
    np.testing.assert_allclose(urnet_fit.compute_class_mass(labels, weights, 4), [2.4, 3.6, 0, 0], rtol=1e-12)
    with pytest.raises(RunError, match="all 6 weigh 0 or less"):
        urnet_fit.compute_class_mass(labels, -np.abs(weights), 4)


@pytest.mark.parametrize(("images", "size"), [(10_000, 256), (1024, 256), (1023, 128), (30, 4), (2, 1)])
def test_small_crawls_are_trained_in_small_steps(images, size):
    assert images_per_step(config_lib.FitConfig(batch_images=256), images) == size


def test_copies_of_one_file_cannot_be_divided_into_folds():
    labels, copies = np.repeat([0, 1], 8), np.full(16, 3)
    with pytest.raises(UsageError, match="copies of too few files"):
        baseline.assign_folds(labels, copies, 4, seed=0)
    assert not baseline.assign_folds(labels, copies, 1, seed=0).any()


def test_one_fold_is_in_sample(tiny, workdir):
    config = settings("frozen", 1)
    run(baseline, config, workdir)
    assert [p.name for p in (workdir / "baseline").glob("model_*")] == ["model_full.keras"]
    metadata = run(extract, config, workdir)
    assert metadata["accuracy_out_of_fold"] is None
    top = store.read_array(workdir / "extract" / "topk_ids.npy")[:, 0]
    assert np.mean(top == np.repeat(np.arange(3), PER_CLASS)) == pytest.approx(metadata["accuracy_in_sample"])


def test_finetune_stages_resume_after_a_kill(tiny, workdir, monkeypatch):
    config = settings("finetune", 2, epochs=2, init="baseline", bag={"size": 2, "loss_weight": 0.0})
    from urnet_tf.training import saving

    saved = saving.save_model
    calls = []

    def killed(model, path):
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        saved(model, path)

    monkeypatch.setattr(saving, "save_model", killed)
    with pytest.raises(KeyboardInterrupt):
        run(baseline, config, workdir)
    run(baseline, config, workdir)
    assert calls == ["model_full.keras", "model_fold0.keras", "model_fold0.keras", "model_fold1.keras"]
    metadata = run(extract, config, workdir)
    assert metadata["features"] == "extract/features.npy"
    features = store.read_array(workdir / "extract" / "features.npy")
    assert features.shape == (TRAIN, 16) and (np.abs(features).sum(1) > 0).all()
    assert (store.read_array(workdir / "extract" / "given_prob.npy") > 0).all()
    _check_features_of_folds(config, workdir, features)
    run(train, config, workdir)
    branch = keras.models.load_model(workdir / "train" / "instance.keras")
    assert branch.input_shape == (None, 16, 16, 3) and branch.output_shape == (None, 3)


@pytest.mark.parametrize("init", ["pretrained", "baseline", "baseline_with_classifier"])
def test_training_starts_from_what_was_asked_for(tiny, workdir, init):
    from urnet_tf.models.classifier import LOGITS, backbone_of

    config = settings("finetune", 1, epochs=2, init=init)
    run(baseline, config, workdir)
    context = StageContext(config, store.Workdir(workdir), workdir / "unused")
    model = urnet_fit.build_model(context, 3, synchronized=False)
    full = keras.models.load_model(workdir / "baseline" / "model_full.keras")
    kernels = [backbone_of(network).get_layer("conv").kernel.numpy() for network in (model, full)]
    assert np.array_equal(*kernels) == (init != "pretrained")
    first = model.get_layer(LOGITS).kernel.numpy()
    assert full.get_layer(LOGITS).kernel.numpy().any()
    assert np.array_equal(first, full.get_layer(LOGITS).kernel.numpy()) == (
        init == "baseline_with_classifier"
    )
    assert first.any() == (init == "baseline_with_classifier")


def test_a_whole_network_starts_from_the_head_that_fits_its_features(tiny, workdir, monkeypatch):
    from urnet_tf.models.classifier import LOGITS, backbone_of

    monkeypatch.setattr(urnet_fit, "_FEWEST_HELD", VAL)
    config = settings("finetune", 2, epochs=2, unfreeze="blocks:1", backbone_rate=0.5, keep="best")
    config = dataclasses.replace(config, baseline=dataclasses.replace(config.baseline, networks="frozen"))
    run(baseline, config, workdir)
    metadata = run(extract, config, workdir)
    assert metadata["features"] == "features/features.npy" and metadata["accuracy_out_of_fold"] is not None
    context = StageContext(config, store.Workdir(workdir), workdir / "unused")
    model = urnet_fit.build_model(context, 3, synchronized=False)
    table = store.read_table(workdir / "reweight" / "weights.parquet")
    labels, weights = store.column(table, "label"), store.column(table, "sample_weight")
    expected = out_of_fold_predictions(
        store.read_array(workdir / "features" / "features.npy")[: len(labels)], labels,
        folds=np.asarray(store.read_array(workdir / "baseline" / "fold.npy")), num_classes=3,
        sample_weight=weights, trust=weights,
    ).head  # fmt: skip
    for name in (LOGITS, "bag_logits"):
        np.testing.assert_array_equal(model.get_layer(name).kernel.numpy(), expected.kernel)
        np.testing.assert_array_equal(model.get_layer(name).bias.numpy(), expected.bias)
    before = [variable.numpy() for variable in backbone_of(model).variables]
    run(train, config, workdir)
    trained = keras.models.load_model(workdir / "train" / "urnet.keras")
    after = [variable.numpy() for variable in backbone_of(trained).variables]
    changed = [not np.array_equal(*pair) for pair in zip(before, after, strict=True)]
    learning = {
        variable.path for layer in list_blocks(backbone_of(model))[-1] for variable in layer.variables
    }
    assert changed == [variable.path in learning for variable in backbone_of(model).variables]
    assert any(changed) and not all(changed), "the last block alone learns"
    history = store.read_json(workdir / "train" / "history.json")
    assert sum("kept" in row for row in history) == 1 and all(
        "val_instance_accuracy" in row for row in history
    )


@pytest.mark.parametrize("own", [True, False])
def test_bags_count_as_their_settings_say(workdir, own):
    bag = {"size": 2, "target": "label", "weighted": False} if own else {"size": 2}
    config = settings("frozen", 1, epochs=1, bag=bag)
    run(features, config, workdir)
    context = StageContext(config, store.Workdir(workdir), workdir / "unused")
    table = store.read_table(workdir / "reweight" / "weights.parquet")
    labels, weights = store.column(table, "label"), store.column(table, "sample_weight")
    data = urnet_fit.bag_batches(context, labels, weights, augmented=True)
    ((_, y, w),) = data.dataset(0, 1).as_numpy_iterator()
    if own:
        np.testing.assert_array_equal(y["bag"][:, 0, 0], y["instance"][:, 0, 0, 0])
        assert y["bag"].shape[2] == 1 and (y["bag"][:, 1] == 1).all() and (w["bag"] == 1).all()
    else:
        assert y["bag"].shape[2] == 4 and set(y["bag"][:, 1].ravel()) == {np.float32(0.45), np.float32(0.05)}
        np.testing.assert_allclose(w["bag"], w["instance"].mean(axis=1), rtol=1e-6)
    assert w["instance"].std() > 0.1


def _check_features_of_folds(config, workdir, features):
    """A second round wants what the network of each fold sees in all images: its head repeats its answers."""
    from urnet_tf.models.classifier import head_of

    first = np.array(store.read_array(workdir / "extract" / "given_prob.npy"))
    again = dataclasses.replace(config.reweight, rounds=2)
    run(extract, dataclasses.replace(config, reweight=again), workdir)
    np.testing.assert_array_equal(store.read_array(workdir / "extract" / "given_prob.npy"), first)
    folds = store.read_array(workdir / "baseline" / "fold.npy")
    for fold in range(2):
        seen = store.read_array(workdir / "extract" / f"features_fold{fold}.npy")
        assert seen.shape == features.shape and not np.array_equal(seen, features)
        head = head_of(keras.models.load_model(workdir / "baseline" / f"model_fold{fold}.keras"))
        probs = keras.ops.softmax(head(seen.astype("float32"))).numpy()
        given = probs[np.arange(TRAIN), store.column(_labels(workdir), "label")]
        np.testing.assert_allclose(given[folds == fold], first[folds == fold], rtol=0.02)


def _labels(workdir):
    return store.read_table(workdir / "reweight" / "weights.parquet", ["label"])


@pytest.mark.parametrize(
    ("mode", "options", "instance_loss", "bag_loss"),
    [
        # Heads start at zero, so that the first step sees probabilities of 1/3.
        ("frozen", {"loss": {"kind": "elr"}, "mixup": None}, np.log(3) + 3 * np.log(1 - 0.3 / 3), np.log(3)),
        ("finetune", {"loss": {"kind": "gce"}, "mixup": 0.4}, *[(1 - 3**-0.7) / 0.7] * 2),
    ],
)
def test_losses_and_mixup_work_in_both_stages(tiny, workdir, mode, options, instance_loss, bag_loss):
    tree = config_lib.to_dict(settings(mode, 1))
    for stage in ("baseline", "train"):
        tree[stage]["fit"] |= {"epochs": 0} | options  # one step
    config = config_lib.from_dict(tree)
    assert run(baseline, config, workdir)["loss"] == pytest.approx(instance_loss, rel=1e-4)
    run(train, config, workdir)
    (metadata,) = store.read_json(workdir / "train" / "history.json")
    assert metadata["instance_loss"] / metadata["bag_loss"] == pytest.approx(
        instance_loss / bag_loss, rel=1e-4
    )


def test_estimates_grow_with_the_data():
    small, large = PlanContext(1000, 800, 10, cores=2), PlanContext(100_000, 80_000, 10, cores=2)
    for mode in ("frozen", "finetune"):
        config = settings(mode, 4)
        for module in (baseline, extract, train):
            first, second = (module.estimate(config, metadata) for metadata in (small, large))
            assert 0 < first.seconds < second.seconds and first.disk_bytes <= second.disk_bytes
            assert module.estimate(config, PlanContext()).seconds is None


def test_stage_declarations():
    assert baseline.STAGE.needs == ("pack", "features")
    assert train.STAGE.needs == ("pack", "features", "baseline", "reweight")
    known = config_lib.Config()
    for stage in (features.STAGE, baseline.STAGE, extract.STAGE, train.STAGE):
        for key in stage.depends_on:
            config_lib.select(known, key)


def test_estimates_of_heads_grow_with_the_classes():
    """Measured on two cores: a step of a trained head took 9 + 0.049 C ms at 1,280 features."""

    def of(stage, head, classes, folds=1):
        config = config_lib.load_config(None, [f"baseline.head={head}", f"baseline.folds={folds}"])
        plan = PlanContext(images=255_000, train_images=255_000, num_classes=classes, cores=2, gpus=0)
        return config, stage.estimate(config, plan)

    config, few = of(baseline, "trained", 100)
    _, many = of(baseline, "trained", 5000)
    fit = config.baseline.fit
    steps = fit.epochs * 255_000 / fit.batch_images
    size = max(1.0, fit.batch_images / 255)
    assert many.seconds - few.seconds == pytest.approx(steps * size * 0.049e-3 * 4900, rel=0.01)
    # A pass of L-BFGS takes four operations an image, feature and class; memory holds ten pairs of steps.
    (_, small), (_, large) = of(baseline, "mean", 100), of(baseline, "mean", 5000)
    assert large.seconds > 15 * small.seconds
    assert large.memory_bytes - small.memory_bytes > 20 * 8 * 1280 * 4900
    (_, small), (_, large) = of(reweight, "mean", 100, folds=5), of(reweight, "mean", 5000, folds=5)
    assert large.seconds > 15 * small.seconds  # the second round fits such heads again


def test_plans_count_the_table_of_all_images():
    config = config_lib.load_config(None, [])
    small, large = (pack.estimate(config, PlanContext(images=n, train_images=n)) for n in (10**5, 10**7))
    assert large.memory_bytes - small.memory_bytes == 1100 * (10**7 - 10**5)
    assert large.disk_bytes > 9 * 10**6 * (25_000 + 16)
