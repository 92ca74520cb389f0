"""Stage `extract`: what the baseline says about each training instance.

Reads the image store (pack), the features (frozen), and the models and folds of `baseline`. Writes
the columns of `BalancedPredictions`, out of fold when there are folds; where whole networks judge, also
features.npy by the full network; judged_topk_*.npy of judged images that are out of training. Never holds
N x C.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from urnet_tf import schema, store
from urnet_tf.config import Config, has_second_round, judges_features
from urnet_tf.stages.settings import count_backbone, forward_seconds, inference_bytes
from urnet_tf.stages.stage import Estimate, PlanContext, Stage, StageContext

if TYPE_CHECKING:
    import keras

    from urnet_tf.images.image_store import ImageStore


def run(context: StageContext) -> dict:
    """Predicts every training instance by a model that did not see it."""
    from urnet_tf.evaluation import inference
    from urnet_tf.evaluation.predictions import BalancedPredictions
    from urnet_tf.images.image_store import ImageStore
    from urnet_tf.models.classifier import backbone_of, head_of
    from urnet_tf.reweighting.class_weight import compute_class_weight
    from urnet_tf.training.saving import load_model

    config = context.config
    frozen = judges_features(config)
    table = store.read_table(context.path("pack", "instances.parquet"), ["split", "label"])
    labels = store.column(table, "label")[store.is_equal(table, "split", schema.TRAIN)]
    num_classes = len(store.read_json(context.path("pack", "classes.json")))
    folds = np.asarray(store.read_array(context.path("baseline", "fold.npy")))
    num_folds = config.baseline.folds
    k, batch = min(config.extract.top_k, num_classes), config.extract.batch_images
    view: dict[str, Any] = {
        "image_size_px": config.model.image_size_px,
        "crop_fraction": config.model.crop_fraction,
    }

    def load(name: str) -> "keras.Model":
        return load_model(context.path("baseline", f"model_{name}.keras"))

    full, instances = load("full"), np.arange(len(labels))
    if frozen:
        features_path, head = "features/features.npy", full
        features = store.read_array(context.path("features", "features.npy"))
    else:
        images = ImageStore(context.path("pack"))
        features_path, head = "extract/features.npy", head_of(full)
        features = _extract_features(context, backbone_of(full), images, len(labels), "features", view)

    class_scale = compute_class_weight(labels, num_classes=num_classes, alpha=1.0)
    in_sample = inference.predict_top_k(head, features, instances, labels, k, class_scale)
    columns = BalancedPredictions.allocate(
        len(labels),
        k,
        lambda name, shape, dtype: store.open_column(context.out / f"{name}.npy", shape, dtype),
    )
    if num_folds == 1:
        columns.write(instances, in_sample)
    for fold in range(num_folds) if num_folds > 1 else ():
        ids, model = np.flatnonzero(folds == fold), load(f"fold{fold}")
        if frozen:
            columns.write(ids, inference.predict_top_k(model, features, ids, labels[ids], k, class_scale))
            continue
        if has_second_round(config):  # the second round trains heads on what this network sees
            _extract_features(context, backbone_of(model), images, len(labels), f"features_fold{fold}", view)
        filled = dataclasses.astuple(columns)
        units = context.units(f"fold{fold}", inference.count_units(len(ids), batch), *filled)
        inference.extract_top_k(
            model, images, ids, labels[ids], columns, units, class_scale=class_scale, batch_size=batch, **view
        )
    held = np.flatnonzero(store.is_equal(table, "split", schema.JUDGED))
    if held.size:
        _predict_judged(context, held, load, k, class_scale)
    agreement = _report_agreement(labels, in_sample.topk_ids, columns.topk_ids if num_folds > 1 else None)
    return {"features": features_path, "feature_dim": int(features.shape[1]), **agreement}


def _predict_judged(
    context: StageContext,
    ids: np.ndarray,
    load: Callable[[str], "keras.Model"],
    k: int,
    class_scale: np.ndarray,
) -> None:
    """judged_topk_ids.npy and judged_topk_probs.npy of the split JUDGED, balanced: a fold's model for each.

    So they are predicted as training images are, and what people found of them says how good that is.
    """
    from urnet_tf.evaluation import inference
    from urnet_tf.evaluation.predictions import BalancedPredictions
    from urnet_tf.feed.batches import stream_images
    from urnet_tf.images.image_store import ImageStore

    config, found = context.config, BalancedPredictions.allocate(len(ids), k)
    folds = config.baseline.folds
    for fold in range(folds):
        rows = np.arange(len(ids))[fold::folds]
        model = load(f"fold{fold}" if folds > 1 else "full")
        unknown = np.zeros(len(rows), np.int64)  # which label is asked about does not matter
        if judges_features(config):
            features = store.read_array(context.path("features", "features.npy"))
            found.write(rows, inference.predict_top_k(model, features, ids[rows], unknown, k, class_scale))
            continue
        batch = config.extract.batch_images
        predict, done = inference.build_top_k_function(model, k, batch, class_scale), 0
        for images in stream_images(
            ImageStore(context.path("pack")), ids[rows], config.model.image_size_px,
            config.model.crop_fraction, batch,
        ):  # fmt: skip
            here = rows[done : done + len(images)]
            found.write(here, predict(images, unknown[: len(here)]))
            done += len(here)
    store.write_array(context.out / "judged_topk_ids.npy", found.balanced_topk_ids)
    store.write_array(context.out / "judged_topk_probs.npy", found.balanced_topk_probs)


def _report_agreement(
    labels: np.ndarray, in_sample_ids: np.ndarray, out_of_fold_ids: np.ndarray | None
) -> dict[str, Any]:
    """Shares of images whose likeliest class is the given one."""
    seen = float(np.mean(in_sample_ids[:, 0] == labels))
    unseen = None if out_of_fold_ids is None else float(np.mean(out_of_fold_ids[:, 0] == labels))
    logging.info(
        "Agreement with the given labels: %.3f in sample%s.",
        seen, "" if unseen is None else f", {unseen:.3f} out of fold",
    )  # fmt: skip
    return {"accuracy_in_sample": seen, "accuracy_out_of_fold": unseen}


def _extract_features(
    context: StageContext,
    backbone: "keras.Model",
    images: "ImageStore",
    rows: int,
    name: str,
    view: dict[str, Any],
) -> np.ndarray:
    """Fills <name>.npy float16 [N, D]: all training images by one network."""
    from urnet_tf.evaluation import inference

    batch, shape = context.config.extract.batch_images, (rows, backbone.output_shape[-1])
    features = store.open_column(context.out / f"{name}.npy", shape, np.float16)
    units = context.units(name, inference.count_units(rows, batch), features)
    inference.extract_features(backbone, images, np.arange(rows), features, units, batch_size=batch, **view)
    return features


def estimate(config: Config, plan: PlanContext) -> Estimate:
    """Heads on features take seconds; networks two passes over the training images."""
    rows = plan.train_images
    if rows is None:
        return Estimate()
    disk = rows * (16 * config.extract.top_k + 8)
    if judges_features(config):
        return Estimate(rows, 1.0 + rows / 20_000, disk, 95 * 10**7)
    folds = config.baseline.folds
    again = folds if has_second_round(config) else 0
    passes = (2 if folds > 1 else 1) + again
    seconds = 30.0 + forward_seconds(config, passes * rows, plan)
    disk += rows * count_backbone(config).feature_dim * 2 * (1 + again)
    # Networks are read one after the other, and what the last one held may not have been freed.
    memory = inference_bytes(config, plan, 2, config.extract.batch_images)
    return Estimate(rows, seconds, disk, memory, f"{passes} pass(es) of the network")


def _extra_columns(config: Config) -> dict:
    """What is written for the second round and without it is not."""
    wanted = not judges_features(config) and has_second_round(config)
    return {"features of the folds' networks": "wanted"} if wanted else {}


STAGE = Stage(
    name="extract",
    needs=("pack", "features", "baseline"),
    depends_on=(
        "extract", "model.mode", "baseline.networks", "model.image_size_px", "model.crop_fraction",
        "baseline.folds",
    ),
    run=run,
    estimate=estimate,
    version=3,
    inputs=_extra_columns,
)  # fmt: skip
