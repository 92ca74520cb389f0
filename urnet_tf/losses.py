"""Cross entropy and accuracy on sparse soft targets: no row of length C is ever made on the host.

A target is float32 [..., 2K]: K class ids, then their K probabilities. An id may occur more than
once; its probabilities add. With logits z [..., C] and smoothing e,

  loss = sum_k p_k (logsumexp(z) - (1 - e) z[id_k] - e mean(z))

which is the cross entropy of softmax(z) to the target mixed with e parts of the uniform one.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="urnet_tf")
class SparseSoftCrossEntropy(keras.losses.Loss):
    """Cross entropy between packed sparse soft targets [..., 2K] and predictions [..., C].

    Keep the reduction `sum_over_batch_size`: weights of mean 1 then leave the learning rate alone,
    and several replicas give the result of one.

    Args:
      from_logits: whether predictions are logits (else probabilities).
      label_smoothing: share e of the uniform distribution in the target.
    """

    def __init__(
        self,
        from_logits: bool = True,
        label_smoothing: float = 0.0,
        reduction: str = "sum_over_batch_size",
        name: str = "sparse_soft_cross_entropy",
        **kwargs,
    ):
        super().__init__(name=name, reduction=reduction, **kwargs)
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        ids, probs = unpack_targets(y_true)
        logits = y_pred if self.from_logits else ops.log(ops.maximum(y_pred, keras.config.epsilon()))
        log_norm = ops.logsumexp(logits, axis=-1, keepdims=True) if self.from_logits else 0.0
        smoothing = self.label_smoothing
        expected = (1.0 - smoothing) * ops.take_along_axis(logits, ids, axis=-1)
        if smoothing:
            expected = expected + smoothing * ops.mean(logits, axis=-1, keepdims=True)
        return ops.sum(probs * (log_norm - expected), axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "from_logits": self.from_logits,
            "label_smoothing": self.label_smoothing,
        }


@keras.saving.register_keras_serializable(package="urnet_tf")
class SparseSoftAccuracy(keras.metrics.Mean):
    """Share of predictions whose largest entry is the target's most probable class."""

    def __init__(self, name: str = "accuracy", **kwargs):
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true, y_pred, sample_weight=None):
        ids, probs = unpack_targets(ops.convert_to_tensor(y_true, dtype="float32"))
        best = ops.take_along_axis(ids, ops.argmax(probs, axis=-1, keepdims=True), axis=-1)
        hits = ops.equal(ops.cast(ops.argmax(y_pred, axis=-1), "int32"), best[..., 0])
        return super().update_state(ops.cast(hits, self.dtype), sample_weight=sample_weight)


def unpack_targets(targets):
    """Splits packed targets float32 [..., 2K] into ids int32 [..., K] and probabilities [..., K]."""
    ids, probs = ops.split(targets, 2, axis=-1)
    return ops.cast(ids, "int32"), probs
