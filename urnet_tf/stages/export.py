"""Stage export: the URNet's instance branch for servers and phones, each file checked against Keras.

In: pack/, train/instance.keras, train/weights.parquet, baseline/ (frozen: the backbone stands before
the head). Out: <name>/<version>/ and models.config; see `urnet_tf.export.classifier`. `export.model` says
whether that is the first URNet, all members of the ensemble in one model, or what was distilled from them.

An export directory is replaced as a whole; its version is one above that of the export before it,
so a server that watches a copy of it sees a newer model.
"""

import hashlib
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from urnet_tf import config as config_lib
from urnet_tf.config import Config, count_members
from urnet_tf.costs.network import count_classifier
from urnet_tf.errors import RunError
from urnet_tf.export import classifier as export
from urnet_tf.export.formats import PRECISIONS
from urnet_tf.export.none_of_these import NoneOfThese, fit_none_of_these
from urnet_tf.export.parity import Tolerance
from urnet_tf.export.preparation import Preparation
from urnet_tf.export.promotion import next_version
from urnet_tf.export.rewriting import LOGITS
from urnet_tf.images.image_store import ImageStore
from urnet_tf.schema import JUDGED, TEST, TRAIN, UNLABELED, VAL
from urnet_tf.stages.members import DISTILLED, member_directory
from urnet_tf.stages.settings import (
    BACKBONE_SETTINGS,
    count_backbone,
    forward_seconds,
    inference_bytes,
    open_backbone,
)
from urnet_tf.stages.stage import Estimate, PlanContext, Stage, StageContext
from urnet_tf.store import column, read_array, read_json, read_table

if TYPE_CHECKING:
    import keras

ONLY_A_HEAD = (
    "No model of images is exported, since the features are your own (model.features): train/instance.keras "
    "is the head, from such features to logits in the order of pack/classes.json."
)
_HELD_IMAGES = 1000  # that the score for none of the classes rests on, at most
_CHECK_BATCH = 64  # images that the export is compared on at once, at most
# Of the graphs that are written, and of the converter's own for each layer. Measured with EfficientNet-Lite0
# and V2, MobileNetV3 and a ViT.
_GRAPHS_BYTES, _CONVERTED_LAYER_BYTES = 55 * 10**7, 5 * 10**6


def run(context: StageContext) -> dict:
    """Builds the model image → logits, exports it, checks it on images of the store."""
    if context.config.model.features is not None:
        logging.warning("%s", ONLY_A_HEAD)
        return {"skipped": ONLY_A_HEAD, "path": None, "formats": {}}
    model, none = _image_model(context), None
    refused = context.config.export.none_of_these
    if refused is not None and context.config.export.model != "ensemble":  # whose logits have one energy
        none = _fit_none_of_these(context, model, refused)
    context.workdir.bring("export/*/export.json")  # the new version comes behind those before
    return write_export(context, model, context.workdir.path("export"), none)


def write_export(
    context: StageContext, model: "keras.Model", earlier: pathlib.Path, none: NoneOfThese | None = None
) -> dict:
    """Writes and checks the files of a model; what the marker of stage export says of it.

    Args:
      context: of the run whose images it is checked on; `context.out` is filled.
      model: images → logits, and features.
      earlier: an export directory, whose versions come before.
      none: the score for pictures of none of the classes.
    """
    config, settings = context.config, context.config.export
    if (context.out / settings.name).is_dir():
        context.remove(settings.name)  # of a killed run: the version must not grow with it
    classes = read_json(context.path("pack", "classes.json"))
    table = read_table(context.path("pack", "instances.parquet"), ["split", "label", "content_hash"])
    splits, labels = column(table, "split"), column(table, "label")
    ids = choose_check_ids(splits, labels, settings.check_images)
    store = ImageStore(context.path("pack"))
    trusted = _choose_calibration(context) if "tflite_int8" in settings.formats else ()
    metadata = export.export_classifier(
        model,
        [c["name"] for c in classes],
        context.out,
        settings.name,
        store.read(ids),
        preparation=preparation_of(config),
        class_ids=[c.get("id") or c["name"] for c in classes],
        check_labels=labels[ids],
        check_split=str(splits[ids[0]]),
        calibration_images=store.read(trusted),
        formats=settings.formats,
        top_k=settings.top_k,
        tolerance=Tolerance(
            settings.tolerance_float32, settings.tolerance_float16, settings.tolerance_int8_points,
            settings.tolerance_library_points,
        ),
        allow_drift=settings.allow_drift,
        none_of_these=none,
        first_version=next_version(earlier / settings.name),
        data=_describe_data(context, column(table, "content_hash")),
        settings=config_lib.to_dict(config),
    )  # fmt: skip
    place = f"{settings.name}/{metadata['version']}"
    formats = {
        kind: entry | {"path": entry["file"] and f"{place}/{entry['file']}"}
        for kind, entry in metadata["formats"].items()
    }
    return {key: metadata[key] for key in ("name", "version", "machine", "check", "reference")} | {
        "path": place, "formats": formats
    }  # fmt: skip


def preparation_of(config: Config) -> Preparation:
    """How an exported model prepares images: as the run did, in the views of `export`."""
    return Preparation(
        config.model.image_size_px, config.model.crop_fraction, config.pack.short_side_px,
        config.export.max_pixels, config.export.crops, config.export.scales,
    )  # fmt: skip


def choose_check_ids(splits: np.ndarray, labels: np.ndarray, count: int | None) -> np.ndarray:
    """At most `count` held images, evenly over the test images if they have labels.

    Without labeled test images those of validation are taken, then unlabeled ones, and training
    images where there is nothing else.
    """
    known = labels != UNLABELED
    choices = [splits == TEST, splits == VAL, (splits == JUDGED) & known]
    choices = [where & known for where in choices] + choices + [splits == TRAIN]
    ids = next(found for found in map(np.flatnonzero, choices) if found.size)
    count = len(ids) if count is None else min(count, len(ids))
    return ids[np.linspace(0, len(ids) - 1, count).round().astype(np.int64)]


def choose_trusted_ids(ids: np.ndarray, weights: np.ndarray, count: int, seed: int) -> np.ndarray:
    """At most `count` different training images, drawn by weight, ascending; none of weight 0 or less.

    Args:
      ids: int [N].
      weights: float [N]; a negative weight counts against the label, so it is no trust.

    Raises:
      RunError: no weight is above 0.
    """
    share = np.maximum(np.asarray(weights, np.float64), 0.0)
    if not share.sum() > 0:
        raise RunError(
            f"Expected training images with a weight above 0, to set the ranges of tflite_int8; all "
            f"{len(share):,} weigh 0 or less. Leave tflite_int8 out of export.formats, or weigh with "
            "reweight.formulas=repaired."
        )
    share = share / share.sum()
    count = min(count, int((share > 0).sum()))
    return np.sort(np.random.default_rng(seed).choice(ids, count, replace=False, p=share))


def _choose_calibration(context: StageContext) -> np.ndarray:
    weights = read_table(context.path("train", "weights.parquet"), ["instance_id", "sample_weight"])
    return choose_trusted_ids(
        column(weights, "instance_id"), column(weights, "sample_weight"),
        context.config.export.calibration_images, context.config.seed,
    )  # fmt: skip


def estimate(config: Config, plan: PlanContext) -> Estimate:
    """Tracing, converting and two passes over the check images for every file."""
    if config.model.features is not None:
        return Estimate(0, 0.0, 0, 0, "features of your own: only the head, which train/ has")
    network = count_backbone(config)
    heads = count_classifier(network.feature_dim, plan.classes)
    settings = config.export
    networks = count_members(config) if settings.model == "ensemble" else 1
    backbones = networks if config.model.mode == "finetune" else 1
    held = None if plan.images is None else plan.images - (plan.train_images or 0)
    rows = settings.check_images if held is None else min(settings.check_images or held, held)
    weights = 4 * (backbones * network.parameters + networks * heads.parameters)
    shares = {"float32": 1.0, "float16": 0.5, "int8": 0.3}
    disk = sum(shares[PRECISIONS[kind]] * weights for kind in settings.formats)
    views = Preparation(config.model.image_size_px, crops=settings.crops, scales=settings.scales).views
    seconds = 20.0 + 0.3 * backbones * network.layers * len(settings.formats)
    passes = backbones * (2 * len(settings.formats) + 2 * views)
    if config.model.mode != "frozen":
        seconds += forward_seconds(config, min(held or 0, _HELD_IMAGES), plan)
    seconds += forward_seconds(config, (rows or 0) * passes, plan)
    converts = any(kind.startswith("tflite_") for kind in settings.formats)
    memory = inference_bytes(config, plan, backbones, _CHECK_BATCH) + _GRAPHS_BYTES + 4 * weights
    memory += backbones * network.layers * _CONVERTED_LAYER_BYTES * converts
    return Estimate(rows, seconds, int(disk), memory, f"{networks} members" if networks > 1 else "")


def _fit_none_of_these(context: StageContext, model: "keras.Model", refused: float) -> NoneOfThese | None:
    """From held images, with or without labels, and those that people judged to show none of the classes."""
    table = read_table(context.path("pack", "instances.parquet"), ["split", "label"])
    splits, labels = column(table, "split"), column(table, "label")
    outside = (splits == JUDGED) & (labels == UNLABELED)
    held, strange = (_at_most(np.flatnonzero(chosen)) for chosen in ((splits != TRAIN) & ~outside, outside))
    found = fit_none_of_these(
        _stream_logits(context, model, held), refused, _stream_logits(context, model, strange)
    )
    if found is None:
        logging.warning(
            "There is no score for pictures of none of the classes: it takes 20 held images that the model "
            "tells apart."
        )
    elif found.outside is not None:
        logging.info("%s", found.outside.sentence())
    return found


def _at_most(ids: np.ndarray) -> np.ndarray:
    """_HELD_IMAGES of them, evenly chosen."""
    return ids[np.linspace(0, len(ids) - 1, min(len(ids), _HELD_IMAGES)).round().astype(np.int64)]


def _stream_logits(context: StageContext, model: "keras.Model", ids: np.ndarray) -> Iterator[np.ndarray]:
    """Logits float32 [b, C] of the plain view of images."""
    if not ids.size:
        return
    if context.config.model.mode == "frozen":
        head = load_instance(context, DISTILLED if context.config.export.model == "distilled" else "")
        features = read_array(context.path("features", "features.npy"))
        yield np.asarray(head(np.asarray(features[ids], np.float32), training=False))
        return
    store, preparation = ImageStore(context.path("pack")), preparation_of(context.config)
    for start in range(0, len(ids), _CHECK_BATCH):
        encoded = np.array(store.read(ids[start : start + _CHECK_BATCH]), dtype=object)
        images, valid = (tensor.numpy() for tensor in preparation.decode(encoded))
        yield np.asarray(model(images[valid], training=False)[LOGITS])


def _image_model(context: StageContext) -> "keras.Model":
    """Images → logits, and features where the network has one set of them."""
    from urnet_tf.models.classifier import backbone_of, compose, head_of
    from urnet_tf.models.ensemble import build_ensemble

    frozen = context.config.model.mode == "frozen"
    backbone = open_backbone(context.config) if frozen else None
    if context.config.export.model == "ensemble":
        places = map(member_directory, range(count_members(context.config)))
        return build_ensemble([(backbone, load_instance(context, place)) for place in places])
    head = load_instance(context, DISTILLED if context.config.export.model == "distilled" else "")
    if backbone is None:
        return compose(backbone_of(head), head_of(head), with_features=True)
    return compose(backbone, head, with_features=True)


def load_instance(context: StageContext, directory: str) -> "keras.Model":
    """The instance branch of a member."""
    from urnet_tf.training.saving import load_model

    return load_model(context.path("train", *([directory] if directory else []), "instance.keras"))


def _describe_data(context: StageContext, hashes: np.ndarray) -> dict[str, Any]:
    """What the model was trained on, for the model card."""
    markers = {name: context.marker(name)["metadata"] for name in ("ingest", "pack", "reweight")}
    digest = hashlib.blake2b(digest_size=16)
    for content_hash in sorted(hashes):
        digest.update(content_hash.encode())
    counts = ("images", "train_images", "val_images", "test_images")
    noise = (
        "clean_rate_estimate",
        "clean_rate_interval",
        "labels_seen",
        "effective_sample_size",
        "disagreement",
        "negative_weight_share",
    )
    return {
        **{name: markers["pack"].get(name) for name in counts},
        "content_hash": digest.hexdigest(),
        "quarantined": markers["ingest"].get("quarantined"),
        "duplicates": markers["ingest"].get("duplicates"),
        "noise": {name: markers["reweight"].get(name) for name in noise},
    }


STAGE = Stage(
    name="export",
    needs=("ingest", "pack", "features", "reweight", "train"),
    depends_on=(
        "seed", "export", "model.mode", "model.crop_fraction", "pack.short_side_px",
        "train.members", "train.head",
        *BACKBONE_SETTINGS,
    ),
    run=run,
    estimate=estimate,
    version=5,
)  # fmt: skip
