"""Stage `features`: the frozen backbone's features of all images, computed once for all fits on them.

Reads the image store (pack), or features of one's own (`model.features`). Writes features.npy, float16
[images, D], by id; float32 where one's own are no float16. With `model.mode: finetune`
there is nothing to do: the features of whole networks belong to stage `extract`. The loop resumes.
"""

import numpy as np
from absl import logging

from urnet_tf import store
from urnet_tf.backbone_names import is_own
from urnet_tf.config import Config
from urnet_tf.stages.own_features import (
    copy_features,
    fingerprint_own_features,
    folders_of,
    match_rows,
    open_own_features,
)
from urnet_tf.stages.settings import (
    BACKBONE_SETTINGS,
    count_backbone,
    fingerprint_weights,
    forward_seconds,
    inference_bytes,
    open_backbone,
)
from urnet_tf.stages.stage import Estimate, PlanContext, Stage, StageContext

_BATCH = 64


def run(context: StageContext) -> dict:
    """Fills features.npy; see the module."""
    config = context.config
    if config.model.mode != "frozen":
        return {"images": 0, "feature_dim": None}
    if config.model.features is not None:
        return _take_over(context)
    from urnet_tf.evaluation import inference
    from urnet_tf.images.image_store import ImageStore
    from urnet_tf.training import fit as training

    images = ImageStore(context.path("pack"))
    with training.precision_policy(config.runtime.precision):
        backbone = open_backbone(config)
    dim = backbone.output_shape[-1]
    features = store.open_column(context.out / "features.npy", (len(images), dim), np.float16)
    units = context.units("features", inference.count_units(len(images), _BATCH), features)
    inference.extract_features(
        backbone,
        images,
        np.arange(len(images)),
        features,
        units,
        image_size_px=config.model.image_size_px,
        crop_fraction=config.model.crop_fraction,
        batch_size=_BATCH,
    )
    return {"images": len(images), "feature_dim": dim}


def _take_over(context: StageContext) -> dict:
    """Fills features.npy from a file of one's own."""
    table = store.read_table(context.path("pack", "instances.parquet"), ["path", "split"])
    paths, splits = table.column("path").to_pylist(), table.column("split").to_pylist()
    own = open_own_features(context.config)
    rows = match_rows(own, paths, splits, folders_of(context.config))
    dim = own.values.shape[1]
    features = store.open_column(context.out / "features.npy", (len(paths), dim), own.dtype)
    copy_features(own, rows, paths, features)
    features.flush()
    logging.info("features: %d numbers an image, from %s", dim, own.path)
    return {"images": len(paths), "feature_dim": dim, "given_rows": len(own.values)}


def estimate(config: Config, plan: PlanContext) -> Estimate:
    """One pass of the backbone over all images."""
    if config.model.mode != "frozen":
        return Estimate(0, 0.0, 0, 0, "whole networks are trained: nothing to do")
    if plan.images is None:
        return Estimate()
    if config.model.features is not None:
        own = open_own_features(config)
        size = plan.images * own.values.shape[1] * own.dtype.itemsize
        return Estimate(plan.images, 5.0 + size / 10**8, size, 10**9, "read from model.features")
    seconds = 15.0 + forward_seconds(config, plan.images, plan)
    disk = plan.images * count_backbone(config).feature_dim * 2  # mapped: takes only memory that is free
    return Estimate(plan.images, seconds, disk, inference_bytes(config, plan, 1, _BATCH))


def inputs(config: Config) -> dict:
    """The files of one's own features, or the checkpoint of a backbone; the seed where that is random."""
    if config.model.mode != "frozen":
        return {}
    if config.model.features is not None:
        return fingerprint_own_features(config)
    random = config.model.weights is None and not is_own(config.model.backbone)
    return {"the seed of the random weights": str(config.seed)} if random else fingerprint_weights(config)


STAGE = Stage(
    name="features",
    needs=("pack",),
    depends_on=(
        "model.mode",
        "model.features",
        "model.crop_fraction",
        "runtime.precision",
        *BACKBONE_SETTINGS,
    ),
    run=run,
    estimate=estimate,
    applies=lambda config: config.model.mode == "frozen",
    inputs=inputs,
)
