"""Cross entropy and accuracy on sparse soft targets: no row of length C is ever made on the host.

A target is float32 [..., 2, K]: K class ids over their K probabilities, as `feed.targets` packs it. An id
may occur more than once; its probabilities add. With logits z [..., C], p = softmax(z) and smoothing e,

  loss = sum_k t_k ((1 - e) l(p[id_k]) + e mean_c l(p_c)),    cross entropy: l(p) = -log p

which for cross entropy is the one to the target mixed with e parts of the uniform distribution;
`robust_losses` has other l(p). The loss is linear in the target, so that mixed and weighted rows have
exactly the mixture of their losses.

With logit adjustment z is the model's logits + tau log(class share), in the loss alone: what the model
itself says is then corrected for the class sizes, as class weights do in another way.

Source: Menon et al., Long-tail Learning via Logit Adjustment, 2021.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from urnet_tf.feed.targets import unpack_targets

if TYPE_CHECKING:
    import tensorflow as tf


@keras.saving.register_keras_serializable(package="urnet_tf")
class SparseSoftLoss(keras.losses.Loss):
    """Loss between packed soft targets [..., 2, K] and logits [..., C]; children say what a class costs.

    Other targets are refused with `UsageError` when the step is traced. Keep the reduction
    `sum_over_batch_size`: weights of mean 1 then leave the learning rate alone, and several replicas give
    the result of one.

    Args:
      label_smoothing: share e of the uniform distribution in the target.
      logit_offsets: C numbers that are added to the logits; None = none.

    Attributes:
      needs_instance_ids: whether targets must be [..., 3, K], with the instance ids. Such a loss remembers
        instances, so that it works on one device only, and on rows that are not mixed.
    """

    needs_instance_ids = False

    def __init__(
        self,
        label_smoothing: float = 0.0,
        logit_offsets: Sequence[float] | None = None,
        reduction: str = "sum_over_batch_size",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, reduction=reduction, **kwargs)
        self.label_smoothing = label_smoothing
        self.logit_offsets = None if logit_offsets is None else [float(offset) for offset in logit_offsets]

    def call(self, y_true: "tf.Tensor", y_pred: "tf.Tensor") -> "tf.Tensor":
        ids, probs = unpack_targets(y_true, y_pred)
        log_probs = ops.log_softmax(self.adjust(y_pred), axis=-1)
        cost = self.class_cost(ops.take_along_axis(log_probs, ids, axis=-1))
        if self.label_smoothing:
            uniform = ops.mean(self.class_cost(log_probs), axis=-1, keepdims=True)
            cost = (1.0 - self.label_smoothing) * cost + self.label_smoothing * uniform
        return ops.sum(probs * cost, axis=-1)

    @property
    def state(self) -> list:
        """Variables that change from call to call, which a checkpoint must keep."""
        return []

    def for_bags(self) -> "SparseSoftLoss":
        """The loss for outputs of bags, whose targets never hold instance ids."""
        return self

    def class_cost(self, log_prob: "tf.Tensor") -> "tf.Tensor":
        """The loss l(p) of a sure target by the logarithm of its class's probability, of any shape."""
        raise NotImplementedError

    def adjust(self, logits: "tf.Tensor") -> "tf.Tensor":
        """Logits [..., C] with the offsets."""
        return logits if self.logit_offsets is None else logits + ops.array(self.logit_offsets, "float32")

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
            "logit_offsets": self.logit_offsets,
        }


@keras.saving.register_keras_serializable(package="urnet_tf")
class SparseSoftCrossEntropy(SparseSoftLoss):
    """Cross entropy, which also takes probabilities.

    Example:
      >>> import numpy as np, urnet_tf
      >>> targets = urnet_tf.pack_targets([[0, 1]], [[0.75, 0.25]])
      >>> round(float(urnet_tf.SparseSoftCrossEntropy()(targets, np.log([[0.5, 0.5]]))), 4)
      0.6931

    Args:
      from_logits: whether predictions are logits (else probabilities).
      label_smoothing, logit_offsets, reduction: see `SparseSoftLoss`.
    """

    def __init__(
        self,
        from_logits: bool = True,
        label_smoothing: float = 0.0,
        name: str = "sparse_soft_cross_entropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(label_smoothing, name=name, **kwargs)
        self.from_logits = from_logits

    def call(self, y_true: "tf.Tensor", y_pred: "tf.Tensor") -> "tf.Tensor":
        ids, probs = unpack_targets(y_true, y_pred)
        logits = y_pred if self.from_logits else ops.log(ops.maximum(y_pred, keras.config.epsilon()))
        logits = self.adjust(logits)
        normalized = not self.from_logits and self.logit_offsets is None
        log_norm = 0.0 if normalized else ops.logsumexp(logits, axis=-1, keepdims=True)
        smoothing = self.label_smoothing
        expected = (1.0 - smoothing) * ops.take_along_axis(logits, ids, axis=-1)
        if smoothing:
            expected = expected + smoothing * ops.mean(logits, axis=-1, keepdims=True)
        return ops.sum(probs * (log_norm - expected), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "from_logits": self.from_logits}


@keras.saving.register_keras_serializable(package="urnet_tf")
class SparseSoftAccuracy(keras.metrics.Mean):
    """Share of predictions whose largest entry is the target's most probable class."""

    def __init__(self, name: str = "accuracy", **kwargs: Any):
        super().__init__(name=name, **kwargs)
        self._direction = "up"  # what Keras' callbacks look at in their mode "auto"

    def update_state(
        self, y_true: "tf.Tensor", y_pred: "tf.Tensor", sample_weight: "tf.Tensor | None" = None
    ) -> None:
        ids, probs = unpack_targets(ops.convert_to_tensor(y_true, dtype="float32"), y_pred)
        best = ops.take_along_axis(ids, ops.argmax(probs, axis=-1, keepdims=True), axis=-1)
        hits = ops.equal(ops.cast(ops.argmax(y_pred, axis=-1), "int32"), best[..., 0])
        return super().update_state(ops.cast(hits, self.dtype), sample_weight=sample_weight)
