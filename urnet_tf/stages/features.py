"""Stage `features`: the frozen backbone's features of all images, computed once for all fits on them.

Reads the image store (pack), or features of one's own (`model.features`). Writes features.npy, float16
[images, D], by id; float32 where one's own are no float16. With `baseline.networks: full`
there is nothing to do: the features of whole networks belong to stage `extract`. The loop resumes.

Features of a packed image that this stage has seen before are taken over from its last complete run, if the
network, its view of the images, the libraries and the engine are the same: what comes out is bitwise what
computing all of them would give, as that of an image does not depend on those beside it.
"""

import functools
import hashlib
import importlib.metadata
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from urnet_tf import store
from urnet_tf.backbone_names import brings_weights
from urnet_tf.config import Config, judges_features
from urnet_tf.errors import settings_named
from urnet_tf.evaluation import engines
from urnet_tf.executors import Executor, Job
from urnet_tf.images.known_records import RECORD_KEYS_FILE
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
    keys_of,
    open_backbone,
)
from urnet_tf.stages.stage import Estimate, PlanContext, Stage, StageContext
from urnet_tf.store import machine
from urnet_tf.store.lookup import RowsByKey
from urnet_tf.store.progress import progress

_BATCH = 64
_COPIED_AT_ONCE = 1 << 16  # rows


def run(context: StageContext) -> dict:
    """Fills features.npy; see the module."""
    config = context.config
    if not judges_features(config):
        return {"images": 0, "feature_dim": None}
    if config.model.features is not None:
        return _take_over(context)
    return _compute(context)


def _compute(context: StageContext) -> dict:
    """Fills features.npy by the backbone."""
    out = context.out
    keys = np.asarray(store.read_array(context.path("pack", RECORD_KEYS_FILE)))
    made_with = _made_with(context.open_executor())
    left, before = _take_known(context, keys, made_with)
    logging.info("features: %d images are known from before, %d are new.", len(keys) - len(left), len(left))
    if before is None or len(left):
        dim, engine = _extract(context, left, len(keys))
    else:
        dim, engine = before["feature_dim"], before["engine"]
    store.write_array(out / RECORD_KEYS_FILE, keys)
    return {"images": len(keys), "feature_dim": dim, "engine": engine, "made_with": made_with}


def _take_known(
    context: StageContext, keys: np.ndarray, made_with: dict[str, str]
) -> tuple[np.ndarray, dict | None]:
    """Copies the features of known images into features.npy.

    Returns:
      int64 [n], the images that are left to compute; and the metadata of the run that the others are from,
      None where there are no others.
    """
    marker = context.earlier_marker()
    before = marker["metadata"] if marker is not None and not context.named else {}
    rows = np.full(len(keys), -1)
    is_alike = context.was_alike() and before.get("made_with") == made_with
    if is_alike and _takes_same_engine(before, len(keys)):
        try:
            known = np.asarray(store.read_array(context.earlier(RECORD_KEYS_FILE)))
            source = store.read_array(context.earlier("features.npy"))
            rows = RowsByKey(known).find(keys)
        except store.DamagedResult as damage:
            logging.info("features: those from before are not used, since %s.", damage.problem)
    elif before.get("images"):
        logging.info("features: those from before are not used, since they were computed otherwise.")
    found = np.flatnonzero(rows >= 0)
    if not len(found):
        return np.arange(len(keys)), None
    features = store.open_column(context.out / "features.npy", (len(keys), source.shape[1]), source.dtype)
    for start in range(0, len(found), _COPIED_AT_ONCE):
        some = found[start : start + _COPIED_AT_ONCE]
        features[some] = source[rows[some]]
    features.flush()
    return np.flatnonzero(rows < 0), before


def _takes_same_engine(before: dict, images: int) -> bool:
    """Whether the engine that computes so many images is the one of before; TFLite rounds otherwise."""
    if engines.are_many(images):
        return engines.are_many(before["images"])
    return bool(before["engine"] == "keras")


def _extract(context: StageContext, ids: np.ndarray, images: int) -> tuple[int, str]:
    """Computes the features of some images; the size of a feature, and which engine did it."""
    from urnet_tf.evaluation import inference
    from urnet_tf.images.image_store import ImageStore
    from urnet_tf.training import fit as training

    config = context.config
    with training.precision_policy(config.runtime.precision):
        backbone = open_backbone(config)
    executor, dim = context.open_executor(), backbone.output_shape[-1]
    engine = "keras" if executor.gpus else inference.choose_engine(backbone, images)
    features = store.open_column(context.out / "features.npy", (images, dim), np.float16)
    # Named after the images, since a run that is taken up may have others to compute.
    name = f"features_{hashlib.blake2b(ids.tobytes(), digest_size=8).hexdigest()}"
    units = context.units(name, inference.count_units(len(ids), _BATCH), features)
    if _runs_elsewhere(executor):
        _extract_elsewhere(context, executor, ids, features, units, engine)
        return dim, engine
    inference.extract_features(
        backbone, ImageStore(context.path("pack")), ids, features, units,
        image_size_px=config.model.image_size_px, crop_fraction=config.model.crop_fraction,
        batch_size=_BATCH, engine=engine, rows=ids,
    )  # fmt: skip
    return dim, engine


def _runs_elsewhere(executor: Executor) -> bool:
    """Whether other processes run the network; they would only be in each other's way on one GPU."""
    return executor.elsewhere and (executor.gpus is not None or not machine.count_gpus())


def _extract_elsewhere(
    context: StageContext, executor: Executor, ids: np.ndarray, features: np.ndarray, units: store.UnitLog,
    engine: str,
) -> None:  # fmt: skip
    """Has other processes compute features, unit by unit, and merges their parts.

    Args:
      ids: int64 [n], the images, of which units have as many as those of `inference.extract_features`.
      features: float16 [images, D], written in place.
    """
    from urnet_tf.evaluation.inference import unit_rows

    size, images = unit_rows(_BATCH), context.path("pack")
    pending = units.pending()
    some = ((unit, ids[unit * size : (unit + 1) * size]) for unit in pending)
    open_work = functools.partial(
        _open_extraction, context, images, engine, features.dtype, bool(executor.gpus)
    )
    gpus = 1 if executor.gpus else 0
    job = Job(open_work, "computes features", gpus=gpus, shared=(context.out, images))
    with (
        settings_named(keys_of(context.config, "runtime")),
        progress(None, "features", total=min(len(pending) * size, len(ids)), unit="rows") as bar,
    ):
        for (unit, rows), facts in executor.run(job, some):
            part = context.part(f"features-{unit:06d}.npy")
            store.check_part(part, facts)
            features[rows] = np.load(part)
            units.complete(unit)
            store.remove(part, context.out)
            bar.update(len(rows))


def _open_extraction(
    context: StageContext, images: pathlib.Path, engine: str, dtype: np.dtype, on_gpus: bool, cores: int
) -> Callable[[tuple[int, np.ndarray]], dict[str, Any]]:
    """The work in a process of its own: (unit, ids) → a part, float16 [n, D], and what it is like."""
    from urnet_tf.evaluation import inference
    from urnet_tf.feed.batches import stream_images
    from urnet_tf.images.image_store import ImageStore
    from urnet_tf.training import fit as training

    config = context.config
    size, crop = config.model.image_size_px, config.model.crop_fraction
    if not on_gpus:  # whose images are decoded meanwhile, by all cores
        inference.limit_threads(cores)
    with training.precision_policy(config.runtime.precision):
        function = inference.build_feature_function(open_backbone(config), _BATCH, engine, cores)
    stored = ImageStore(images)

    def work(numbered: tuple[int, np.ndarray]) -> dict[str, Any]:
        unit, ids = numbered
        part = context.part(f"features-{unit:06d}.npy")
        with store.unit_lock(part.with_suffix(".lock")):
            batches = stream_images(stored, ids, size, crop, _BATCH)
            store.write_array(part, np.concatenate([function(np.asarray(b)) for b in batches]).astype(dtype))
        return store.describe_part(part)

    return work


def _made_with(executor: Executor) -> dict[str, str]:
    """What decides the features of a packed image besides settings, inputs and the engine."""
    packages = "tensorflow", "keras", "ai-edge-litert"
    gpus = machine.count_gpus() if executor.gpus is None else executor.gpus
    device = "GPU" if gpus else "CPU"
    return {"device": device} | {name: importlib.metadata.version(name) for name in packages}


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
    if not judges_features(config):
        return Estimate(0, 0.0, 0, 0, "whole networks judge the labels: nothing to do")
    if plan.images is None:
        return Estimate()
    if config.model.features is not None:
        own = open_own_features(config)
        size = plan.images * own.values.shape[1] * own.dtype.itemsize
        return Estimate(plan.images, 5.0 + size / 10**8, size, 10**9, "read from model.features")
    new = plan.new if plan.reuses else plan.images
    seconds = (5.0 if new else 1.0) + forward_seconds(config, new, plan)
    disk = plan.images * count_backbone(config).feature_dim * 2  # mapped: takes only memory that is free
    note = f"{new:,} new" if new < plan.images else ""
    return Estimate(plan.images, seconds, disk, inference_bytes(config, plan, 1, _BATCH), note)


def inputs(config: Config) -> dict:
    """The files of one's own features, or the checkpoint of a backbone; the seed where that is random."""
    if not judges_features(config):
        return {}
    if config.model.features is not None:
        return fingerprint_own_features(config)
    random = config.model.weights is None and not brings_weights(config.model.backbone)
    return {"the seed of the random weights": str(config.seed)} if random else fingerprint_weights(config)


STAGE = Stage(
    name="features",
    needs=("pack",),
    depends_on=(
        "model.features",
        "model.crop_fraction",
        "runtime.precision",
        *BACKBONE_SETTINGS,
    ),
    run=run,
    estimate=estimate,
    applies=judges_features,
    inputs=inputs,
)
