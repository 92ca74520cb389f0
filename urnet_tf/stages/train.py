"""Stage `train`: the URNet on bags, with sample weights and soft targets of `reweight`.

Reads the image store (pack), features (frozen) or a network (baseline), the weights and targets
(reweight). Writes urnet.keras, its instance branch instance.keras, saliency.npy and
weights.parquet with the saliency filled in. A strategy is off when its weights are ones: there
are no other branches in the code. The fit and the pass for the saliency resume.

With `train.members` above 1 there are more URNets, in member1/, member2/ ..., each complete before the next
begins; the saliency is their mean then. `train.distill` adds distilled/, see `distillation`.
"""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from urnet_tf import schema, store
from urnet_tf.backbone_names import ALL, LAST_STAGE
from urnet_tf.config import Config, count_members, starts_from
from urnet_tf.costs.network import count_urnet
from urnet_tf.costs.units import format_bytes, format_seconds
from urnet_tf.reweighting import objective
from urnet_tf.reweighting.factors import FACTORS
from urnet_tf.stages.distillation import SOFT_CLASSES, distill, follow_distillation
from urnet_tf.stages.effects import trains
from urnet_tf.stages.fitted_heads import estimate_fitting, fit_weighted_heads, save_head
from urnet_tf.stages.members import distills, member_config, member_directory
from urnet_tf.stages.settings import (
    count_backbone,
    count_training,
    forward_seconds,
    inference_bytes,
    training_seconds,
)
from urnet_tf.stages.stage import Estimate, PlanContext, Stage, StageContext
from urnet_tf.stages.urnet_fit import compute_class_mass, fit_urnet, measure_saliency

if TYPE_CHECKING:
    import pyarrow as pa


def run(context: StageContext) -> dict:
    """Fits the two branches of each member, then measures the attention that each instance gets."""
    weights = store.read_table(context.path("reweight", "weights.parquet"))
    if not trains(context.config, "train"):
        return _fit_head(context, weights)
    columns = store.column(weights, "label"), store.column(weights, "sample_weight")
    members = [_train_member(context, number, *columns) for number in range(count_members(context.config))]
    saliency = np.stack([measured for _, measured in members]).mean(axis=0, dtype=np.float64)
    _write_weights(context, weights, saliency.astype(np.float32))
    several: dict[str, Any] = {"members": [told for told, _ in members]} if len(members) > 1 else {}
    if distills(context.config):
        several["distilled"] = _distill(context, *columns)
    first = {key: value for key, value in members[0][0].items() if key not in ("seed", "bag_size")}
    return {
        **first,
        "saliency": {"min": float(saliency.min()), "max": float(saliency.max())},
        **several,
    }


def _distill(context: StageContext, labels: np.ndarray, sample_weight: np.ndarray) -> dict[str, Any]:
    from urnet_tf.training.saving import load_model

    places = map(member_directory, range(count_members(context.config)))
    members = [load_model(context.out / place / "instance.keras") for place in places]
    return distill(context, labels, sample_weight, members)


def _train_member(
    context: StageContext, number: int, labels: np.ndarray, sample_weight: np.ndarray
) -> tuple[dict[str, Any], np.ndarray]:
    """Sees to it that a member is there; its figures, and its saliency float32 [N]."""
    from urnet_tf.models import urnet
    from urnet_tf.training.saving import load_model, save_model

    out = context.out / member_directory(number)
    out.mkdir(exist_ok=True)
    member, path = _fit_member(context, number, labels, sample_weight)
    config, measured = member.config, out / "saliency.npy"
    member.remove("checkpoint")
    # What lies there of the first is the mean of all members, where the stage was killed at its end.
    if number == 0 or not measured.exists():
        model = load_model(path)
        save_model(urnet.instance_branch(model), out / "instance.keras")
        # Attention that nobody trained tells nothing.
        trained = config.train.bag.loss_weight > 0
        saliency = measure_saliency(member, model, labels) if trained else np.ones(len(labels), np.float32)
        store.write_array(measured, saliency)
    if number:  # the marker would list them
        member.remove("units_saliency")
        member.remove("attention.npy")
    history = store.read_json(out / "history.json")
    last = next((row for row in history if row.get("kept")), history[-1])
    told = {name: last[name] for name in ("loss", "instance_accuracy", "bag_accuracy")}
    told = {"steps": history[-1]["step"], **told, "seed": config.seed, "bag_size": config.train.bag.size}
    return told, np.asarray(store.read_array(measured))


def _fit_member(
    context: StageContext, number: int, labels: np.ndarray, sample_weight: np.ndarray
) -> tuple[StageContext, pathlib.Path]:
    """Sees to it that the URNet of a member is there, alone or together; its context, and where it is."""
    config, place = member_config(context.config, number), member_directory(number)
    member = dataclasses.replace(context, config=config, out=context.out / place)
    several = count_members(config) > 1
    name = f"urnet {number + 1} of {count_members(config)}" if several else "urnet"
    return member, fit_urnet(member, labels, sample_weight, context.out / "tensorboard" / place, name)


def follow(context: StageContext) -> None:
    """Trains what the first machine trains, together with it."""
    if not trains(context.config, "train"):
        return
    weights = store.read_table(context.path("reweight", "weights.parquet"), ["label", "sample_weight"])
    columns = store.column(weights, "label"), store.column(weights, "sample_weight")
    for number in range(count_members(context.config)):
        _fit_member(context, number, *columns)
    if distills(context.config):
        follow_distillation(context, *columns)


def _fit_head(context: StageContext, weights: "pa.Table") -> dict[str, Any]:
    """A linear head fitted to the weighted images: the instance branch, without bags."""
    labels, sample_weight = store.column(weights, "label"), store.column(weights, "sample_weight")
    num_classes = len(store.read_json(context.path("pack", "classes.json")))
    compute_class_mass(labels, sample_weight, num_classes)  # refuses weights that leave nothing to learn
    trust = np.maximum(sample_weight, 0.0)
    judgement = fit_weighted_heads(context, labels, sample_weight, num_classes, "urnet")
    features = store.read_array(context.path("features", "features.npy"))[: len(labels)]
    tried = objective.try_strengths(
        features, labels, judgement.folds, judgement.heads, trust, num_classes=num_classes
    )
    strength = objective.choose_strength(tried, context.config.train.objective)
    logging.info("%s", objective.format_trade(tried, strength))
    save_head(context, judgement.head, "instance.keras", strength * objective.log_share(labels, num_classes))
    _write_weights(context, weights, np.ones(len(labels), np.float32))
    return {
        "objective": {"strength": strength, "tried": [dataclasses.asdict(one) for one in tried]},
        "loss": -judgement.likelihood,
        "instance_accuracy": judgement.agreement,  # with the given labels, out of fold, by class
    }


def _write_weights(context: StageContext, weights: "pa.Table", saliency: np.ndarray) -> None:
    store.write_array(context.out / "saliency.npy", saliency)
    # A factor that is newer than what `reweight` wrote was not used: ones.
    columns = {factor.name: np.ones(len(weights), np.float32) for factor in FACTORS}
    columns |= {name: weights.column(name) for name in schema.WEIGHT_COLUMNS if name in weights.column_names}
    store.write_table(
        context.out / "weights.parquet",
        columns | {"saliency": saliency},
        schema.WEIGHT_COLUMNS,
        {"format": schema.WEIGHTS_FORMAT},
    )


def estimate(config: Config, plan: PlanContext, compare: bool = True) -> Estimate:
    """A fit of each member over the training images, and one pass for its saliency.

    Args:
      compare: tells in the note what other parts of the network would cost.
    """
    rows = plan.train_images
    if rows is None:
        return Estimate()
    model, bag_size = config.model, config.train.bag.size
    whole, part = model.mode == "finetune", config.train.unfreeze
    network = count_backbone(config)
    if not trains(config, "train"):
        return estimate_fitting(config, plan, heads=1, kind=config.train.head)
    members = count_members(config)
    heads = count_urnet(network.feature_dim, plan.classes, bag_size, model.attention_dim)
    training = count_training(
        config, config.train.fit, heads, plan, whole=whole, part=part, bag_size=bag_size
    )
    memory = training.host_bytes(plan.gpus)
    seconds = training_seconds(config, config.train.fit, rows, plan, whole=whole, part=part)
    disk = 80 * rows + 8 * heads.parameters  # the URNet and its instance branch
    if model.mode == "frozen":
        seconds *= 1.5
        memory = max(memory, inference_bytes(config, plan, 1, 64))  # the process keeps what features took
    else:
        seconds += forward_seconds(config, rows, plan)
        disk += 8 * network.parameters
        if starts_from(config).startswith("baseline"):
            memory += training.weights  # the baseline is read beside the new network
    note = f"bags of {bag_size}" if config.train.bag.loss_weight else "no bags"
    note += plan.guess + training.tell_parts()
    if members > 1:
        note = f"{members} members{', one distilled' if distills(config) else ''}; {note}"
    seconds, disk = members * seconds, members * disk
    if distills(config):  # one more fit, and each member over all images, of which all are held
        seconds += seconds / members + members * (
            0 if model.mode == "frozen" else forward_seconds(config, rows, plan)
        )
        disk += disk // members + 8 * SOFT_CLASSES * rows
        memory = max(memory, inference_bytes(config, plan, members if model.mode == "finetune" else 1, 64))
    if compare and whole:
        note += _alternatives(config, plan)
    return Estimate(rows, 10.0 + seconds, disk, memory, note, training)


def _alternatives(config: Config, plan: PlanContext) -> str:
    """What it would cost if another part of the network learned, or none."""
    found = {}
    for part in (LAST_STAGE, ALL):
        if part != config.train.unfreeze:
            other = dataclasses.replace(config, train=dataclasses.replace(config.train, unfreeze=part))
            found[f"unfreeze={part}"] = estimate(other, plan, compare=False)
    found["model.mode=frozen"] = estimate_fitting(config, plan, heads=1, kind=config.train.head)
    costs = (
        f"{name}: {format_seconds(e.seconds)}, {format_bytes(e.memory_bytes)}" for name, e in found.items()
    )
    return f"; {'; '.join(costs)}"


STAGE = Stage(
    name="train",
    needs=("pack", "features", "baseline", "reweight"),
    depends_on=("seed", "model", "augment", "train", "runtime.precision", "baseline.folds"),
    run=run,
    estimate=estimate,
    version=4,
    follow=follow,
)
