"""Grouped 2-D convolution with one kernel layout and two ways to compute it.

The kernel is always (kh, kw, C_in / groups, C_out), as in `Conv2D(groups=...)`, so weights move
freely between the two ways:

  native   one grouped convolution. Fast on GPUs and in TFLite; on CPUs TensorFlow compiles it with
           XLA, which is slow and leaves an op in a SavedModel that servers may refuse.
  blocked  neighbouring groups are joined to blocks of about 16 channels, each a dense convolution
           with a block-diagonal kernel. Many times faster on CPUs, and made of plain ops.
  auto     native where TensorFlow sees a GPU, else blocked.
"""

import keras
import numpy as np
from keras import ops

IMPLEMENTATIONS = ("auto", "native", "blocked")
BLOCK_CHANNELS = 16


@keras.saving.register_keras_serializable(package="urnet_tf")
class GroupedConv2D(keras.layers.Layer):
    """A square grouped convolution on images [B, H, W, C_in] → [B, H', W', filters], without bias.

    Args:
      filters: output channels; `groups` must divide it and C_in.
      kernel_size: side of the kernel.
      strides: of both axes.
      padding: "same" (as TensorFlow pads) or "valid".
      groups: number of groups; input channels of one group reach its own output channels only.
      implementation: one of IMPLEMENTATIONS.
      kernel_initializer: of the kernel.

    Raises:
      ValueError: `groups` does not divide the channels, or an unknown implementation.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        padding: str = "same",
        groups: int = 1,
        implementation: str = "auto",
        kernel_initializer="he_normal",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(f"Expected one of {IMPLEMENTATIONS}; received {implementation!r}.")
        if filters % groups:
            raise ValueError(f"Expected filters that {groups} groups divide; received {filters}.")
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.padding = padding
        self.groups = groups
        self.implementation = implementation
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % self.groups:
            raise ValueError(f"Expected channels that {self.groups} groups divide; received {channels}.")
        side, per_group = self.kernel_size, channels // self.groups
        self.kernel = self.add_weight(
            name="kernel", shape=(side, side, per_group, self.filters), initializer=self.kernel_initializer
        )
        self.groups_per_block = _groups_per_block(self.groups, per_group)
        self.block_mask = np.kron(
            np.eye(self.groups_per_block), np.ones((per_group, self.filters // self.groups))
        ).astype("float32")

    def call(self, images):
        kernel = ops.cast(self.kernel, images.dtype)
        native = self.implementation == "native" or (
            self.implementation == "auto" and keras.distribution.list_devices("gpu")
        )
        if native or self.groups == 1:
            return ops.conv(images, kernel, strides=self.strides, padding=self.padding)
        return self._blocked(images, kernel)

    def _blocked(self, images, kernel):
        blocks = self.groups // self.groups_per_block
        kernels = ops.split(kernel, blocks, axis=-1)
        if self.groups_per_block > 1:
            mask = ops.convert_to_tensor(self.block_mask, dtype=images.dtype)
            kernels = [ops.tile(k, (1, 1, self.groups_per_block, 1)) * mask for k in kernels]
        parts = [
            ops.conv(part, k, strides=self.strides, padding=self.padding)
            for part, k in zip(ops.split(images, blocks, axis=-1), kernels, strict=True)
        ]
        return ops.concatenate(parts, axis=-1)

    def compute_output_shape(self, input_shape):
        def length(n):
            if n is None:
                return None
            return (
                -(-n // self.strides)
                if self.padding == "same"
                else (n - self.kernel_size) // self.strides + 1
            )

        batch, height, width, _ = input_shape
        return (batch, length(height), length(width), self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "groups": self.groups,
            "implementation": self.implementation,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def with_implementation(model: keras.Model, implementation: str) -> keras.Model:
    """A copy of a functional model, nested ones included, whose grouped convolutions compute so.

    The weights are copied. Export uses it: "blocked" for a SavedModel, "native" for TFLite.
    """
    copy = keras.Model.from_config(_replace(model.get_config(), implementation))
    copy.set_weights(model.get_weights())
    return copy


def _replace(config, implementation):
    if isinstance(config, (list, tuple)):
        return type(config)(_replace(item, implementation) for item in config)
    if not isinstance(config, dict):
        return config
    replaced = {key: _replace(value, implementation) for key, value in config.items()}
    if config.get("class_name") == "GroupedConv2D":
        replaced["config"]["implementation"] = implementation
    return replaced


def _groups_per_block(groups, channels_per_group):
    """The largest divisor of `groups` whose block has at most BLOCK_CHANNELS input channels."""
    fitting = [
        n for n in range(1, groups + 1) if groups % n == 0 and n * channels_per_group <= BLOCK_CHANNELS
    ]
    return max(fitting, default=1)
