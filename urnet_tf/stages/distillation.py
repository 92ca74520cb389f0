"""One URNet that learns what an ensemble says: for `train`, where `train.distill` asks for it.

In: the members in train/, the training images. Out: distilled/ with the targets, the mean probabilities of
the members over the training images (the likeliest classes of each, on the plain view), and the URNet that
was trained on them. Loops and the fit resume.

Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015, at temperature 1.
Differs: the targets are sparse; the sample weights of the crawl stay.
"""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from urnet_tf import store
from urnet_tf.config import Config, LossConfig
from urnet_tf.stages.members import DISTILLED
from urnet_tf.stages.stage import StageContext
from urnet_tf.stages.urnet_fit import fit_urnet

if TYPE_CHECKING:
    import keras

SOFT_CLASSES = 20  # of a target; what the members give to others is left out, and the rest scaled to 1
_BATCH = 64
_IDS, _PROBS = "target_ids.npy", "target_probs.npy"


def distill(
    context: StageContext, labels: np.ndarray, sample_weight: np.ndarray, members: list["keras.Model"]
) -> dict[str, Any]:
    """Trains one URNet on the mean probabilities of several.

    Args:
      context: of stage `train`.
      labels: int [N], given ones.
      sample_weight: float [N].
      members: instance branches.

    Returns:
      its figures of the last pass.
    """
    from urnet_tf.models import urnet
    from urnet_tf.training.saving import load_model, save_model

    student = _open_student(context)
    out = student.out
    out.mkdir(exist_ok=True)
    targets = _write_targets(student, members, len(labels))
    _tell_written(student)
    log_dir = context.out / "tensorboard" / DISTILLED
    path = fit_urnet(student, labels, sample_weight, log_dir, DISTILLED, targets)
    for name in ("checkpoint", "units_targets"):
        student.remove(name)
    save_model(urnet.instance_branch(load_model(path)), out / "instance.keras")
    last = store.read_json(out / "history.json")[-1]
    return {name: last[name] for name in ("loss", "instance_accuracy", "bag_accuracy")}


def follow_distillation(context: StageContext, labels: np.ndarray, sample_weight: np.ndarray) -> None:
    """What the other machines do meanwhile: they wait for the targets, and train with the first one."""
    student = _open_student(context)
    _tell_written(student)
    ids, probs = (np.asarray(store.read_array(student.out / name)) for name in (_IDS, _PROBS))
    fit_urnet(
        student, labels, sample_weight, context.out / "tensorboard" / DISTILLED, DISTILLED, (ids, probs)
    )


def _open_student(context: StageContext) -> StageContext:
    return dataclasses.replace(context, config=_student_config(context.config), out=context.out / DISTILLED)


def _tell_written(student: StageContext) -> None:
    """Lets the other machines wait until the first one has written the targets."""
    from urnet_tf.training.fit import build_strategy
    from urnet_tf.training.machines import Machines

    Machines(build_strategy(student.config.runtime.strategy)).tell("targets", None)


def _student_config(config: Config) -> Config:
    """A member's configuration with plain cross entropy: the ensemble's probabilities are as they should be.

    Robust losses, smoothing and logit adjustment are for labels; the latter would be applied twice.
    """
    from urnet_tf.models.seeding import layer_seed

    train = config.train
    fit = dataclasses.replace(train.fit, loss=LossConfig(), label_smoothing=0.0)
    bag = dataclasses.replace(train.bag, target="mean")
    return dataclasses.replace(
        config,
        seed=layer_seed(config.seed, DISTILLED),
        train=dataclasses.replace(train, fit=fit, bag=bag),
    )


def _write_targets(
    context: StageContext, members: list["keras.Model"], rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Class ids int32 [N, K] and probabilities float32 [N, K] that the members give together."""
    from urnet_tf.evaluation import inference, metrics, multi_view

    entries = min(SOFT_CLASSES, members[0].output_shape[-1])
    ids = store.open_column(context.out / _IDS, (rows, entries), np.int32)
    probs = store.open_column(context.out / _PROBS, (rows, entries), np.float32)
    predictor = multi_view.build_predictor([multi_view.instance_member(model) for model in members])

    def write(part: slice, values: np.ndarray) -> None:
        ids[part], best = metrics.top_k(values, entries)
        probs[part] = best / best.sum(axis=1, keepdims=True)

    inference.run_units(
        lambda batch: predictor(batch).numpy().mean(axis=0, dtype=np.float64),
        lambda wanted: _stream(context, wanted),
        rows,
        context.units("targets", inference.count_units(rows, _BATCH), ids, probs),
        write,
        batch_size=_BATCH,
        description="ensemble over the training images",
    )
    ids.flush()  # other machines read them
    probs.flush()
    return ids, probs


def _stream(context: StageContext, rows: np.ndarray) -> Iterator[Any]:
    """The training images in plain view, or their features, in batches."""
    from urnet_tf.feed.batches import stream_images
    from urnet_tf.images.image_store import ImageStore

    model = context.config.model
    if model.mode == "frozen":
        features = store.read_array(context.path("features", "features.npy"))
        for first in range(0, len(rows), _BATCH):
            yield np.asarray(features[rows[first : first + _BATCH]], np.float32)
        return
    images = ImageStore(context.path("pack"))
    yield from stream_images(images, rows, model.image_size_px, model.crop_fraction, _BATCH)
