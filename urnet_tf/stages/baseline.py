"""Stage `baseline`: plain classifiers on the labels as given, one for all images and one a fold.

Reads the instance table and the image store (pack). Writes fold.npy, model_full.keras,
model_fold<i>.keras and their histories. The models are heads on the features of stage `features`, or whole
networks with `model.mode: finetune` and `baseline.networks: full`. The model of fold f does not see the
instances of fold f, so that what it says about them is out of fold. Each fit resumes.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from urnet_tf import schema, store
from urnet_tf.config import Config, judges_features
from urnet_tf.costs.network import count_classifier
from urnet_tf.errors import UsageError, settings_named
from urnet_tf.images.augment import require_packages
from urnet_tf.reweighting.class_weight import count_labels
from urnet_tf.stages.effects import trains
from urnet_tf.stages.fitted_heads import estimate_fitting, fit_heads, save_head
from urnet_tf.stages.settings import (
    BACKBONE_SETTINGS,
    count_backbone,
    count_training,
    fingerprint_weights,
    fit_settings,
    images_per_step,
    keys_of,
    open_augmenter,
    open_backbone,
    settle_parts,
    training_seconds,
)
from urnet_tf.stages.stage import Estimate, PlanContext, Stage, StageContext

if TYPE_CHECKING:
    import tensorflow as tf


def run(context: StageContext) -> dict:
    """Assigns folds, fits all models."""
    config = context.config
    labels, folds, num_classes = _read_labels(context)
    store.write_array(context.out / "fold.npy", folds)
    if trains(config, "baseline"):
        _fit_networks(context, labels, folds, num_classes)
    else:
        _fit_heads(context, labels, folds, num_classes)
    history = store.read_json(context.out / "history_full.json")
    return {
        "folds": config.baseline.folds,
        "loss": history[-1]["loss"],
        "accuracy": history[-1]["accuracy"],
    }


def follow(context: StageContext) -> None:
    """Trains what the first machine trains with it, or its share of the networks."""
    if trains(context.config, "baseline"):
        _fit_networks(context, *_read_labels(context))


def _read_labels(context: StageContext) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels int [N] and folds int8 [N] of the training images, and the number of classes."""
    table = store.read_table(context.path("pack", "instances.parquet"), ["split", "label", "picture"])
    train = store.is_equal(table, "split", schema.TRAIN)
    labels = store.column(table, "label")[train]
    pictures = store.number_groups(table.column("picture"))[train]
    folds = assign_folds(labels, pictures, context.config.baseline.folds, context.config.seed)
    return labels, folds, len(store.read_json(context.path("pack", "classes.json")))


def assign_folds(labels: np.ndarray, pictures: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Deals the instances of each class evenly to folds; copies of one picture stay together.

    Args:
      labels: int [N].
      pictures: int [N]; equal for equal files and near copies, -1 where unknown.
      folds: 1 gives zeros.
      seed: of the shuffle inside each class.

    Returns:
      int8 [N], the fold whose model does not see the instance. A picture that occurs in several
      classes takes the fold of its first instance.

    Raises:
      UsageError: all instances fall into one fold, so that nothing is left to train its model on.
    """
    rng = np.random.default_rng([seed, folds])
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    starts = np.searchsorted(labels[order], labels[order])
    result = np.empty(len(labels), np.int8)
    # The offset by class keeps small classes from all beginning with fold 0.
    result[order] = (np.arange(len(labels)) - starts + labels[order]) % folds
    pictures = np.asarray(pictures)
    _, first, group = np.unique(pictures, return_index=True, return_inverse=True)
    result = np.where(pictures < 0, result, result[first][group]).astype(np.int8)
    if folds > 1 and np.ptp(result) == 0:
        raise UsageError(
            f"Expected images that differ; the {len(result)} training images are copies of too few files to "
            "be divided into folds."
        )
    return result


def estimate(config: Config, plan: PlanContext) -> Estimate:
    """One fit of all images, and one a fold."""
    if plan.images is None or plan.train_images is None:
        return Estimate()
    folds, frozen = config.baseline.folds, judges_features(config)
    if not trains(config, "baseline"):
        return estimate_fitting(config, plan, heads=folds + 1 if folds > 1 else 1, kind=config.baseline.head)
    seen = plan.train_images * (folds if folds > 1 else 1)  # the full set, and all but one fold each
    seconds = 5.0 + training_seconds(config, config.baseline.fit, seen, plan, whole=not frozen)
    network = count_backbone(config)
    heads = count_classifier(network.feature_dim, plan.classes)
    training = count_training(config, config.baseline.fit, heads, plan, whole=not frozen)
    memory = training.host_bytes(plan.gpus)
    fits = folds + 1 if folds > 1 else 1
    disk = fits * 4 * (heads.parameters + (0 if frozen else network.parameters))
    note = f"{fits} {'head' if frozen else 'network'}{'s' if fits > 1 else ''}"
    note += plan.guess + training.tell_parts()
    return Estimate(plan.images, seconds, disk, memory, note, training)


def _fit_heads(context: StageContext, labels: np.ndarray, folds: np.ndarray, num_classes: int) -> None:
    """Writes linear heads on the features: one a fold and one of all images."""
    kind = context.config.baseline.head
    judgement = fit_heads(context, labels, folds, num_classes, kind=kind, description="baseline")
    names = [f"fold{fold}" for fold in range(context.config.baseline.folds)]
    # The judge counts classes as equally frequent; a plain classifier also knows how frequent they are.
    prior = np.log(np.maximum(count_labels(labels, num_classes), 1) / len(labels))
    save_head(context, judgement.head, "model_full.keras", prior)
    for name, head in zip(names if len(names) > 1 else (), judgement.heads, strict=False):
        save_head(context, head, f"model_{name}.keras", prior)
    history = [{"loss": -judgement.likelihood, "accuracy": judgement.agreement}]  # out of fold, by class
    store.write_json(context.out / "history_full.json", history)


def _fit_networks(context: StageContext, labels: np.ndarray, folds: np.ndarray, num_classes: int) -> None:
    """Sees to it that the model of all images and that of each fold are there.

    Several machines with a device each take a model each in turn, which needs no talk between them; machines
    with more devices, or of a single model, train each together.
    """
    from urnet_tf.training.fit import build_strategy
    from urnet_tf.training.machines import Machines

    count = context.config.baseline.folds
    jobs = [("full", np.arange(len(labels)))]
    jobs += [(f"fold{fold}", np.flatnonzero(folds != fold)) for fold in range(count if count > 1 else 0)]
    strategy = build_strategy(context.config.runtime.strategy)
    machines = Machines(strategy)
    apart = machines.count > 1 and len(jobs) > 1 and strategy.num_replicas_in_sync == machines.count
    for name, ids in jobs[machines.rank :: machines.count] if apart else jobs:
        is_there = (context.out / f"model_{name}.keras").exists()
        if not (is_there if apart else machines.tell(name, is_there)):
            fit = build_strategy() if apart else strategy
            _fit(context, name, ids, labels, num_classes, fit, writes=apart or machines.is_chief)
        if apart or machines.is_chief:
            context.remove(f"checkpoint_{name}")
    machines.tell("fits", None)  # waits until all are done


def _fit(
    context: StageContext, name: str, ids: np.ndarray, labels: np.ndarray, num_classes: int,
    strategy: "tf.distribute.Strategy", writes: bool,
) -> None:  # fmt: skip
    from urnet_tf.feed import batches
    from urnet_tf.feed.sampling import InstanceSampler
    from urnet_tf.images.image_store import ImageStore
    from urnet_tf.models.classifier import build_classifier, build_image_classifier
    from urnet_tf.models.seeding import layer_seed
    from urnet_tf.training import fit as training
    from urnet_tf.training.machines import Machines
    from urnet_tf.training.saving import save_together

    config = context.config
    frozen = judges_features(config)
    heads = count_classifier(count_backbone(config).feature_dim, num_classes)
    fit = settle_parts(config, config.baseline.fit, heads, len(ids), num_classes, whole=not frozen)
    seed = layer_seed(config.seed, name)
    ones = np.ones(len(labels), np.float32)
    targets = labels[:, None].astype(np.int32), ones[:, None], ones
    batch_images = images_per_step(fit, len(ids))
    sampler = InstanceSampler(ids, batch_images, seed)
    head: dict[str, Any] = {"dropout": config.model.dropout, "seed": seed}
    data: batches.FeatureBatches | batches.ImageBatches
    with training.precision_policy(config.runtime.precision), strategy.scope():
        if frozen:
            features = store.read_array(context.path("features", "features.npy"))
            data = batches.FeatureBatches(features, sampler, *targets)
            model = build_classifier(features.shape[1], num_classes, **head)
        else:
            backbone = open_backbone(config, synchronized=strategy.num_replicas_in_sync > 1, seed=seed)
            model = build_image_classifier(backbone, num_classes, **head)
            data = batches.ImageBatches(
                ImageStore(context.path("pack")), sampler, *targets,
                image_size_px=config.model.image_size_px, augment=open_augmenter(config),
                crop_fraction=config.model.crop_fraction,
            )  # fmt: skip
    class_counts = count_labels(labels[ids], num_classes)
    with settings_named(keys_of(config, "baseline.fit")):
        history = training.fit_model(
            model,
            data,
            **fit_settings(fit, config.runtime, batch_images, class_counts, len(labels)),
            total_steps=training.count_steps(fit.epochs, len(ids), batch_images),
            checkpoint_dir=context.out / f"checkpoint_{name}",
            log_dir=context.out / "tensorboard" / name,
            description=f"baseline {name}",
        )
    if writes:
        store.write_json(context.out / f"history_{name}.json", history)
    save_together(model, context.out / f"model_{name}.keras", Machines(strategy))


def inputs(config: Config) -> dict:
    """The checkpoint that whole networks start from; heads read features.

    Raises:
      UsageError: the checkpoint, or the packages of the augmentation, cannot be had.
    """
    if config.model.mode != "finetune":
        return {}
    require_packages(config.augment.policy)  # before hours of work, though `train` alone may augment
    return {} if judges_features(config) else fingerprint_weights(config)


STAGE = Stage(
    name="baseline",
    needs=("pack", "features"),
    depends_on=(
        "seed", "baseline", "augment", "model.mode", "model.crop_fraction", "model.dropout",
        "runtime.precision", *BACKBONE_SETTINGS,
    ),
    run=run,
    estimate=estimate,
    inputs=inputs,
    follow=follow,
    version=4,
)  # fmt: skip
