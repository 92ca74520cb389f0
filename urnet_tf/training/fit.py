"""Training: plain Keras `compile` and `fit`, with exact resume, a NaN stop and readable progress.

A run is one `fit` call over steps start..total, one Keras "epoch"; passes over the data are counted
here. Keras puts averaged (EMA) weights in place at the end of every `fit` call, so one call a run
is what keeps resuming exact. A checkpoint holds all variables of model (dropout seeds and batch
statistics too), optimizer and loss, the step, and the running means of the pass in hand: on CPUs a killed
run that is started again ends with bitwise the weights and history of an undisturbed one. (On GPUs
that also needs `tf.config.experimental.enable_op_determinism()`.)
"""

import contextlib
import functools
import json
import math
import os
import pathlib
import re
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from urnet_tf import store
from urnet_tf.errors import RunError, UsageError
from urnet_tf.feed.mixup import MixedBatches
from urnet_tf.models.urnet import INSTANCE
from urnet_tf.training.losses import SparseSoftAccuracy, SparseSoftCrossEntropy, SparseSoftLoss
from urnet_tf.training.optimization import Trainee, build_optimizer
from urnet_tf.training.robust_losses import EarlyLearningLoss

_CHECKPOINT = "checkpoint.npz"
_LOG_SECONDS = 10.0  # between lines of a log; passes over small crawls are over in an instant


def fit_model(
    model: keras.Model,
    batches,
    *,
    total_steps: int,
    optimizer: str = "adamw",
    learning_rate: float = 1e-3,
    warmup_fraction: float = 0.05,
    weight_decay: float = 1e-4,
    momentum: float = 0.9,
    clip_norm: float | None = None,
    ema: float | None = None,
    loss: SparseSoftLoss | None = None,
    mixup: float | None = None,
    loss_weights: Mapping[str, float] | None = None,
    accumulate_steps: int = 1,
    jit_compile: bool = False,
    checkpoint_dir: str | os.PathLike | None = None,
    checkpoint_s: float = 60.0,
    log_dir: str | os.PathLike | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    description: str = "fit",
    settings_prefix: str = "",
    build_trainee: Callable[[keras.Model, int], Trainee] = Trainee,
) -> list[dict]:
    """Trains a model on sparse soft targets with sample weights; continues a killed run.

    Args:
      model: one output of logits, or a dictionary of them, as `build_classifier` and `build_urnet`
        give. Built under `strategy.scope()` it trains on that strategy's devices.
      batches: has `dataset(start_step, stop_step)` of (x, y, sample_weight) and `steps_per_epoch`;
        the element of a step must not depend on the start.
      total_steps: steps of the whole run.
      optimizer, learning_rate, warmup_fraction, weight_decay, momentum, clip_norm, ema: see
        `build_optimizer`.
      loss: of every output, as `build_loss` gives it; None = cross entropy. `EarlyLearningLoss` is for
        the instances, on one device and without mixup: bags get the cross entropy. `batches.dataset`
        must then take `instance_ids=True`.
      mixup: alpha of `MixedBatches`, which mixes the rows of each step; None = off.
      loss_weights: factor of each output's loss, for models with several; None = 1.
      accumulate_steps: parts that a batch is split into to save memory. A step stays one batch: with
        rates, clipping, averages, history and checkpoints as without. The weights end equal up to
        rounding, except behind batch normalisation, which sees the parts (see `Trainee`).
      jit_compile: compiles the step with XLA; for GPUs, on one device.
      checkpoint_dir: keeps the latest checkpoint; None = not resumable. The caller deletes it.
      checkpoint_s: seconds between checkpoints.
      log_dir: TensorBoard scalars go there; None = off.
      callbacks: more Keras callbacks; the whole run is one epoch to them.
      description: names the run in logs and errors.
      settings_prefix: stands before the names of arguments in errors that advise to change one; where they
        come from a configuration, the place there, such as "train.fit.".
      build_trainee: (model, accumulate_steps) -> what takes the steps: for other rules of learning.

    Returns:
      One dictionary a pass: step, epoch, learning_rate and the means of losses and metrics.

    Raises:
      UsageError: the batch does not divide by devices and parts, XLA or a loss that remembers instances
        on several devices, or such a loss with mixup.
      RunError: the loss is not finite, or the checkpoint belongs to another model.
    """
    strategy = model.distribute_strategy
    replicas = strategy.num_replicas_in_sync
    loss = loss or SparseSoftCrossEntropy()
    remembers = isinstance(loss, EarlyLearningLoss)
    if remembers and (replicas > 1 or mixup is not None):
        raise UsageError(
            f"Expected one device and no mixup for a loss that remembers each image; received {replicas} "
            f"devices and mixup={mixup}."
        )
    if mixup is not None:
        batches = MixedBatches(batches, mixup)
    _check_divisible(batches, replicas, accumulate_steps, settings_prefix)
    if jit_compile and replicas > 1:
        raise UsageError(
            f"Expected no jit_compile on {replicas} devices; XLA cannot compile a mirrored step."
        )
    with strategy.scope():
        trainee = build_trainee(model, accumulate_steps)
        rule, schedule = build_optimizer(
            model,
            total_steps,
            optimizer=optimizer,
            learning_rate=learning_rate,
            warmup_fraction=warmup_fraction,
            weight_decay=weight_decay,
            momentum=momentum,
            clip_norm=clip_norm,
            ema=ema,
        )
        outputs = model.output if isinstance(model.output, dict) else None
        plain = loss.cross_entropy() if remembers else loss
        trainee.compile(
            optimizer=rule,
            loss={name: loss if name == INSTANCE else plain for name in outputs} if outputs else loss,
            loss_weights=dict(loss_weights) if loss_weights else None,
            metrics={name: [SparseSoftAccuracy()] for name in outputs} if outputs else [SparseSoftAccuracy()],
            jit_compile=jit_compile,
            auto_scale_loss=False,  # `build_optimizer` has done it
        )
        rule.build(trainee.trainable_variables)
        if outputs:  # or Keras makes the losses' means within the first step, and then traces it once more
            trainee._compile_loss.build(outputs, outputs)
    memory = [loss.memory] if remembers else []
    run = _Run(
        trainee, memory, batches.steps_per_epoch, total_steps, schedule, description, settings_prefix, log_dir
    )
    checkpoint = pathlib.Path(checkpoint_dir, _CHECKPOINT) if checkpoint_dir is not None else None
    if checkpoint is not None and checkpoint.exists():
        run.restore(checkpoint)
        logging.info("%s: continues at step %d of %d", description, run.step, total_steps)
    if run.step < total_steps:
        trainee.fit(
            batches.dataset(run.step, total_steps, **({"instance_ids": True} if remembers else {})),
            steps_per_epoch=total_steps - run.step,
            epochs=1,
            shuffle=False,
            verbose=0,
            callbacks=[_Loop(run, checkpoint, checkpoint_s), *callbacks],
        )
    return run.history


def count_steps(epochs: float, instances: int, batch_instances: int) -> int:
    """Steps of a run that sees `instances` for `epochs` passes; at least one."""
    return max(1, round(epochs * instances / batch_instances))


@functools.cache
def build_strategy(name: str = "none", devices: tuple[str, ...] | None = None) -> tf.distribute.Strategy:
    """The strategy to build models under: `with build_strategy(...).scope():`.

    One object a process: a second MirroredStrategy would clash with the first one's collectives.

    Args:
      name: "none" (one device) or "mirrored" (all GPUs of this machine).
      devices: names of the devices to mirror on; None = all GPUs. CPU devices are for tests.

    Raises:
      UsageError: an unknown name.
    """
    if name == "none":
        return tf.distribute.get_strategy()
    if name != "mirrored":
        raise UsageError(f"Expected the strategy none or mirrored; received {name!r}.")
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


def save_model(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes a functional model as `.keras`, atomically, without optimizer; equal models give equal bytes.

    Keras' own files hold the date of writing and addresses of objects.
    """
    uncompiled = keras.Model(model.input, model.output, name=model.name)
    with tempfile.TemporaryDirectory(".tmp", ".", pathlib.Path(path).parent) as directory:
        dated = pathlib.Path(directory, "model.keras")
        uncompiled.save(dated)
        with (
            store.atomic_path(path) as temporary,
            zipfile.ZipFile(dated) as source,
            zipfile.ZipFile(temporary, "w") as target,
        ):
            for name in sorted(source.namelist()):
                content = source.read(name)
                if name == "metadata.json":
                    content = json.dumps({**json.loads(content), "date_saved": ""}).encode()
                elif name == "config.json":
                    content = _number_shared_objects(content.decode()).encode()
                target.writestr(zipfile.ZipInfo(name), content)  # dated 1980


def _number_shared_objects(config):
    numbers = {}
    return re.sub(
        r'("shared_object_id": )(\d+)',
        lambda m: m[1] + str(numbers.setdefault(m[2], len(numbers) + 1)),
        config,
    )


class _Run:
    """Where a run stands: the step, the means of the pass in hand, the passes done."""

    def __init__(
        self, model, memory, steps_per_epoch, total_steps, schedule, description, settings_prefix, log_dir
    ):
        self.model, self.memory = model, memory
        self.steps_per_epoch, self.total_steps = steps_per_epoch, total_steps
        self.schedule, self.description, self._prefix = schedule, description, settings_prefix
        self.step, self.history = 0, []
        self._sums, self._count = {}, 0
        self._writer = tf.summary.create_file_writer(os.fspath(log_dir)) if log_dir is not None else None

    def rate(self) -> float:
        """The learning rate of the last step; steps that a float16 overflow left out do not count."""
        return float(self.schedule(max(0, int(self.model.optimizer.iterations.numpy()) - 1)))

    def add(self, values: Mapping[str, float]) -> None:
        """Counts one step with its own losses and metrics."""
        self.step += 1
        if not math.isfinite(values["loss"]):
            raise self._diverged(f"the loss is {values['loss']}")
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if self.step % self.steps_per_epoch == 0 or self.step == self.total_steps:
            self._close_pass()

    def _close_pass(self):
        means = {name: total / self._count for name, total in self._sums.items()}
        metadata = {
            "step": self.step,
            "epoch": self.step / self.steps_per_epoch,
            "learning_rate": self.rate(),
            **means,
        }
        self.history.append(metadata)
        self._sums, self._count = {}, 0
        if self._writer is not None:
            with self._writer.as_default(step=self.step):
                for name, value in metadata.items():
                    tf.summary.scalar(name, value)
            self._writer.flush()

    def save(self, path) -> None:
        arrays = {name: variable.numpy() for name, variable in self._variables().items()}
        if not all(np.isfinite(a).all() for a in arrays.values() if a.dtype.kind == "f"):
            raise self._diverged("a weight is not finite")
        state = {"step": self.step, "history": self.history, "sums": self._sums, "count": self._count}
        path.parent.mkdir(parents=True, exist_ok=True)
        with store.atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, state=np.array(json.dumps(state)), **arrays)

    def restore(self, path) -> None:
        with np.load(path) as arrays:
            variables = self._variables()
            shapes = {name: arrays[name].shape for name in arrays.files if name != "state"}
            if shapes != {name: tuple(variable.shape) for name, variable in variables.items()}:
                raise RunError(f"{path} is a checkpoint of another model; delete it to start over.")
            for name, variable in variables.items():
                variable.assign(arrays[name])
            state = json.loads(str(arrays["state"]))
        self.step, self.history = state["step"], state["history"]
        self._sums, self._count = state["sums"], state["count"]

    def _variables(self):
        model = self.model
        groups = {"model": model.variables, "optimizer": model.optimizer.variables, "loss": self.memory}
        return {f"{group}-{i}": v for group, variables in groups.items() for i, v in enumerate(variables)}

    def _diverged(self, what):
        return RunError(
            f"{self.description}: {what} at step {self.step} of {self.total_steps}. Try a lower "
            f"{self._prefix}learning_rate (it was {self.rate():.3g}), {self._prefix}clip_norm=1, a longer "
            f"{self._prefix}warmup_fraction, or float32 where the precision is mixed."
        )


class _Loop(keras.callbacks.Callback):
    """Tells the run of each step, writes checkpoints, shows progress."""

    def __init__(self, run, checkpoint, checkpoint_s):
        super().__init__()
        self._run, self._checkpoint, self._checkpoint_s = run, checkpoint, checkpoint_s
        self._bar = None

    def on_train_begin(self, logs=None):
        self._saved_at = self._reported_at = time.monotonic()
        if sys.stderr.isatty():
            run = self._run
            self._bar = tqdm(
                desc=run.description, total=run.total_steps, initial=run.step, unit="step",
                mininterval=1.0, dynamic_ncols=True,
            )  # fmt: skip

    def on_train_batch_begin(self, batch, logs=None):
        self.model.reset_metrics()  # so that logs are of one step, and a NaN is found at its step

    def on_train_batch_end(self, batch, logs=None):
        run, passes = self._run, len(self._run.history)
        run.add(logs)
        now = time.monotonic()
        if (
            self._checkpoint is not None
            and now - self._saved_at >= self._checkpoint_s
            and run.step < run.total_steps
        ):
            run.save(self._checkpoint)
            self._saved_at = time.monotonic()
        if self._bar is not None:
            self._bar.update()
        if len(run.history) > passes:
            self._report(run.history[-1], now)

    def _report(self, metadata, now):
        shown = ", ".join(
            f"{k} {v:.3f}" for k, v in metadata.items() if k not in ("step", "epoch", "learning_rate")
        )
        if self._bar is not None:
            self._bar.set_postfix_str(shown)
        elif now - self._reported_at >= _LOG_SECONDS or self._run.step == self._run.total_steps:
            passes = self._run.total_steps / self._run.steps_per_epoch
            seconds, self._reported_at = now - self._reported_at, now
            logging.info(
                "%s: pass %.1f of %.1f, %s (%.1f s)",
                self._run.description,
                metadata["epoch"],
                passes,
                shown,
                seconds,
            )

    def on_train_end(self, logs=None):
        if self._bar is not None:
            self._bar.close()


def _check_divisible(batches, replicas, parts, settings_prefix):
    if replicas * parts == 1:
        return
    element = batches.dataset(0, 1).element_spec[0]
    size = keras.tree.flatten(element)[0].shape[0]
    if size is not None and size % (replicas * parts):
        devices = f"{replicas} devices" if replicas > 1 else "one device"
        raise UsageError(
            f"Expected a batch that {devices} divide into {parts} equal parts each; received {size} rows a "
            f"step (images, or whole bags). Change {settings_prefix}batch_images or "
            f"{settings_prefix}accumulate_steps."
        )
