"""Losses for wrong labels and for rare classes, on the sparse soft targets of `losses`.

What a sure target costs, p being the probability of its class:

  gce    generalized cross entropy  (1 - p^q) / q
  sce    symmetric cross entropy    -log p + 4 r (1 - p)
  focal                             -(1 - p)^gamma log p
  elr    early learning             -log p + lambda log(1 - <m, p>)

where in the last p and m are vectors, m the moving average of the predictions of this instance.

Differs: a soft target's loss is the mean of its classes' losses. The papers define theirs for one
class; for the symmetric one, whose reverse part holds the logarithm of the target, this is a choice.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from urnet_tf.errors import UsageError
from urnet_tf.feed.targets import unpack_instance_ids, unpack_targets
from urnet_tf.training.losses import SparseSoftCrossEntropy, SparseSoftLoss

_LARGEST_MEMORY = 2 * 10**9  # bytes


@keras.saving.register_keras_serializable(package="urnet_tf")
class GeneralizedCrossEntropy(SparseSoftLoss):
    """(1 - p^q) / q: between cross entropy (q toward 0) and the mean absolute error / 2 (q = 1).

    Example:
      >>> import numpy as np, urnet_tf
      >>> targets = urnet_tf.pack_targets([[0]], [[1.0]])
      >>> round(float(urnet_tf.GeneralizedCrossEntropy(q=1.0)(targets, np.log([[0.5, 0.5]]))), 4)
      0.5

    Source: Zhang & Sabuncu, Generalized Cross Entropy Loss for Training Deep Neural Networks with
    Noisy Labels, 2018.
    """

    def __init__(self, q: float = 0.7, name: str = "generalized_cross_entropy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.q = q

    def class_cost(self, log_prob: tf.Tensor) -> tf.Tensor:
        return -ops.expm1(self.q * log_prob) / self.q

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "q": self.q}


@keras.saving.register_keras_serializable(package="urnet_tf")
class SymmetricCrossEntropy(SparseSoftLoss):
    """Cross entropy plus `reverse` times the reverse cross entropy, with log 0 = -4.

    Example:
      >>> import numpy as np, urnet_tf
      >>> targets = urnet_tf.pack_targets([[0]], [[1.0]])
      >>> round(float(urnet_tf.SymmetricCrossEntropy(reverse=1.0)(targets, np.log([[0.5, 0.5]]))), 4)
      2.6931

    Args:
      reverse: beta / alpha of the paper; its loss is alpha times this one, which is a matter of the
        learning rate. The paper takes 10 for 10 classes and 1 / 60 for 100.

    Source: Wang et al., Symmetric Cross Entropy for Robust Learning with Noisy Labels, 2019.
    """

    def __init__(self, reverse: float = 1.0, name: str = "symmetric_cross_entropy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.reverse = reverse

    def class_cost(self, log_prob: tf.Tensor) -> tf.Tensor:
        return -log_prob - self.reverse * 4.0 * ops.expm1(log_prob)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "reverse": self.reverse}


@keras.saving.register_keras_serializable(package="urnet_tf")
class FocalLoss(SparseSoftLoss):
    """-(1 - p)^gamma log p: what is already right counts less. Made for rare classes, not for noise.

    Example:
      >>> import numpy as np, urnet_tf
      >>> targets = urnet_tf.pack_targets([[0]], [[1.0]])
      >>> round(float(urnet_tf.FocalLoss(gamma=2.0)(targets, np.log([[0.5, 0.5]]))), 4)
      0.1733

    Source: Lin et al., Focal Loss for Dense Object Detection, 2017, Eq. 4.
    Differs: softmax for sigmoid.
    """

    def __init__(self, gamma: float = 2.0, name: str = "focal", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.gamma = gamma

    def class_cost(self, log_prob: tf.Tensor) -> tf.Tensor:
        wrong = ops.maximum(-ops.expm1(log_prob), 1e-7)  # 0^gamma has no gradient for gamma < 1
        return -ops.power(wrong, self.gamma) * log_prob

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gamma": self.gamma}


@keras.saving.register_keras_serializable(package="urnet_tf")
class EarlyLearningLoss(SparseSoftLoss):
    """Cross entropy + weight log(1 - <m, p>), m the moving average of an instance's own predictions.

    Example:
      >>> import numpy as np, urnet_tf
      >>> loss = urnet_tf.EarlyLearningLoss(num_instances=10, num_classes=2)
      >>> targets = urnet_tf.pack_targets([[0]], [[1.0]], instance_ids=[7])
      >>> round(float(loss(targets, np.log([[0.5, 0.5]]))), 4)  # -log 0.5 + 3 log(1 - 0.15)
      0.2056

    It holds a row of C float16 numbers for every instance, 2 N C bytes, up to 2 GB. Targets are
    [..., 3, K]: the third row is the instance id, as `dataset(..., instance_ids=True)` of the
    batches gives it. Every call moves the averages, so call it once a step, and on one device. An
    instance that is there twice in a call moves its average once, by its first row. The memory is not
    a part of the serialized loss; `fit_model` keeps it in its checkpoints.

    Args:
      num_instances: N.
      num_classes: C.
      weight: lambda.
      momentum: of the averages, beta of the paper.

    Raises:
      UsageError: the memory would exceed 2 GB.

    Source: Liu et al., Early-Learning Regularization Prevents Memorization of Noisy Labels, 2020.
    Differs: 1 - <m, p> is held at 1e-4 or more, where the authors' code holds each p.
    """

    needs_instance_ids = True

    def __init__(
        self, num_instances: int, num_classes: int, weight: float = 3.0, momentum: float = 0.7,
        name: str = "early_learning", **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(name=name, **kwargs)
        if 2 * num_instances * num_classes > _LARGEST_MEMORY:
            raise UsageError(
                f"Expected at most {_LARGEST_MEMORY / 10**9:.0f} GB for the memory of the loss elr; "
                f"{num_instances:,} images x {num_classes:,} classes take "
                f"{2 * num_instances * num_classes / 10**9:.1f} GB. Take gce or sce, which need none."
            )
        self.num_instances, self.num_classes = num_instances, num_classes
        self.weight, self.momentum = weight, momentum
        self.memory = tf.Variable(tf.zeros((num_instances, num_classes), tf.float16), trainable=False)

    def class_cost(self, log_prob: tf.Tensor) -> tf.Tensor:
        return -log_prob

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        unpack_targets(y_true, y_pred)
        ids = ops.reshape(unpack_instance_ids(y_true), (-1,))
        probs = ops.softmax(self.adjust(y_pred), axis=-1)
        same = ops.cast(ops.equal(ids[:, None], ids[None, :]), "int32")
        predicted = ops.take(ops.reshape(probs, (-1, self.num_classes)), ops.argmax(same, axis=1), axis=0)
        before = ops.cast(tf.gather(self.memory, ids), "float32")
        average = self.momentum * before + (1.0 - self.momentum) * ops.stop_gradient(predicted)
        self.memory.scatter_update(tf.IndexedSlices(ops.cast(average, "float16"), ids))
        agreement = ops.sum(ops.reshape(average, ops.shape(probs)) * probs, axis=-1)
        return super().call(y_true, y_pred) + self.weight * ops.log(ops.maximum(1.0 - agreement, 1e-4))

    @property
    def state(self) -> list:
        return [self.memory]

    def for_bags(self) -> SparseSoftCrossEntropy:
        """The loss without its memory."""
        return SparseSoftCrossEntropy(label_smoothing=self.label_smoothing, logit_offsets=self.logit_offsets)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_instances": self.num_instances,
            "num_classes": self.num_classes,
            "weight": self.weight,
            "momentum": self.momentum,
        }


def build_loss(
    kind: str = "cross_entropy",
    *,
    gce_q: float = 0.7,
    sce_reverse: float = 1.0,
    focal_gamma: float = 2.0,
    elr_weight: float = 3.0,
    elr_momentum: float = 0.7,
    logit_adjustment: float = 0.0,
    label_smoothing: float = 0.0,
    class_counts: np.ndarray | None = None,
    num_instances: int | None = None,
) -> SparseSoftLoss:
    """Builds a loss by its short name; settings of other losses are left alone.

    Args:
      kind: "cross_entropy", "gce", "sce", "focal" or "elr".
      gce_q: q of `GeneralizedCrossEntropy`.
      sce_reverse: `reverse` of `SymmetricCrossEntropy`.
      focal_gamma: gamma of `FocalLoss`.
      elr_weight, elr_momentum: of `EarlyLearningLoss`.
      logit_adjustment: tau, with any loss; a class without images counts as one with a single image.
      label_smoothing: share of the uniform distribution in every target, with any loss.
      class_counts: int [C], training images of each class; for elr and for logit adjustment.
      num_instances: one more than the largest instance id; for elr.

    Raises:
      UsageError: an unknown kind, metadata that it needs are missing, or too large a memory.
    """
    common: dict[str, Any] = {"label_smoothing": label_smoothing}
    if (logit_adjustment or kind == "elr") and class_counts is None:
        raise UsageError("Expected class_counts for elr and for logit adjustment; received none.")
    if logit_adjustment and class_counts is not None:
        counts = np.maximum(class_counts, 1)
        common["logit_offsets"] = logit_adjustment * np.log(counts / counts.sum())
    if kind == "cross_entropy":
        return SparseSoftCrossEntropy(**common)
    if kind == "gce":
        return GeneralizedCrossEntropy(gce_q, **common)
    if kind == "sce":
        return SymmetricCrossEntropy(sce_reverse, **common)
    if kind == "focal":
        return FocalLoss(focal_gamma, **common)
    if kind == "elr":
        if num_instances is None or class_counts is None:
            raise UsageError("Expected num_instances for the loss elr; received none.")
        return EarlyLearningLoss(num_instances, len(class_counts), elr_weight, elr_momentum, **common)
    raise UsageError(f"Expected the loss cross_entropy, gce, sce, focal or elr; received {kind!r}.")
