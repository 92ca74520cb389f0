"""What the sections of the configuration mean to the core: keywords, networks, costs."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from absl import logging

from urnet_tf import store
from urnet_tf.backbone_names import ALL, KERAS_APPLICATIONS, application_of, is_own
from urnet_tf.checkpoints.own_networks import files_of
from urnet_tf.config import Config, FitConfig, ModelConfig, RuntimeConfig, judges_features, select
from urnet_tf.costs import step as step_cost
from urnet_tf.costs.network import HeadCost, NetworkCost, count_classifier, count_network
from urnet_tf.costs.step import TrainingCost, fewest_parts, training_cost
from urnet_tf.errors import settings_named
from urnet_tf.images.known_records import decoders
from urnet_tf.images.packing import Packer
from urnet_tf.models.variants import Variant
from urnet_tf.stages.own_features import open_own_features
from urnet_tf.stages.stage import Estimate, PlanContext

if TYPE_CHECKING:
    import keras
    import numpy as np


# What decides the network that `open_backbone` gives, for `Stage.depends_on`.
BACKBONE_SETTINGS = (
    "model.backbone", "model.weights", "model.image_size_px", "model.resnext_depth",
    "model.resnext_cardinality", "model.resnext_width_per_group", "model.resnext_squeeze_excitation",
    "model.resnext_deep_stem", "model.resnext_small_stem", "model.preprocessing", "model.feature_layer",
)  # fmt: skip


def keys_of(config: Config, section: str) -> dict[str, str]:
    """For `errors.settings_named`: the settings of a section, such as "train.fit", → their keys.

    They are called alike in the core.
    """
    fields = dataclasses.fields(select(config, section))
    return {field.name: f"{section}.{field.name}" for field in fields}


def open_backbone(config: Config, **changes: Any) -> "keras.Model":
    """The backbone that `model` describes; `changes` are other keywords of `build_backbone`."""
    from urnet_tf.models.backbone import build_backbone

    model = config.model
    settings = {
        "name": model.backbone,
        "image_size_px": model.image_size_px,
        "weights": model.weights,
        "seed": config.seed if model.weights is None else 0,
        "preprocessing": model.preprocessing,
        "feature_layer": model.feature_layer,
        **_resnext_settings(model),
    }
    with settings_named(_backbone_keys(config)):
        network = build_backbone(**(settings | changes))
        if is_own(model.backbone) and model.mode == "finetune":
            from urnet_tf.models.own_backbone import check_rereadable

            check_rereadable(network, model.backbone)  # before hours of training
    return network


def open_augmenter(config: Config, **changes: Any) -> Callable:
    """The augmentation that `augment` describes; `changes` are other keywords of `build_augmenter`."""
    from urnet_tf.images.augment import build_augmenter

    settings = {
        **dataclasses.asdict(config.augment),
        "image_size_px": config.model.image_size_px,
        "crop_fraction": config.model.crop_fraction,
    }
    return build_augmenter(**(settings | changes))


def packed_with(config: Config) -> dict[str, Any]:
    """What decides which record is packed of a file; those that were made otherwise are not reused."""
    pack = config.pack
    return {
        "version": 1,  # raise it when the same settings give other records
        "short_side_px": pack.short_side_px,
        "jpeg_quality": pack.jpeg_quality,
        "max_pixels": config.ingest.max_pixels,
        "decoders": decoders(),
    }


def packed_bytes(config: Config, plan: PlanContext) -> float:
    """About how many bytes the packed record of a file has: as some did, or as photographs have."""
    if plan.record_bytes is not None:
        return plan.record_bytes
    # A photograph at quality 95 without chroma subsampling takes about 0.7 bytes a pixel.
    return min(plan.bytes_per_image, 0.7 * config.pack.short_side_px**2 * 4 / 3)


def decoding_seconds(file_bytes: float) -> float:
    """Seconds of one core to read, decode, reduce and encode a file.

    Measured: 0.4 ms for a JPEG file of 15 kB and 240 px, 1.6 ms for one of 60 kB and 500 x 375 px, 7 ms for
    one of 600 kB and 1600 x 1200 px; 5 ms for a PNG file of 350 kB and 500 x 375 px.
    """
    return 3e-4 + min(file_bytes, 60_000) * 2.2e-8 + max(0.0, file_bytes - 60_000) * 1e-8


def open_packer(config: Config, printed: Callable[[], int]) -> Packer:
    """What packs files; `printed` tells how much libraries have printed."""
    return Packer(
        short_side_px=config.pack.short_side_px, jpeg_quality=config.pack.jpeg_quality,
        max_pixels=config.ingest.max_pixels, printed=printed,
    )  # fmt: skip


def fingerprint_weights(config: Config) -> dict[str, str]:
    """`Stage.inputs` of a stage that opens the backbone: the checkpoint file that `model.weights` names.

    Of a network of one's own, its files. Empty for ImageNet and random weights.

    Raises:
      UsageError: the weights cannot be had.
    """
    from urnet_tf.checkpoints.pretrained import IMAGENET, find_weights

    if is_own(config.model.backbone):
        with settings_named(_backbone_keys(config)):
            found = [os.stat(path) for path in files_of(config.model.backbone, config.model.weights)]
        sizes = [(status.st_size, status.st_mtime_ns) for status in found]
        return {"the file of model.backbone": store.fingerprint(*sizes)} if sizes else {}
    with settings_named(_backbone_keys(config)):
        path = find_weights(config.model.backbone, config.model.weights)
    if path is None or config.model.weights == IMAGENET:
        return {}
    status = os.stat(path)
    return {"the file of model.weights": store.fingerprint(status.st_size, status.st_mtime_ns)}


def fit_settings(
    fit: FitConfig,
    runtime: RuntimeConfig,
    rows: int,
    class_counts: "np.ndarray | None" = None,
    num_instances: int | None = None,
) -> dict:
    """A section `fit` as `options` and `loss` of `training.fit_model`, for steps of `rows` images or bags.

    Like the devices, XLA changes no more than the rounding, so that no stage depends on `jit_compile`.

    Args:
      class_counts, num_instances: of the training images; what some losses need, see `build_loss`.
    """
    from urnet_tf.training.fit import FitOptions
    from urnet_tf.training.robust_losses import build_loss

    own = {field.name for field in dataclasses.fields(FitOptions)}
    options = {field.name: getattr(fit, field.name) for field in dataclasses.fields(fit) if field.name in own}
    options["jit_compile"] = runtime.jit_compile
    options["accumulate_steps"] = math.gcd(fit.accumulate_steps or 1, rows)  # rows are fewer on small crawls
    loss = build_loss(
        **dataclasses.asdict(fit.loss), label_smoothing=fit.label_smoothing, class_counts=class_counts,
        num_instances=num_instances,
    )  # fmt: skip
    return {"options": FitOptions(**options), "loss": loss}


def images_per_step(fit: FitConfig, images: int) -> int:
    """`batch_images`, halved until a pass over `images` has four steps: small crawls need steps, too."""
    size = fit.batch_images
    while size > 1 and _STEPS_PER_PASS * size > images:
        size //= 2
    return size


_STEPS_PER_PASS = 4
# A step of a trained head on 255 images, measured with 1,280 features and 100 to 5,000 classes on two cores.
_HEAD_STEP_SECONDS = 9e-3
_HEAD_PRODUCT_SECONDS = 3.8e-8  # more for each class and feature: 0.049 ms a class
_GUESSED_WIDTH = 1280  # features of a network of one's own, which is not opened for a plan


def count_backbone(config: Config) -> NetworkCost:
    """What the backbone that `model` describes costs; features of one's own cost nothing."""
    if config.model.features is not None:
        name, width = os.path.basename(config.model.features), open_own_features(config).values.shape[1]
        return NetworkCost(name, width, 0, 0, 0, 0, 0, 0, 0)
    model = config.model
    if is_own(model.backbone):
        files = tuple(fingerprint_weights(config).items())
        if not (files or application_of(model.backbone)):  # a preset that is downloaded when it is used
            return NetworkCost(os.path.basename(model.backbone), _GUESSED_WIDTH, 0, 0, 0, 0, 0, 0, 0)
        return count_by_keras(model.backbone, model.image_size_px, model.feature_layer, files)
    return count_network(model.backbone, model.image_size_px, Variant(**_resnext_settings(model)))


@functools.lru_cache(maxsize=4)
def count_by_keras(name: str, image_size_px: int, feature_layer: str | None, files: tuple) -> NetworkCost:
    """Counts a network that Keras opens, once for each state of its `files`."""
    from urnet_tf.models.own_backbone import build_own_backbone
    from urnet_tf.stages.network_size import count_keras_network

    network = build_own_backbone(name, image_size_px, None, feature_layer=feature_layer)
    return count_keras_network(network, os.path.basename(name.removeprefix(KERAS_APPLICATIONS)))


def _backbone_keys(config: Config) -> dict[str, str]:
    flags = {name: f"--set model.resnext_{name}" for name in _resnext_settings(config.model)}
    names = keys_of(config, "model") | {"name": "model.backbone"}
    return names | flags  # these stand in advice that can be copied


def _resnext_settings(model: ModelConfig) -> dict[str, Any]:
    """The settings of one ResNeXt, which building and counting it share."""
    return {
        "depth": model.resnext_depth,
        "cardinality": model.resnext_cardinality,
        "width_per_group": model.resnext_width_per_group,
        "squeeze_excitation": model.resnext_squeeze_excitation,
        "deep_stem": model.resnext_deep_stem,
        "small_stem": model.resnext_small_stem,
    }


def say_unknown(config: Config, stage_name: str, estimate: Estimate) -> Estimate:
    """An estimate without the seconds and the memory of a network that is not there to be counted."""
    if config.model.features is not None or count_backbone(config).parameters:
        return estimate
    frozen = config.model.mode == "frozen"
    plain = config.evaluate.crops == "1" and tuple(config.evaluate.scales) == (1.0,)
    running = ["features", "export"] if frozen else ["baseline", "extract", "train", "export"]
    if judges_features(config) and not frozen:
        running = ["features", "train", "export"]
    if stage_name not in (running if frozen and plain else [*running, "evaluate"]):
        return estimate
    note = f"time and memory of {os.path.basename(config.model.backbone)} are not known"
    return dataclasses.replace(estimate, seconds=None, memory_bytes=None, training=None, note=note)


def count_training(
    config: Config, fit: FitConfig, heads: HeadCost, plan: PlanContext, *, whole: bool, part: str = ALL,
    bag_size: int = 1,
) -> TrainingCost:  # fmt: skip
    """What one fit of a `part` of the `whole` network, or of heads on its features, holds in memory.

    Args:
      bag_size: images of a bag, which is never divided.

    Returns:
      of one machine; its `parts` are those of `accumulate_steps`, or as few as memory holds.
    """
    network = count_backbone(config)
    machines = plan.machines if config.runtime.strategy == "multi_worker" else 1
    images = images_per_step(fit, plan.train_images or fit.batch_images * _STEPS_PER_PASS)
    own_images = -(-images // machines)

    def cost_of(parts: int) -> TrainingCost:
        return training_cost(
            network if whole else None,
            heads,
            plan.classes,
            own_images,
            feature_dim=network.feature_dim,
            image_size_px=config.model.image_size_px,
            optimizer=fit.optimizer,
            ema=fit.ema is not None,
            parts=parts,
            precision=config.runtime.precision,
            part=part,
        )

    rows = max(1, images // bag_size)
    if fit.accumulate_steps is not None:
        return cost_of(math.gcd(fit.accumulate_steps, rows))  # rows are fewer on small crawls
    gpus = min(1, plan.gpus) if config.runtime.strategy == "none" else plan.gpus
    devices = machines * max(1, gpus)
    if not whole or rows % devices:  # heads are small; other batches are refused
        return cost_of(1)
    return cost_of(
        fewest_parts(
            cost_of, rows // devices, gpus=gpus, memory_bytes=plan.memory_bytes, gpu_bytes=plan.gpu_bytes
        )
    )


def settle_parts(
    config: Config, fit: FitConfig, heads: HeadCost, images: int, classes: int, *, whole: bool,
    part: str = ALL, bag_size: int = 1,
) -> FitConfig:  # fmt: skip
    """A section `fit` with a number of `accumulate_steps`: what memory asks for, where it is None.

    Args:
      heads, whole, part, bag_size: as for `count_training`.
      images: that are trained on.
      classes: C.
    """
    if fit.accumulate_steps is not None:
        return fit
    machine = PlanContext(train_images=images, num_classes=classes)
    cost = count_training(config, fit, heads, machine, whole=whole, part=part, bag_size=bag_size)
    if cost.parts > 1:
        logging.info(
            "Steps of %d images go through the network in %d parts, as that is what memory holds.",
            cost.batch_images, cost.parts,
        )  # fmt: skip
    return dataclasses.replace(fit, accumulate_steps=cost.parts)


def training_seconds(
    config: Config, fit: FitConfig, images: float, plan: PlanContext, *, whole: bool, part: str = ALL
) -> float:
    """Estimated seconds of one fit of a `part` of the `whole` network, or of heads, over `images` images."""
    if not whole:
        steps, size = fit.epochs * images / fit.batch_images, fit.batch_images / 255
        work = _HEAD_PRODUCT_SECONDS * plan.classes * count_backbone(config).feature_dim
        return 4.0 + steps * (_HEAD_STEP_SECONDS + work) * max(1.0, size)
    machines = plan.machines if config.runtime.strategy == "multi_worker" else 1
    gpus = machines * (min(1, plan.gpus) if config.runtime.strategy == "none" else plan.gpus)
    images, cores = images * fit.epochs, machines * plan.cores
    return 30.0 + step_cost.training_seconds(count_backbone(config), images, cores, gpus, part)


def forward_seconds(config: Config, images: float, plan: PlanContext) -> float:
    """Estimated seconds to run the configured backbone once over `images`."""
    return step_cost.forward_seconds(count_backbone(config), images, plan.cores, min(1, plan.gpus))


def inference_bytes(config: Config, plan: PlanContext, models: int, batch_images: int) -> int:
    """Estimated memory of running `models` networks with their heads on batches of images."""
    network = count_backbone(config)
    heads = count_classifier(network.feature_dim, plan.classes)
    return step_cost.inference_bytes(
        network, heads, models, batch_images, config.model.image_size_px, plan.gpus
    )
