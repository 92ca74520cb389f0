"""Training: plain Keras `compile` and `fit`, with exact resume, a NaN stop and readable progress.

A run is one `fit` call over steps start..total, one "epoch" to Keras; passes over the data are counted
here, and are what the caller's callbacks see as epochs. Keras puts averaged (EMA) weights in place at the
end of every `fit` call, so one call a run is what keeps resuming exact. A checkpoint holds all variables
of model (dropout seeds and batch statistics too), optimizer and loss, the step, and the running means of
the pass in hand: on CPUs a killed run that is started again ends with bitwise the weights and history of
an undisturbed one. (On GPUs that also needs `tf.config.experimental.enable_op_determinism()`.)
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from urnet_tf.errors import UsageError
from urnet_tf.feed.mixup import MixedBatches
from urnet_tf.feed.sampling import part_rows
from urnet_tf.feed.targets import pack_targets
from urnet_tf.models.urnet import BAG, INSTANCE
from urnet_tf.training.losses import SparseSoftAccuracy, SparseSoftCrossEntropy, SparseSoftLoss
from urnet_tf.training.machines import Machines, open_cluster
from urnet_tf.training.optimization import OptimizerOptions, Trainee, build_optimizer
from urnet_tf.training.passes import BestPass, Loop, Run

_CHECKPOINT = "checkpoint.npz"
_BEST = "best.npz"
_VALIDATED_ROWS = 256  # at a time


@dataclasses.dataclass(frozen=True)
class FitOptions(OptimizerOptions):
    """How a model is trained, whatever model and data these are.

    Example:
      >>> import urnet_tf
      >>> urnet_tf.FitOptions(learning_rate=3e-4, mixup=0.4).optimizer
      'adamw'

    Attributes:
      mixup: alpha of `MixedBatches`, which mixes the rows of each step; None = off.
      accumulate_steps: parts that a batch is split into to save memory. A step stays one batch: with
        rates, clipping, averages, history and checkpoints as without. The weights end equal up to
        rounding, except behind batch normalization, which sees the parts (see `Trainee`).
      jit_compile: compiles the step with XLA; for GPUs, on one device.
      checkpoint_s: seconds between checkpoints.
    """

    mixup: float | None = None
    accumulate_steps: int = 1
    jit_compile: bool = False
    checkpoint_s: float = 60.0


class Batches(Protocol):
    """What a model is trained on, such as `feed.batches.FeatureBatches`."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a pass."""

    def dataset(self, start_step: int, stop_step: int) -> tf.data.Dataset:
        """The batches (x, y, sample_weight) of the steps `start_step` to `stop_step - 1`."""


def fit_model(
    model: keras.Model,
    batches: Batches,
    options: FitOptions = FitOptions(),  # noqa: B008  it is frozen
    *,
    epochs: float | None = None,
    total_steps: int | None = None,
    loss: SparseSoftLoss | None = None,
    loss_weights: Mapping[str, float] | None = None,
    validation_data: tf.data.Dataset | tuple | None = None,
    checkpoint_dir: str | os.PathLike | None = None,
    log_dir: str | os.PathLike | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    description: str = "fit",
    build_trainee: Callable[[keras.Model, int], Trainee] = Trainee,
    rates: Mapping[str, float] | None = None,
    keep_best_of: int | None = None,
) -> list[dict]:
    """Trains a model on sparse soft targets with sample weights; continues a killed run.

    Example:
      >>> import keras, numpy as np
      >>> import urnet_tf
      >>> from urnet_tf.feed.batches import FeatureBatches
      >>> from urnet_tf.feed.sampling import InstanceSampler
      >>> x, labels, ones = np.eye(4, dtype="float32"), np.array([[0], [0], [1], [1]]), np.ones((4, 1))
      >>> batches = FeatureBatches(x, InstanceSampler(np.arange(4), 2, seed=0), labels, ones, ones[:, 0])
      >>> model = urnet_tf.build_classifier(4, 2, dropout=0.0)
      >>> options = urnet_tf.FitOptions(learning_rate=0.1)
      >>> history = urnet_tf.fit(
      ...     model, batches, options, epochs=50, validation_data=(x, labels[:, 0]),
      ...     callbacks=[keras.callbacks.EarlyStopping("val_accuracy", patience=2)],
      ... )
      >>> len(history), history[-1]["val_accuracy"]
      (3, 1.0)

    Args:
      model: one output of logits, or a dictionary of them, as `build_classifier` and `build_urnet`
        give. Built under `strategy.scope()` it trains on that strategy's devices.
      batches: has `dataset(start_step, stop_step)` of (x, y, sample_weight) and `steps_per_epoch`;
        the element of a step must not depend on the start. For a loss that needs instance ids,
        `dataset` takes `instance_ids=True`.
      epochs: passes over the data of the whole run, need not be whole; or
      total_steps: its steps. The learning rate falls to 0 at its end.
      loss: of every output, as `build_loss` gives it; None = cross entropy. Bags get its `for_bags()`.
      loss_weights: factor of each output's loss, for models with several; None = 1.
      validation_data: what the model is tried on after each pass, on the weights of that moment (not on
        averaged ones): (x, y) or (x, y, sample_weight) as arrays, y packed targets or int labels [n], or a
        `tf.data.Dataset` of such batches with packed targets. Training does not depend on it.
      checkpoint_dir: keeps the latest checkpoint; None = not resumable. The caller deletes it.
      log_dir: TensorBoard scalars go there; None = off.
      callbacks: Keras callbacks. A pass is an epoch to them, the last one perhaps a part of a pass; the logs
        at its end hold what the history does, with `val_loss` and the like. They may stop the run. They keep
        no state when a killed run goes on, where the first epoch is the rest of the pass in hand.
      description: names the run in logs and errors.
      build_trainee: (model, accumulate_steps) -> what takes the steps: for other rules of learning.
      rates: path of a variable -> its learning rate as a share of the others'; None = all alike.
      keep_best_of: rows of the validation data. The run then ends with the weights of the pass that was right
        on most of them, if by more than a standard error; `kept` marks it in the history. Needs
        `validation_data` and `checkpoint_dir`, and no averaged weights. None = the last pass.

    Returns:
      One dictionary a pass: step, epoch, learning_rate and the means of losses and metrics, and those of
      the validation data with `val_` before their names.

    Raises:
      UsageError: not one of epochs and total_steps, the batch does not divide by devices and parts, XLA or a
        loss that needs instance ids on several devices, or such a loss with mixup.
      RunError: the loss is not finite, the checkpoint belongs to another model, or another machine was lost.
    """
    total_steps = _count_total_steps(epochs, total_steps, batches.steps_per_epoch)
    strategy = model.distribute_strategy
    replicas = strategy.num_replicas_in_sync
    loss = loss or SparseSoftCrossEntropy()
    _check_devices(loss, options, replicas)
    if options.mixup is not None:
        batches = MixedBatches(batches, options.mixup)  # type: ignore[arg-type]  # looks at more of them
    _check_divisible(batches, replicas, options.accumulate_steps)
    with strategy.scope():
        trainee = build_trainee(model, options.accumulate_steps)
        rule, schedule = build_optimizer(model, total_steps, options, rates)
        _compile(trainee, rule, loss, loss_weights, options.jit_compile)
        rule.build(trainee.trainable_variables)
        if isinstance(model.output, dict):
            # Or Keras makes the losses' means within the first step, and then traces it once more.
            trainee._compile_loss.build(model.output, model.output)
    machines = Machines(strategy)
    validate = _build_validation(model, validation_data, loss, loss_weights, machines)
    run = Run(
        trainee, loss.state, batches.steps_per_epoch, total_steps, schedule, description,
        log_dir if machines.is_chief else None, validate, machines,
    )  # fmt: skip
    checkpoint = pathlib.Path(checkpoint_dir, _CHECKPOINT) if checkpoint_dir is not None else None
    if run.restore(checkpoint):
        logging.info("%s: continues at step %d of %d", description, run.step, total_steps)
    best = None
    if keep_best_of is not None:
        best = _keep_best(run, model, options, validation_data, checkpoint, keep_best_of)
    if run.step < total_steps:
        ids = {"instance_ids": True} if loss.needs_instance_ids else {}
        with machines.watched():
            trainee.fit(
                _distributed(batches, strategy, machines, run.step, total_steps, ids),
                steps_per_epoch=total_steps - run.step,
                epochs=1,
                shuffle=False,
                verbose=0,
                callbacks=[Loop(run, checkpoint, options.checkpoint_s, callbacks, best)],
            )
    if best is not None:
        best.finish()
    return run.history


def _distributed(
    batches: Batches, strategy: tf.distribute.Strategy, machines: Machines, start: int, stop: int, ids: dict
) -> Any:
    """The batches of some steps; where several machines train, each reads the rows that are its own."""
    if machines.count == 1:
        return batches.dataset(start, stop, **ids)

    size = _count_rows(batches) or 0

    def rows_of(context: tf.distribute.InputContext) -> tf.data.Dataset:
        part, parts = context.input_pipeline_id, context.num_input_pipelines
        if hasattr(batches, "part"):
            own = batches.part(part, parts).dataset(start, stop, **ids)
        else:  # of somebody else: all of a step is read, and the rest left
            rows = part_rows(size, part, parts)
            own = batches.dataset(start, stop, **ids).map(
                lambda *element: keras.tree.map_structure(lambda x: x[rows[0] : rows[-1] + 1], element)
            )
        devices = context.num_replicas_in_sync // parts
        # An element a device.
        return own if devices == 1 else own.rebatch(size // context.num_replicas_in_sync)

    return strategy.distribute_datasets_from_function(rows_of)


def _keep_best(
    run: Run,
    model: keras.Model,
    options: FitOptions,
    validation_data: tf.data.Dataset | tuple | None,
    checkpoint: pathlib.Path | None,
    rows: int,
) -> BestPass:
    if validation_data is None or checkpoint is None or options.ema is not None:
        raise UsageError(
            "Expected validation_data and checkpoint_dir, and no ema, with keep_best_of; received "
            f"{'no' if validation_data is None else 'some'} data, {'no' if checkpoint is None else 'a'} "
            f"directory and ema={options.ema}."
        )
    metric = f"val_{INSTANCE}_accuracy" if isinstance(model.output, dict) else "val_accuracy"
    return BestPass(run, metric, rows, checkpoint.with_name(_BEST))


def _count_total_steps(epochs: float | None, total_steps: int | None, steps_per_epoch: int) -> int:
    if epochs is not None and total_steps is None:
        return max(1, round(epochs * steps_per_epoch))
    if total_steps is not None and epochs is None:
        return total_steps
    raise UsageError(
        f"Expected either `epochs` or `total_steps`; received {epochs} and {total_steps}. Give one."
    )


def _build_validation(
    model: keras.Model,
    data: tf.data.Dataset | tuple | None,
    loss: SparseSoftLoss,
    loss_weights: Mapping[str, float] | None,
    machines: Machines,
) -> Callable[[], dict[str, float]]:
    """A function that gives losses and metrics on the data as {"val_loss": ...}; {} without data.

    It is a model of its own with the same weights, so that nothing of the training changes. Of several
    machines the chief alone tries it, on a copy, and tells the others.
    """
    if data is None:
        return dict
    if machines.count > 1:
        tried = keras.models.clone_model(model)
        _compile(tried, None, loss.for_bags(), loss_weights, jit_compile=False)
    else:
        with model.distribute_strategy.scope():
            tried = keras.Model(model.input, model.output)
            _compile(tried, None, loss.for_bags(), loss_weights, jit_compile=False)
    if isinstance(data, tuple):
        x, y, *weights = data
        if not isinstance(y, Mapping) and np.ndim(y) == 1:
            y = pack_targets(np.asarray(y)[:, None], np.ones((len(y), 1)))
        data = tf.data.Dataset.from_tensor_slices((x, y, *weights)).batch(_VALIDATED_ROWS)

    def validate() -> dict[str, float]:
        if machines.count > 1:
            weights = [variable.numpy() for variable in model.variables]  # which all machines read
            if not machines.is_chief:
                return machines.tell("validation", None)
            for variable, value in zip(tried.variables, weights, strict=True):
                variable.assign(value)
        found = tried.evaluate(data, verbose=0, return_dict=True)
        told = {f"val_{name}": float(value) for name, value in found.items()}
        return machines.tell("validation", told)

    return validate


def _check_devices(loss: SparseSoftLoss, options: FitOptions, replicas: int) -> None:
    """Refuses what works on one device, or without mixup, only."""
    if loss.needs_instance_ids and (replicas > 1 or options.mixup is not None):
        raise UsageError(
            f"Expected one device and no mixup for a loss that remembers each image; received {replicas} "
            f"devices and mixup={options.mixup}."
        )
    if options.jit_compile and replicas > 1:
        raise UsageError(
            f"Expected no jit_compile on {replicas} devices; XLA cannot compile a mirrored step."
        )


def _compile(
    trainee: keras.Model,
    rule: keras.optimizers.Optimizer | None,
    loss: SparseSoftLoss,
    loss_weights: Mapping[str, float] | None,
    jit_compile: bool,
) -> None:
    """Gives every output its loss and the accuracy."""
    losses: Any = loss
    metrics: Any = [SparseSoftAccuracy()]
    if isinstance(trainee.output, dict):
        losses = {name: loss.for_bags() if name == BAG else loss for name in trainee.output}
        metrics = {name: [SparseSoftAccuracy()] for name in trainee.output}
    trainee.compile(
        **({} if rule is None else {"optimizer": rule}),
        loss=losses,
        loss_weights=dict(loss_weights) if loss_weights else None,
        metrics=metrics,
        jit_compile=jit_compile,
        auto_scale_loss=False,  # `build_optimizer` has done it
    )


def count_steps(epochs: float, instances: int, batch_instances: int) -> int:
    """Steps of a run that sees `instances` for `epochs` passes; at least one."""
    return max(1, round(epochs * instances / batch_instances))


@functools.cache
def build_strategy(name: str = "none", devices: tuple[str, ...] | None = None) -> tf.distribute.Strategy:
    """The strategy to build models under: `with build_strategy(...).scope():`.

    One object a process: a second MirroredStrategy would clash with the first one's collectives.

    Args:
      name: "none" (one device), "mirrored" (all GPUs of this machine) or "multi_worker" (all machines that
        TF_CONFIG names, see `machines.open_cluster`; before TensorFlow computes anything).
      devices: names of the devices to mirror on; None = all GPUs. CPU devices are for tests.

    Raises:
      UsageError: an unknown name, or nothing says which machines there are.
    """
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "multi_worker":
        return open_cluster()
    if name != "mirrored":
        raise UsageError(f"Expected the strategy none, mirrored or multi_worker; received {name!r}.")
    on_cpu = devices is not None and all("CPU" in device.upper() for device in devices)
    return tf.distribute.MirroredStrategy(
        devices=devices, cross_device_ops=tf.distribute.ReductionToOneDevice() if on_cpu else None
    )


@contextlib.contextmanager
def precision_policy(precision: str) -> Iterator[None]:
    """Layers built inside compute in this precision: "float32", "mixed_bfloat16" or "mixed_float16"."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _count_rows(batches: Batches) -> int | None:
    """Rows of a step, images or whole bags; None where the last step has fewer."""
    element = batches.dataset(0, 1).element_spec[0]
    return keras.tree.flatten(element)[0].shape[0]


def _check_divisible(batches: Batches, replicas: int, parts: int) -> None:
    if replicas * parts == 1:
        return
    size = _count_rows(batches)
    if size is not None and size % (replicas * parts):
        devices = f"{replicas} devices" if replicas > 1 else "one device"
        raise UsageError(
            f"Expected a batch that {devices} divide into {parts} equal parts each; received {size} rows a "
            "step (images, or whole bags). Change `batch_images` or `accumulate_steps`."
        )
