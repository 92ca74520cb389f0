"""What others would use, where it is more than a setting: cleanlab, co-teaching; and the oracle.

Each replaces the `run` of one stage and leaves the rest of the flow as it is. A method that drops
images gives them the weight 0, and the train stage leaves those out; the steps stay as many. All
weights are scaled to mean 1 over the images that are kept, so that the learning rate stays, too.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping

import numpy as np

from ablations.truth import read_true_classes, read_truth
from urnet_tf import schema, store
from urnet_tf.errors import UsageError
from urnet_tf.reweighting.class_weight import compute_class_weight
from urnet_tf.stages.settings import fit_settings, images_per_step, open_augmenter
from urnet_tf.stages.stage import Stage, StageContext

_LARGEST_PROBS = 2 * 10**9  # bytes


def replace_stages(
    stages: Mapping[str, Stage], method: Mapping[str, str], truth_path: str | None
) -> dict[str, Stage]:
    """The stages that a method changes.

    Args:
      stages: `reweight` and `train`, by name.
      method: the harness's own settings of a row (see `rows`); {} = none.

    Raises:
      UsageError: a value that is out of range, or the oracle is wanted without the truth.
    """
    replaced = {}
    for key, value in method.items():
        if key == "co_teaching.forget_rate":
            replaced["train"] = _with_run(stages["train"], _co_teach, float(value))
        elif key == "oracle.drop_wrong":
            replaced["reweight"] = _reweigh_by(stages["reweight"], _right_labels, truth_path)
        elif key == "oracle.correct_wrong":
            replaced["reweight"] = _with_run(stages["reweight"], _correct, stages["reweight"].run, truth_path)
        else:
            factor = {
                "cleanlab.filter_by": _cleanlab_kept, "cleanlab.quality": _cleanlab_quality,
                "knn.neighbors": _neighbors_agree,
            }[key]  # fmt: skip
            replaced["reweight"] = _reweigh_by(stages["reweight"], factor, value)
    return replaced


def scale_weights(factor: np.ndarray, labels: np.ndarray, num_classes: int, by_class: bool) -> np.ndarray:
    """A method's own weights, times class weights where wanted, with mean 1 over what is kept.

    Args:
      factor: float [N]; 0 = left out. Class weights are those of the images that are kept.

    Returns:
      float32 [N].

    Raises:
      UsageError: nothing is kept.
    """
    kept = factor > 0
    if not kept.any():
        raise UsageError("Expected a method that keeps some images; it has dropped every one.")
    weight = np.asarray(factor, np.float64)
    if by_class:
        weight = weight * compute_class_weight(labels[kept], num_classes=num_classes, alpha=1.0)[labels]
    return (weight / weight[kept].mean()).astype(np.float32)


def out_of_fold_probs(context: StageContext) -> np.ndarray:
    """What the fold models say of the images that they have not seen: float32 [N, C].

    Only comparisons need all of it; the flow itself keeps the best classes of each image.

    Raises:
      UsageError: there are no folds, or N x C would not fit.
    """
    from urnet_tf.evaluation import inference
    from urnet_tf.evaluation.predictions import BalancedPredictions
    from urnet_tf.images.image_store import ImageStore
    from urnet_tf.training.saving import load_model

    config = context.config
    labels, num_classes = _labels_of(context)
    if config.baseline.folds < 2 or 8 * len(labels) * num_classes > _LARGEST_PROBS:
        raise UsageError(
            f"Expected baseline.folds of 2 or more and a crawl of which all probabilities fit into memory; "
            f"received {config.baseline.folds} and {len(labels):,} images x {num_classes:,} classes."
        )
    folds = np.asarray(store.read_array(context.path("baseline", "fold.npy")))
    found, ones = BalancedPredictions.allocate(len(labels), num_classes), np.ones(num_classes, np.float32)
    for fold in range(config.baseline.folds):
        path = context.path("baseline", f"model_fold{fold}.keras")
        model, ids = load_model(path), np.flatnonzero(folds == fold)
        if config.model.mode == "frozen":
            features = store.read_array(context.path("features", "features.npy"))
            found.write(ids, inference.predict_top_k(model, features, ids, labels[ids], num_classes, ones))
        else:
            batch = config.extract.batch_images
            with tempfile.TemporaryDirectory() as directory:  # what is found is not on disk: no resuming
                units = store.UnitLog(directory, inference.count_units(len(ids), batch))
                inference.extract_top_k(
                    model, ImageStore(context.path("pack")), ids, labels[ids], found, units, class_scale=ones,
                    image_size_px=config.model.image_size_px, crop_fraction=config.model.crop_fraction,
                    batch_size=batch,
                )  # fmt: skip
    probs = np.empty((len(labels), num_classes), np.float32)
    np.put_along_axis(probs, found.topk_ids.astype(np.int64), found.topk_probs, axis=1)
    return probs


def _with_run(stage, run: Callable, *arguments):
    return dataclasses.replace(stage, run=lambda context: run(context, *arguments))


def _reweigh_by(stage, compute_factor, argument):
    """The stage `reweight` whose sample weights are a method's, times class weights where they are on."""

    def run(context):
        metadata = stage.run(context)
        path = context.out / "weights.parquet"
        weights = store.read_table(path)
        labels, num_classes = _labels_of(context)
        factor = compute_factor(context, weights, argument)
        by_class = context.config.reweight.class_weight.enabled
        columns = {name: weights.column(name).combine_chunks() for name in schema.WEIGHT_COLUMNS}
        columns["sample_weight"] = scale_weights(factor, labels, num_classes, by_class)
        store.write_table(path, columns, schema.WEIGHT_COLUMNS, {"format": schema.WEIGHTS_FORMAT})
        return metadata | {"dropped": int((factor == 0).sum())}

    return dataclasses.replace(stage, run=run)


def _labels_of(context):
    table = store.read_table(context.path("pack", "instances.parquet"), ["split", "label"])
    labels = store.column(table, "label")[store.column(table, "split") == schema.TRAIN]
    return labels, len(store.read_json(context.path("pack", "classes.json")))


def _right_labels(context, weights, truth_path):
    return read_truth(_require_truth(truth_path), weights.column("path").to_pylist()).astype(np.float64)


def _correct(context, reweigh, truth_path):
    """The stage `reweight` with the true classes as labels, all of one weight, and without images of none."""
    metadata = reweigh(context)
    path = context.out / "weights.parquet"
    weights = store.read_table(path)
    labels, num_classes = _labels_of(context)
    truth = read_true_classes(_require_truth(truth_path), weights.column("path").to_pylist(), labels)
    known = truth >= 0
    columns = {name: weights.column(name).combine_chunks() for name in schema.WEIGHT_COLUMNS}
    columns["label"] = np.where(known, truth, labels).astype(labels.dtype)
    columns["sample_weight"] = scale_weights(known, columns["label"], num_classes, by_class=False)
    store.write_table(path, columns, schema.WEIGHT_COLUMNS)
    return metadata | {"dropped": int((~known).sum()), "corrected": int((known & (truth != labels)).sum())}


def _require_truth(truth_path):
    if truth_path is None:
        raise UsageError("Expected --truth for the oracle, which changes what it calls wrong.")
    return truth_path


def _cleanlab_kept(context, weights, filter_by):
    _require_cleanlab()
    from cleanlab.filter import find_label_issues

    labels, _ = _labels_of(context)
    issues = find_label_issues(labels, out_of_fold_probs(context), filter_by=filter_by, n_jobs=1)
    return 1.0 - issues


def _cleanlab_quality(context, weights, method):
    _require_cleanlab()
    from cleanlab.rank import get_label_quality_scores

    labels, _ = _labels_of(context)
    return np.maximum(get_label_quality_scores(labels, out_of_fold_probs(context), method=method), 1e-6)


def _neighbors_agree(context, weights, neighbors):
    """Which share of the nearest images, by the cosine of features, has the same label.

    Source: Zhu et al., Detecting corrupted labels without training a model to predict, ICML 2022.
    """
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import normalize

    if context.config.model.mode != "frozen":
        raise UsageError(
            "Expected model.mode=frozen for knn.neighbors; the features are those of the network."
        )
    labels, _ = _labels_of(context)
    features = store.read_array(context.path("features", "features.npy"))[: len(labels)]
    features = normalize(np.asarray(features, np.float32))
    count = min(int(neighbors), len(labels) - 1)
    found = NearestNeighbors(n_neighbors=count).fit(features).kneighbors(return_distance=False)
    return np.maximum((labels[found] == labels[:, None]).mean(axis=1), 1e-6)


def _require_cleanlab():
    try:
        import cleanlab  # noqa: F401
    except ImportError:
        raise UsageError("cleanlab is not installed: pip install 'urnet_tf[compare]'.") from None


def _co_teach(context, forget_rate):
    """The train stage with two classifiers that choose for each other; the first one is kept.

    Its batches are single images, not bags: there is no bag branch.
    """
    from ablations.co_teaching import fit_co_teaching
    from urnet_tf.feed import batches
    from urnet_tf.feed.sampling import InstanceSampler
    from urnet_tf.images.image_store import ImageStore
    from urnet_tf.models.classifier import build_classifier, build_image_classifier
    from urnet_tf.stages.settings import open_backbone
    from urnet_tf.training import fit as training
    from urnet_tf.training.saving import save_model

    if not 0.0 <= forget_rate < 1.0:
        raise UsageError(f"Expected co_teaching.forget_rate from 0 to below 1; received {forget_rate}.")
    config, fit = context.config, context.config.train.fit
    weights = store.read_table(context.path("reweight", "weights.parquet"))
    labels, num_classes = _labels_of(context)
    batch_images = images_per_step(fit, len(labels))
    sampler = InstanceSampler(np.arange(len(labels)), batch_images, config.seed)
    targets = labels[:, None].astype(np.int32), np.ones((len(labels), 1), np.float32)
    targets = *targets, store.column(weights, "sample_weight")
    if config.model.mode == "frozen":
        features = store.read_array(context.path("features", "features.npy"))
        data = batches.FeatureBatches(features, sampler, *targets)
    else:
        data = batches.ImageBatches(
            ImageStore(context.path("pack")), sampler, *targets, image_size_px=config.model.image_size_px,
            augment=open_augmenter(config), crop_fraction=config.model.crop_fraction,
        )  # fmt: skip

    def build(number):
        frozen, seed = config.model.mode == "frozen", 2 * config.seed + number
        head = {"dropout": config.model.dropout, "seed": seed}
        if frozen:
            return build_classifier(features.shape[1], num_classes, **head)
        return build_image_classifier(open_backbone(config, seed=seed), num_classes, **head)

    steps = training.count_steps(fit.epochs, len(labels), batch_images)
    options = fit_settings(fit, config.runtime, batch_images)["options"]
    with training.precision_policy(config.runtime.precision):
        model = fit_co_teaching(
            build, data, forget_rate, options, total_steps=steps, checkpoint_dir=context.out / "checkpoint",
            label_smoothing=fit.label_smoothing,
        )  # fmt: skip
    context.remove("checkpoint")
    save_model(model, context.out / "instance.keras")
    shutil.copyfile(context.path("reweight", "weights.parquet"), context.out / "weights.parquet")
    return {"steps": steps}
