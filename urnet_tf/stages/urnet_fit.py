"""How one URNet is trained on weighted bags and soft targets, and asked for its attention: for `train`.

In: the image store (pack), features (frozen) or a network (baseline), weights and targets (reweight). The
fit and the pass for the saliency resume.
"""

import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from urnet_tf import schema, store
from urnet_tf.config import Config, starts_from
from urnet_tf.costs.network import count_urnet
from urnet_tf.errors import RunError, settings_named
from urnet_tf.stages.fitted_heads import fit_weighted_heads
from urnet_tf.stages.settings import (
    count_backbone,
    fit_settings,
    images_per_step,
    keys_of,
    open_augmenter,
    open_backbone,
    settle_parts,
)
from urnet_tf.stages.stage import StageContext

if TYPE_CHECKING:
    import keras

    from urnet_tf.feed.batches import FeatureBatches, ImageBatches

_FEWEST_HELD = 20  # validation images by which a pass is chosen


def fit_urnet(
    context: StageContext,
    labels: np.ndarray,
    sample_weight: np.ndarray,
    log_dir: pathlib.Path,
    description: str = "urnet",
    targets: tuple[np.ndarray, np.ndarray] | None = None,
) -> pathlib.Path:
    """Sees to it that the URNet of the configuration is trained; goes on with what a killed fit left.

    Writes urnet.keras, which it returns the path of, and history.json into `context.out`. Whether they are
    there already, the first of several machines decides for all.

    Args:
      labels: int [N], given ones.
      sample_weight: float [N].
      log_dir: of TensorBoard's scalars.
      description: names the fit in logs.
      targets: class ids int [N, K] and probabilities float [N, K]; None = the soft labels of `reweight`.
    """
    from urnet_tf.models import urnet
    from urnet_tf.training import fit as training
    from urnet_tf.training.machines import Machines
    from urnet_tf.training.saving import save_together

    config, settings = context.config, context.config.train
    strategy, path = training.build_strategy(config.runtime.strategy), context.out / "urnet.keras"
    machines = Machines(strategy)
    if machines.tell(description, path.exists()):
        return path
    num_classes = len(store.read_json(context.path("pack", "classes.json")))
    bag_size, width = settings.bag.size, count_backbone(config).feature_dim
    fit = settle_parts(
        config, settings.fit, count_urnet(width, num_classes, bag_size, config.model.attention_dim),
        len(labels), num_classes, whole=config.model.mode == "finetune", part=settings.unfreeze,
        bag_size=bag_size,
    )  # fmt: skip
    with training.precision_policy(config.runtime.precision), strategy.scope():
        model = build_model(context, num_classes, synchronized=strategy.num_replicas_in_sync > 1)
    data = bag_batches(context, labels, sample_weight, augmented=True, targets=targets)
    # What the loss takes for the size of a class is what its images count.
    class_mass = compute_class_mass(labels, sample_weight, num_classes)
    with settings_named(keys_of(config, "train.fit")):
        history = training.fit_model(
            model,
            data,
            **fit_settings(fit, config.runtime, data.sampler.shape[0], class_mass, len(labels)),
            total_steps=training.count_steps(fit.epochs, len(labels), images_per_step(fit, len(labels))),
            loss_weights={urnet.INSTANCE: 1.0, urnet.BAG: settings.bag.loss_weight},
            checkpoint_dir=context.out / "checkpoint",
            log_dir=log_dir,
            description=description,
            rates=_rates_of(config, model),
            **_keep_best(context),
        )
    if machines.is_chief:
        store.write_json(context.out / "history.json", history)
    save_together(model, path, machines)
    return path


def _rates_of(config: Config, model: "keras.Model") -> dict[str, float] | None:
    """Learning rates of the network's variables where they differ from those of the heads."""
    from urnet_tf.models.classifier import backbone_of
    from urnet_tf.models.unfreezing import rates_by_variable

    rate, block_rate = config.train.backbone_rate, config.train.block_rate
    if config.model.mode == "frozen" or rate == block_rate == 1.0:
        return None
    return rates_by_variable(backbone_of(model), rate, block_rate)


def compute_class_mass(labels: np.ndarray, weights: np.ndarray, num_classes: int) -> np.ndarray:
    """What the images of each class count, in average images: float64 [C], the sum is N.

    Weights are divided by their mean, so that a class does not seem smaller for the scale of all weights;
    an image that counts against its class adds nothing to it.

    Args:
      labels: int [N].
      weights: float [N].

    Raises:
      RunError: no weight is above 0.
    """
    mass = np.bincount(labels, np.maximum(weights, 0.0), minlength=num_classes)
    if not mass.sum() > 0:
        raise RunError(
            f"Expected training images with a weight above 0; all {len(labels):,} weigh 0 or less, so "
            "there is nothing to learn. Weigh with reweight.formulas=repaired, or switch factors off."
        )
    return mass * (len(labels) / mass.sum())


def build_model(context: StageContext, num_classes: int, synchronized: bool) -> "keras.Model":
    """The URNet on features, or on the network that training starts from."""
    from urnet_tf.models import urnet

    config = context.config
    bag_size = config.train.bag.size
    settings: dict[str, Any] = {
        "attention_dim": config.model.attention_dim,
        "dropout": config.model.dropout,
        "seed": config.seed,
    }
    if config.model.mode == "frozen":
        feature_dim = store.read_array(context.path("features", "features.npy")).shape[1]
        return urnet.build_urnet(feature_dim, num_classes, bag_size, **settings)
    return _image_urnet(context, num_classes, synchronized, settings)


def _image_urnet(
    context: StageContext, num_classes: int, synchronized: bool, settings: dict[str, Any]
) -> "keras.Model":
    """The URNet with the network, and perhaps the classifier, that training starts from."""
    from urnet_tf.models import urnet
    from urnet_tf.models.classifier import LOGITS, backbone_of
    from urnet_tf.models.unfreezing import unfreeze
    from urnet_tf.training.saving import load_model

    config, init = context.config, starts_from(context.config)
    weights = None if init.startswith("baseline") else config.model.weights
    backbone = open_backbone(config, weights=weights, synchronized=synchronized)
    model = urnet.build_image_urnet(backbone, num_classes, config.train.bag.size, **settings)
    unfreeze(backbone, config.train.unfreeze, freeze_batch_norm=config.train.freeze_batch_norm)
    if init == "fitted":
        start = _fit_start(context, num_classes)
        for name in (LOGITS, "bag_logits"):
            model.get_layer(name).set_weights(start)
    elif init != "pretrained":
        full = load_model(context.path("baseline", "model_full.keras"))
        backbone.set_weights(backbone_of(full).get_weights())
        if init == "baseline_with_classifier":
            model.get_layer(LOGITS).set_weights(full.get_layer(LOGITS).get_weights())
    return model


def _fit_start(context: StageContext, num_classes: int) -> list[np.ndarray]:
    """Kernel [D, C] and bias [C] of a head fitted to the weighted features of the network as it starts."""
    weights = store.read_table(context.path("reweight", "weights.parquet"), ["label", "sample_weight"])
    labels, sample_weight = store.column(weights, "label"), store.column(weights, "sample_weight")
    head = fit_weighted_heads(context, labels, sample_weight, num_classes, "the head to start from").head
    return [head.kernel, head.bias]


def _keep_best(context: StageContext) -> dict[str, Any]:
    """The validation images as keywords of `fit_model`, where `train.keep` asks for them."""
    if context.config.train.keep != "best":
        return {}
    table = store.read_table(context.path("pack", "instances.parquet"), ["split", "label"])
    every = store.column(table, "label")
    held = np.flatnonzero(store.is_equal(table, "split", schema.VAL) & (every >= 0))
    if len(held) < _FEWEST_HELD:
        logging.info(
            "train.keep=best: there are %d validation images with a label, too few to choose by.", len(held)
        )
        return {}
    targets = every[:, None].astype(np.int32), np.ones((len(every), 1), np.float32)
    counts = np.zeros(len(every), np.float32)
    counts[held] = 1.0
    data = bag_batches(context, every, counts, augmented=False, targets=targets)
    return {"validation_data": data.one_pass(), "keep_best_of": len(held)}


def bag_batches(
    context: StageContext,
    labels: np.ndarray,
    sample_weight: np.ndarray,
    augmented: bool,
    targets: tuple[np.ndarray, np.ndarray] | None = None,
) -> "FeatureBatches | ImageBatches":
    """Bags of images that weigh anything: of features, or of images, augmented where that is wanted."""
    from urnet_tf.feed import batches
    from urnet_tf.feed.sampling import BagSampler
    from urnet_tf.images.image_store import ImageStore

    config, bag_size = context.config, context.config.train.bag.size
    ids = np.flatnonzero(sample_weight)  # images of weight 0 take no place in a step
    batch_bags = max(1, images_per_step(config.train.fit, len(labels)) // bag_size)
    sampler = BagSampler(ids, labels[ids], bag_size, batch_bags, config.seed)
    files = (context.path("reweight", f"target_{name}.npy") for name in ("ids", "probs"))
    target_ids, target_probs = targets or (np.asarray(store.read_array(file)) for file in files)
    bag = config.train.bag
    of_bags: dict[str, Any] = {
        "bag_labels": labels if bag.target == "label" else None,
        "weigh_bags": bag.weighted,
    }
    if config.model.mode == "frozen":
        features = store.read_array(context.path("features", "features.npy"))
        return batches.FeatureBatches(
            features, sampler, target_ids, target_probs, sample_weight, bag=True, **of_bags
        )
    augmenter = open_augmenter(config) if augmented else open_augmenter(config, policy="none")
    return batches.ImageBatches(
        ImageStore(context.path("pack")), sampler, target_ids, target_probs, sample_weight,
        image_size_px=config.model.image_size_px, augment=augmenter, bag=True,
        crop_fraction=config.model.crop_fraction, **of_bags,
    )  # fmt: skip


def measure_saliency(context: StageContext, model: "keras.Model", labels: np.ndarray) -> np.ndarray:
    """Mean attention times bag size over one pass of bags: float32 [N], 1 = neutral."""
    from urnet_tf.evaluation import inference
    from urnet_tf.models.urnet import saliency_model
    from urnet_tf.reweighting.bag_saliency import compute_saliency

    data = bag_batches(context, labels, np.ones(len(labels), np.float32), augmented=False)
    bags, bag_size = data.sampler.shape
    rows = data.steps_per_epoch * bags
    attention = store.open_column(context.out / "attention.npy", (rows, bag_size), np.float32)

    def stream(wanted: np.ndarray) -> Iterator[Any]:
        # Units complete in order, so what is wanted reaches to the end.
        for x, _, _ in data.dataset(int(wanted[0]) // bags, data.steps_per_epoch):
            yield x

    def write(part: slice, values: np.ndarray) -> None:
        attention[part] = values

    inference.run_units(
        inference.build_function(saliency_model(model), bags),
        stream,
        rows,
        context.units("saliency", inference.count_units(rows, bags), attention),
        write,
        batch_size=bags,
        description="saliency",
    )
    ids = np.concatenate([data.sampler.batch(step)[0] for step in range(data.steps_per_epoch)])
    return compute_saliency(attention, ids, num_instances=len(labels))
