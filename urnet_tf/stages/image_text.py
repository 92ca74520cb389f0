"""Images beside the words of classes and the texts of pages, by a network that reads both.

A part of the stage reweight. The network is the preset of CLIP or SigLIP that the run's features are from, or
another that `reweight.zero_shot.checkpoint` names; then its image tower runs over the training images here,
once. The loops over images and pages resume.
"""

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from urnet_tf import store
from urnet_tf.backbone_names import preset_of
from urnet_tf.checkpoints.own_networks import files_of
from urnet_tf.checkpoints.text_towers import (
    check_text_tower,
    has_text_tower,
    image_size_of,
    measure_text_tower,
)
from urnet_tf.config import Config, judges_features
from urnet_tf.costs import step as step_cost
from urnet_tf.costs.network import NetworkCost
from urnet_tf.errors import settings_named
from urnet_tf.reweighting.page_fit import beyond_class
from urnet_tf.reweighting.zero_shot import ImageText
from urnet_tf.stages.effects import resolve, text_tower_of
from urnet_tf.stages.image_evidence import features_path, keeping, score_page_texts
from urnet_tf.stages.settings import count_by_keras
from urnet_tf.stages.stage import Estimate, PlanContext, StageContext
from urnet_tf.store.progress import progress
from urnet_tf.store.table_rows import TableRows
from urnet_tf.text.prompts import TEMPLATES, class_prompt_vectors

if TYPE_CHECKING:
    from urnet_tf.models.text_tower import TextTower
    from urnet_tf.reweighting.recipe import Weighed

_BATCH = 64  # images
_SETTING = "reweight.zero_shot.checkpoint"
_WORDS_A_CLASS, _TEXTS_A_PAGE = 2, 2  # a guess
_COMPARE_SECONDS = 2e-11  # a multiply-add of an image and a class, of which there are three passes
_PASSES = 3


def read_texts(context: StageContext, labels: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    """What pages and words say of the labels, as `Instances` knows it, and metadata."""
    config = context.config.reweight
    known: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    if config.page_text.enabled:
        known["page_score"], metadata["pages"] = score_page_texts(context, labels)
    if config.zero_shot.enabled:
        found, told = compare_with_texts(context, labels)
        known, metadata = known | found, metadata | told
    return known, metadata


def compare_with_texts(context: StageContext, labels: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `Instances` knows of images and texts, and metadata; both empty where nothing reads both.

    Args:
      labels: int [N], of the training images, which come first.

    Raises:
      UsageError: the network cannot be had, or a class has no words.
    """
    config, name = context.config, text_tower_of(context.config)
    if not name:
        if has_text_tower(config.model.backbone):
            logging.info(
                "The words of the classes and the texts of pages are not compared with the images, as %s has "
                "no tokenizer; tokenizer.save_to_preset puts one there.",
                os.path.basename(config.model.backbone),
            )  # fmt: skip
        return {}, {}
    from urnet_tf.models.text_tower import open_text_tower

    classes = store.read_json(context.path("pack", "classes.json"))
    with settings_named(_keys(config)):
        tower = open_text_tower(name)
        class_vectors = class_prompt_vectors(
            classes, tower.encode, report=lambda parts: progress(parts, "words of classes", unit="parts")
        )
    image_vectors = _image_vectors(context, name, tower, len(labels))
    found = ImageText(image_vectors, class_vectors, tower.logit_scale)
    compared = found.compare(
        labels, labels[:, None], report=lambda chunks: progress(chunks, "zero-shot", unit="chunks")
    )
    store.write_array(context.out / "zero_shot.npy", compared.given_prob)
    told: dict[str, Any] = {
        "network": os.path.basename(preset_of(name)), "logit_scale": tower.logit_scale,
        "agreement": _agreement(compared.best == labels, labels, len(classes)),
    }  # fmt: skip
    logging.info(
        "The words of the classes alone agree with %.1f %% of the labels as given, classes counted alike.",
        100 * told["agreement"],
    )  # fmt: skip
    known: dict[str, Any] = {"image_text": found}
    if resolve(config, "reweight.page_fit.enabled"):
        fit = _compare_pages(context, tower, image_vectors, len(labels))
        told["pages_with_text"] = float(np.isfinite(fit).mean())
        if np.isfinite(fit).any():
            known["page_fit"] = beyond_class(fit, compared.cosine)
    return known, {"zero_shot": told}


def describe_texts(weighed: "Weighed") -> dict[str, float]:
    """The share of images whose P(right) the texts of classes and of pages moved; told in the log."""
    moved = {
        f"moved_by_{name}": float(np.mean(weighed.factors[name] != 1.0)) for name in ("zero_shot", "page_fit")
    }
    logging.info(
        "Texts of the classes moved P(right) of %.0f %% of the images, those of their pages of %.0f %%.",
        *(100 * share for share in moved.values()),
    )  # fmt: skip
    return moved


def fingerprint_texts(config: Config) -> dict[str, str]:
    """`Stage.inputs`: the files of the preset; {} where nothing reads images and texts.

    Raises:
      UsageError: keras-hub is not installed, or the preset is another network or has no tokenizer.
    """
    name = text_tower_of(config)
    if not name or not config.reweight.zero_shot.enabled:
        return {}
    with settings_named(_keys(config)):
        files = files_of(name)
        check_text_tower(name)
    sizes = [(status.st_size, status.st_mtime_ns) for status in map(os.stat, files)]
    return {"the files of the text tower": store.fingerprint(*sizes)} if sizes else {}


def add_texts(estimate: Estimate, config: Config, plan: PlanContext) -> Estimate:
    """The estimate of the stage with what images and texts take in it."""
    name, rows = text_tower_of(config), estimate.rows or 0
    if not name or not config.reweight.zero_shot.enabled:
        return estimate
    sizes = measure_text_tower(name)
    texts = plan.classes * _WORDS_A_CLASS * len(TEMPLATES)
    if resolve(config, "reweight.page_fit.enabled"):
        texts += rows * _TEXTS_A_PAGE
    tower = NetworkCost(name, sizes.width, 0, sizes.parameters, 0, sizes.multiply_adds, 0, 0, 0)
    gpus = min(1, plan.gpus)
    seconds = step_cost.forward_seconds(tower, texts, plan.cores, gpus)
    seconds += _PASSES * _COMPARE_SECONDS * rows * plan.classes * sizes.width / max(plan.cores, 1)
    disk, memory, note = 4 * rows, 4 * sizes.parameters, estimate.note
    if not shares_features(config):
        images = _count_images(config, name)
        if not images.parameters:
            tower_name = os.path.basename(preset_of(name))
            note = f"without the time of the image tower of {tower_name}, which is not known"
        seconds += step_cost.forward_seconds(images, rows, plan.cores, gpus)
        disk, memory = disk + 2 * rows * (images.feature_dim or sizes.width), memory + 4 * images.parameters
    return dataclasses.replace(
        estimate, seconds=(estimate.seconds or 0.0) + seconds, disk_bytes=(estimate.disk_bytes or 0) + disk,
        memory_bytes=(estimate.memory_bytes or 0) + memory, note=note,
    )  # fmt: skip


def shares_features(config: Config) -> bool:
    """Whether the features that judge the labels are in the space of the text tower."""
    checkpoint, model = config.reweight.zero_shot.checkpoint, config.model
    same = checkpoint is None or checkpoint == model.backbone
    return same and judges_features(config) and model.features is None and model.feature_layer is None


def _count_images(config: Config, name: str) -> NetworkCost:
    """What the image tower costs; nothing where the preset is not at hand to be counted."""
    size = image_size_of(name)
    if size is None:
        return NetworkCost(name, 0, 0, 0, 0, 0, 0, 0, 0)
    return count_by_keras(name, size, None, tuple(fingerprint_texts(config).items()))


def _image_vectors(context: StageContext, name: str, tower: "TextTower", rows: int) -> np.ndarray:
    """float16 [N or more, E]: the features that are there, or those of the image tower beside the texts'."""
    config = context.config
    if shares_features(config):
        return store.read_array(features_path(context))
    from urnet_tf.evaluation import inference
    from urnet_tf.images.image_store import ImageStore
    from urnet_tf.models.own_backbone import build_own_backbone

    with settings_named(_keys(config)):
        network = build_own_backbone(name, tower.image_size_px)
    vectors = store.open_column(
        context.out / "zero_shot_images.npy", (rows, network.output_shape[-1]), np.float16
    )
    units = context.units("zero_shot_images", inference.count_units(rows, _BATCH), vectors)
    inference.extract_features(
        network, ImageStore(context.path("pack")), np.arange(rows), vectors, units,
        image_size_px=tower.image_size_px, crop_fraction=config.model.crop_fraction, batch_size=_BATCH,
        engine="keras",
    )  # fmt: skip
    return vectors


def _compare_pages(
    context: StageContext, tower: "TextTower", image_vectors: np.ndarray, rows: int
) -> np.ndarray:
    """float32 [N], see `text.pages.compare_pages`."""
    from urnet_tf.text.pages import compare_pages

    texts = TableRows(context.path("pack", "instances.parquet"), ("title", "description", "tags"))
    return compare_pages(
        lambda start, stop: [column.to_pylist() for column in texts.read(start, stop).columns],
        image_vectors, rows, tower.encode, open_units=keeping(context),
        report=lambda parts: progress(parts, "pages and pictures", unit="parts"),
    )  # fmt: skip


def _agreement(agrees: np.ndarray, labels: np.ndarray, num_classes: int) -> float:
    """The share of labels that the texts alone agree with, classes counted alike."""
    counts = np.bincount(labels, minlength=num_classes)
    there = counts > 0
    return float(np.mean(np.bincount(labels, weights=agrees, minlength=num_classes)[there] / counts[there]))


def _keys(config: Config) -> dict[str, str]:
    """For `errors.settings_named`."""
    own = config.reweight.zero_shot.checkpoint is None
    return {"name": "model.backbone" if own else _SETTING, "enabled": "reweight.zero_shot.enabled"}
