"""Stage `train`: the URNet on bags, with sample weights and soft targets of `reweight`.

Reads the image store (pack), features (frozen) or a network (baseline), the weights and targets
(reweight). Writes urnet.keras, its instance branch instance.keras, saliency.npy and
weights.parquet with the saliency filled in. A strategy is off when its weights are ones: there
are no other branches in the code. The fit and the pass for the saliency resume.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from urnet_tf import schema, store
from urnet_tf.config import Config
from urnet_tf.costs.network import count_urnet
from urnet_tf.errors import RunError, settings_named
from urnet_tf.stages.effects import trains
from urnet_tf.stages.fitted_heads import estimate_fitting, fit_heads, save_head
from urnet_tf.stages.settings import (
    count_backbone,
    count_training,
    fit_settings,
    forward_seconds,
    images_per_step,
    inference_bytes,
    keys_of,
    open_augmenter,
    open_backbone,
    training_seconds,
)
from urnet_tf.stages.stage import Estimate, PlanContext, Stage, StageContext

if TYPE_CHECKING:
    import keras
    import pyarrow as pa

    from urnet_tf.feed.batches import FeatureBatches, ImageBatches


def run(context: StageContext) -> dict:
    """Fits the two branches, then measures the attention each instance gets."""
    from urnet_tf.models import urnet
    from urnet_tf.training.saving import load_model, save_model

    weights = store.read_table(context.path("reweight", "weights.parquet"))
    labels = store.column(weights, "label")
    if not trains(context.config, "train"):
        return _fit_head(context, weights)
    path = context.out / "urnet.keras"
    if not path.exists():
        _fit(context, labels, store.column(weights, "sample_weight"))
    context.remove("checkpoint")
    model = load_model(path)
    save_model(urnet.instance_branch(model), context.out / "instance.keras")
    saliency = _measure_saliency(context, model, labels)
    _write_weights(context, weights, saliency)
    history = store.read_json(context.out / "history.json")
    return {
        "steps": history[-1]["step"],
        "loss": history[-1]["loss"],
        "instance_accuracy": history[-1]["instance_accuracy"],
        "bag_accuracy": history[-1]["bag_accuracy"],
        "saliency": {"min": float(saliency.min()), "max": float(saliency.max())},
    }


def _fit_head(context: StageContext, weights: "pa.Table") -> dict[str, float]:
    """A linear head fitted to the weighted images: the instance branch, without bags."""
    labels, sample_weight = store.column(weights, "label"), store.column(weights, "sample_weight")
    num_classes = len(store.read_json(context.path("pack", "classes.json")))
    compute_class_mass(labels, sample_weight, num_classes)  # refuses weights that leave nothing to learn
    folds = np.asarray(store.read_array(context.path("baseline", "fold.npy")))
    trust = np.maximum(sample_weight, 0.0)
    judgement = fit_heads(
        context, labels, folds, num_classes, kind=context.config.train.head, description="urnet",
        sample_weight=trust, trust=trust,
    )  # fmt: skip
    save_head(context, judgement.head, "instance.keras")
    _write_weights(context, weights, np.ones(len(labels), np.float32))
    return {
        "loss": -judgement.likelihood,
        "instance_accuracy": judgement.agreement,  # with the given labels, out of fold, by class
    }


def _write_weights(context: StageContext, weights: "pa.Table", saliency: np.ndarray) -> None:
    store.write_array(context.out / "saliency.npy", saliency)
    columns = {name: weights.column(name).combine_chunks() for name in schema.WEIGHT_COLUMNS}
    store.write_table(
        context.out / "weights.parquet", columns | {"saliency": saliency}, schema.WEIGHT_COLUMNS
    )


def estimate(config: Config, plan: PlanContext) -> Estimate:
    """One fit over the training images, and one pass for the saliency."""
    rows = plan.train_images
    if rows is None:
        return Estimate()
    model, bag_size = config.model, config.train.bag.size
    network = count_backbone(config)
    if not trains(config, "train"):
        return estimate_fitting(config, plan, heads=1)
    heads = count_urnet(network.feature_dim, plan.classes, bag_size, model.attention_dim)
    training = count_training(config, config.train.fit, heads, plan)
    memory = training.host_bytes(plan.gpus)
    seconds = training_seconds(config, config.train.fit, rows, plan)
    disk = 80 * rows + 8 * heads.parameters  # the URNet and its instance branch
    if model.mode == "frozen":
        seconds *= 1.5
        memory = max(memory, inference_bytes(config, plan, 1, 64))  # the process keeps what features took
    else:
        seconds += forward_seconds(config, rows, plan)
        disk += 8 * network.parameters
        if config.train.init == "baseline":
            memory += training.weights  # the baseline is read beside the new network
    note = f"bags of {bag_size}{plan.guess}"
    return Estimate(rows, 20.0 + seconds, disk, memory, note, training)


def _fit(context: StageContext, labels: np.ndarray, sample_weight: np.ndarray) -> None:
    from urnet_tf.models import urnet
    from urnet_tf.training import fit as training
    from urnet_tf.training.saving import save_model

    config, settings = context.config, context.config.train
    fit = settings.fit
    num_classes = len(store.read_json(context.path("pack", "classes.json")))
    strategy = training.build_strategy(config.runtime.strategy)
    with training.precision_policy(config.runtime.precision), strategy.scope():
        model = _build_model(context, num_classes, synchronized=strategy.num_replicas_in_sync > 1)
    data = _bag_batches(context, labels, sample_weight, augmented=True)
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
            log_dir=context.out / "tensorboard",
            description="urnet",
        )
    store.write_json(context.out / "history.json", history)
    save_model(model, context.out / "urnet.keras")


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


def _build_model(context: StageContext, num_classes: int, synchronized: bool) -> "keras.Model":
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
    backbone = _first_backbone(context, synchronized)
    return urnet.build_image_urnet(backbone, num_classes, bag_size, **settings)


def _first_backbone(context: StageContext, synchronized: bool) -> "keras.Model":
    """The network that training starts from."""
    from urnet_tf.models.classifier import backbone_of
    from urnet_tf.training.saving import load_model

    config = context.config
    start_over = config.train.init == "pretrained"
    weights = config.model.weights if start_over else None
    backbone = open_backbone(config, weights=weights, synchronized=synchronized)
    if not start_over:
        full = load_model(context.path("baseline", "model_full.keras"))
        backbone.set_weights(backbone_of(full).get_weights())
    return backbone


def _bag_batches(
    context: StageContext, labels: np.ndarray, sample_weight: np.ndarray, augmented: bool
) -> "FeatureBatches | ImageBatches":
    from urnet_tf.feed import batches
    from urnet_tf.feed.sampling import BagSampler
    from urnet_tf.images.image_store import ImageStore

    config, bag_size = context.config, context.config.train.bag.size
    batch_bags = max(1, images_per_step(config.train.fit, len(labels)) // bag_size)
    ids = np.flatnonzero(sample_weight)  # images of weight 0 take no place in a step
    sampler = BagSampler(ids, labels[ids], bag_size, batch_bags, config.seed)
    targets = (
        np.asarray(store.read_array(context.path("reweight", "target_ids.npy"))),
        np.asarray(store.read_array(context.path("reweight", "target_probs.npy"))),
        sample_weight,
    )
    if config.model.mode == "frozen":
        features = store.read_array(context.path("features", "features.npy"))
        return batches.FeatureBatches(features, sampler, *targets, bag=True)
    augmenter = open_augmenter(config) if augmented else open_augmenter(config, policy="none")
    return batches.ImageBatches(
        ImageStore(context.path("pack")), sampler, *targets, image_size_px=config.model.image_size_px,
        augment=augmenter, bag=True, crop_fraction=config.model.crop_fraction,
    )  # fmt: skip


def _measure_saliency(context: StageContext, model: "keras.Model", labels: np.ndarray) -> np.ndarray:
    """Mean attention times bag size over one pass of bags: float32 [N], 1 = neutral."""
    from urnet_tf.evaluation import inference
    from urnet_tf.models.urnet import saliency_model
    from urnet_tf.reweighting.bag_saliency import compute_saliency

    data = _bag_batches(context, labels, np.ones(len(labels), np.float32), augmented=False)
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


STAGE = Stage(
    name="train",
    needs=("pack", "features", "baseline", "reweight"),
    depends_on=("seed", "model", "augment", "train", "runtime.precision", "baseline.folds"),
    run=run,
    estimate=estimate,
    version=3,
)
