"""What one optimizer step is: the update rule and its schedule, and gradients from micro-batches.

With gradients g_m of n equal micro-batches, a step applies (1/n) sum_m g_m. Losses are means over all
rows, weighted or not, so this is the gradient of the whole batch. Keras' own
`gradient_accumulation_steps` is not used: it counts micro-batches as steps of the run, averages
weights (EMA) after each of them, and with loss scaling it drops one overflown part of a step.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from urnet_tf.errors import UsageError


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """The update rule and its schedule.

    Attributes:
      optimizer: "adamw" or "sgd".
      learning_rate: the peak.
      warmup_fraction: share of the steps with a rising rate.
      weight_decay: decoupled, times the learning rate.
      momentum: of sgd.
      clip_norm: largest norm of each variable's gradient over the whole step; None = off.
      ema: momentum of averaged weights, which replace the weights at the end; None = off.
    """

    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    warmup_fraction: float = 0.05
    weight_decay: float = 1e-4
    momentum: float = 0.9
    clip_norm: float | None = None
    ema: float | None = None


class Trainee(keras.Model):
    """A functional model as `fit` trains it: the layers, and so the weights, of `model` itself.

    Keras' own train step, but for two things. The rows of a step go through the network in
    `micro_batches` equal parts, one after the other, of which only the summed gradients are kept.
    And where gradients are clipped or tested for overflow, devices add theirs up before, not after.

    Batch normalization sees micro-batches: it normalizes with their statistics, and its moving
    averages move once a micro-batch.

    Args:
      model: functional, with any inputs and outputs.
      micro_batches: parts of a step; must divide the rows of each device.
    """

    def __init__(self, model: keras.Model, micro_batches: int = 1):
        super().__init__(model.input, model.output, name=model.name)
        self.micro_batches = micro_batches

    def save(self, filepath: str | os.PathLike, overwrite: bool = True, **settings: Any) -> None:
        """Writes the functional model, which needs no class of ours: for callbacks that keep the best one."""
        keras.Model(self.input, self.output, name=self.name).save(filepath, overwrite, **settings)

    def train_step(self, data: tuple) -> dict[str, tf.Tensor]:
        weights = self.trainable_weights
        gradients = self._gradients(data) if self.micro_batches == 1 else self._mean_gradients(data)
        if tf.distribute.get_strategy().num_replicas_in_sync > 1 and _looks_at_gradients(self.optimizer):
            context = tf.distribute.get_replica_context()  # the optimizer's own sum then restores the scale
            gradients = context.all_reduce(tf.distribute.ReduceOp.MEAN, gradients)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        found = self.get_metrics_result()
        if self._spans_machines:  # Keras takes the mean over machines along an axis that scalars lack
            found = {name: tf.reshape(value, [1]) for name, value in found.items()}
        return found

    @property
    def _spans_machines(self) -> bool:
        return isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Keras' own on one device's batch: over several machines it fails to reduce a structure.

        Source: https://github.com/keras-team/keras/issues/20585
        """
        if not self._spans_machines or iterator is None:
            return super()._maybe_symbolic_build(iterator, data_batch)
        _, _, batches = next(iter(iterator))
        first = keras.tree.map_structure(
            lambda value: self.distribute_strategy.experimental_local_results(value)[0], next(batches)
        )
        return super()._maybe_symbolic_build(data_batch=first)

    def _gradients(self, data: tuple) -> list[tf.Tensor]:
        x, y, sample_weight = data
        with tf.GradientTape() as tape:
            predictions = self(x, training=True)
            loss = self.compute_loss(x, y, predictions, sample_weight, training=True)
            scaled = self.optimizer.scale_loss(loss)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        rows = tf.shape(keras.tree.flatten(x)[0])[0]
        tracker = next(metric for metric in self.metrics if metric.name == "loss")
        tracker.update_state(loss * replicas, sample_weight=rows)
        self.compute_metrics(x, y, predictions, sample_weight=sample_weight)
        return tape.gradient(
            scaled, self.trainable_weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )

    def _mean_gradients(self, data: tuple) -> list[tf.Tensor]:
        parts = keras.tree.map_structure(
            lambda rows: tf.reshape(rows, (self.micro_batches, -1, *rows.shape[1:])), data
        )

        def add(part: tf.Tensor, sums: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
            gradients = self._gradients(keras.tree.map_structure(lambda rows: rows[part], parts))
            return part + 1, [total + new for total, new in zip(sums, gradients, strict=True)]

        sums = [tf.zeros(v.shape, v.dtype) for v in self.trainable_weights]
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            _, sums = tf.while_loop(
                lambda part, _: part < self.micro_batches, add, (0, sums), parallel_iterations=1
            )
        else:  # devices cannot exchange statistics inside of a loop; the order keeps the memory small
            for part in range(self.micro_batches):
                with tf.control_dependencies(sums):
                    _, sums = add(part, sums)
        return [total / self.micro_batches for total in sums]


def build_optimizer(
    model: keras.Model,
    total_steps: int,
    options: OptimizerOptions = OptimizerOptions(),  # noqa: B008  it is frozen
    rates: Mapping[str, float] | None = None,
) -> tuple[keras.optimizers.Optimizer, keras.optimizers.schedules.LearningRateSchedule]:
    """Builds AdamW or SGD with a linear warm-up and a cosine decay to zero over `total_steps`.

    A model of float16 gets a loss scale around it: it halves, and the step is left out, whenever a
    gradient is not finite, and doubles every 2,000 steps. Steps left out do not advance the schedule.

    Args:
      model: its biases and normalization weights (rank below 2) are kept from weight decay.
      total_steps: steps of the whole run.
      rates: path of a variable → its learning rate as a share of the others'; None = all alike.

    Raises:
      UsageError: an unknown optimizer.
    """
    warmup = min(int(round(options.warmup_fraction * total_steps)), total_steps - 1)
    peak, clip_norm = options.learning_rate, options.clip_norm
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=peak / (warmup + 1) if warmup else peak,
        decay_steps=total_steps - warmup,
        warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )
    replicas = model.distribute_strategy.num_replicas_in_sync
    common = {
        "learning_rate": schedule,
        "weight_decay": options.weight_decay or None,
        "clipnorm": clip_norm / replicas if clip_norm is not None else None,  # it sees a device's share
        "use_ema": options.ema is not None,
        "ema_momentum": 0.99 if options.ema is None else options.ema,
    }
    if rates:
        common["weight_decay"] = None  # `Scaled` has its own
    elif options.optimizer == "adamw":
        common["weight_decay"] = options.weight_decay  # AdamW takes no None
    if options.optimizer == "adamw":
        rule = ScaledAdam(**common) if rates else keras.optimizers.AdamW(**common)
    elif options.optimizer == "sgd":
        rule = (ScaledSGD if rates else keras.optimizers.SGD)(momentum=options.momentum, **common)
    else:
        raise UsageError(f"Expected the optimizer adamw or sgd; received {options.optimizer!r}.")
    if rates:
        rule.rates, rule.decay = dict(rates), options.weight_decay
    rule.exclude_from_weight_decay(var_list=[v for v in model.trainable_variables if len(v.shape) < 2])
    if model.dtype_policy.name == "mixed_float16":
        rule = keras.optimizers.LossScaleOptimizer(rule)
    return rule, schedule


class Scaled(keras.optimizers.Optimizer):
    """Variables with learning rates, and so decay, of their own: a share of the schedule's each.

    Public names, since Keras makes scopes of them in which TensorFlow allows no leading underscore.
    """

    rates: Mapping[str, float]  # by path
    decay: float

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        # TensorFlow's own variable comes here, which knows no path.
        path = self._trainable_variables[self._get_variable_index(variable)].path
        rate = learning_rate * self.rates.get(path, 1.0)
        if self.decay and self._use_weight_decay(variable):
            self.assign_sub(variable, variable * keras.ops.cast(rate * self.decay, variable.dtype))
        super().update_step(gradient, variable, rate)


class ScaledAdam(Scaled, keras.optimizers.Adam):
    pass


class ScaledSGD(Scaled, keras.optimizers.SGD):
    pass


def _looks_at_gradients(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether a step depends on more than sums of gradients: their norms, or whether they are finite."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or optimizer.clipnorm is not None
