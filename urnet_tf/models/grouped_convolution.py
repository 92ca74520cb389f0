"""Grouped 2-D convolution with one kernel layout and two ways to compute it.

The kernel is always (kh, kw, C_in / groups, C_out), as in `Conv2D(groups=...)`, so weights move
freely between the two ways:

  native   one grouped convolution, whatever this machine can compute. Keras compiles it with XLA
           on TensorFlow, which is hundreds of times slower on CPUs and leaves an op in a SavedModel
           that servers may refuse. It need not: TensorFlow's own operation takes grouped kernels,
           on GPUs and, through oneDNN, on CPUs, gradients included. On a CPU without oneDNN it has
           no gradients, but a file for another runtime can be written all the same.
  blocked  neighboring groups are joined to blocks of about 16 channels, each a dense convolution
           with a block-diagonal kernel. Plain dense convolutions, so it runs anywhere.
  auto     native where this machine can compute it and its gradients, else blocked.

What else was tried, and how much slower it is: experiments/benchmarks/bench_grouped_convolution.py.
"""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

IMPLEMENTATIONS = ("auto", "native", "blocked")
BLOCK_CHANNELS = 16


@keras.saving.register_keras_serializable(package="urnet_tf")
class GroupedConv2D(keras.layers.Layer):
    """A grouped convolution on images [B, H, W, C_in] → [B, H', W', filters].

    Args:
      filters: output channels; `groups` must divide it and C_in.
      kernel_size: side of the kernel, or (height, width).
      strides: of both axes.
      padding: "same" (as TensorFlow pads), "valid", or a number of zeros on every side of the
        image, as PyTorch pads.
      dilation_rate: of both axes; only 1 where strides are above 1.
      groups: number of groups; input channels of one group reach its own output channels only.
      use_bias: adds a bias of [filters].
      implementation: one of IMPLEMENTATIONS.
      kernel_initializer: of the kernel.

    Raises:
      ValueError: `groups` does not divide the channels, or an unknown padding or implementation.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int = 1,
        padding: str | int = "same",
        dilation_rate: int = 1,
        groups: int = 1,
        use_bias: bool = False,
        implementation: str = "auto",
        kernel_initializer: Any = "he_normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(f"Expected one of {IMPLEMENTATIONS}; received {implementation!r}.")
        if groups < 1 or filters % groups:
            raise ValueError(f"Expected filters that {groups} groups divide; received {filters}.")
        if padding not in ("same", "valid") and not (isinstance(padding, int) and padding >= 0):
            raise ValueError(f'Expected the padding "same", "valid" or a number; received {padding!r}.')
        if strides > 1 and dilation_rate > 1:
            raise ValueError(f"Expected strides or dilation; received {strides} and {dilation_rate}.")
        self.filters = filters
        self.kernel_size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
        self.strides = strides
        self.padding = padding
        self.dilation_rate = dilation_rate
        self.groups = groups
        self.use_bias = use_bias
        self.implementation = implementation
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias = None

    def build(self, input_shape: Sequence[int | None]) -> None:
        channels = input_shape[-1]
        if channels is None or channels % self.groups:
            raise ValueError(f"Expected channels that {self.groups} groups divide; received {channels}.")
        per_group = channels // self.groups
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.kernel_size, per_group, self.filters),
            initializer=self.kernel_initializer,
        )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        self.groups_per_block = _groups_per_block(self.groups, per_group)
        self.block_mask = np.kron(
            np.eye(self.groups_per_block), np.ones((per_group, self.filters // self.groups))
        ).astype("float32")

    def call(self, images: keras.KerasTensor) -> keras.KerasTensor:
        kernel = ops.cast(self.kernel, images.dtype)
        images, padding = self._pad(images)
        native = self.groups == 1 or self.implementation == "native"
        if self.implementation == "auto" and self.dilation_rate == 1:
            native = native or runs_natively(images.dtype)
        compute = self._convolve if native else self._blocked
        result = compute(images, kernel, padding)
        return result if self.bias is None else ops.add(result, self.bias)

    def _pad(self, images: keras.KerasTensor) -> tuple[keras.KerasTensor, str]:
        """The images and the padding that is left to do, "same" or "valid"."""
        if not isinstance(self.padding, int):
            return images, self.padding
        if self.strides == 1 and all(
            2 * self.padding == self.dilation_rate * (side - 1) for side in self.kernel_size
        ):
            return images, "same"  # which is symmetric here, and saves a copy
        if self.padding:
            images = ops.pad(images, ((0, 0), *[(self.padding, self.padding)] * 2, (0, 0)))
        return images, "valid"

    def _blocked(
        self, images: keras.KerasTensor, kernel: keras.KerasTensor, padding: str
    ) -> keras.KerasTensor:
        blocks = self.groups // self.groups_per_block
        kernels = ops.split(kernel, blocks, axis=-1)
        if self.groups_per_block > 1:
            mask = ops.convert_to_tensor(self.block_mask, dtype=images.dtype)
            kernels = [ops.tile(k, (1, 1, self.groups_per_block, 1)) * mask for k in kernels]
        parts = [
            self._convolve(part, k, padding)
            for part, k in zip(ops.split(images, blocks, axis=-1), kernels, strict=True)
        ]
        return ops.concatenate(parts, axis=-1)

    def _convolve(
        self, images: keras.KerasTensor, kernel: keras.KerasTensor, padding: str
    ) -> keras.KerasTensor:
        grouped = images.shape[-1] != kernel.shape[-2]
        if grouped and keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            # ops.conv would take XLA, and leave a call of a function in exported graphs.
            return tf.nn.conv2d(images, kernel, self.strides, padding.upper(), dilations=self.dilation_rate)
        return ops.conv(images, kernel, self.strides, padding, dilation_rate=self.dilation_rate)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, height, width, _ = input_shape
        sides = zip((height, width), self.kernel_size, strict=True)
        return (batch, *(self._output_length(length, side) for length, side in sides), self.filters)

    def _output_length(self, length: int | None, side: int) -> int | None:
        if length is None:
            return None
        if self.padding == "same":
            return -(-length // self.strides)
        zeros = 2 * self.padding if isinstance(self.padding, int) else 0
        return (length + zeros - self.dilation_rate * (side - 1) - 1) // self.strides + 1

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "dilation_rate": self.dilation_rate,
            "groups": self.groups,
            "use_bias": self.use_bias,
            "implementation": self.implementation,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def with_implementation(model: keras.Model, implementation: str) -> keras.Model:
    """A copy of a functional model, nested ones included, whose grouped convolutions compute so.

    The weights are copied. Exports use it, so that a file has the same operations wherever it is made:
    "blocked" for a SavedModel, "native" for TFLite and ONNX.
    """
    copy = keras.Model.from_config(_replace(model.get_config(), implementation))
    copy.set_weights(model.get_weights())
    return copy


def _replace(config: Any, implementation: str) -> Any:
    if isinstance(config, (list, tuple)):
        return type(config)(_replace(item, implementation) for item in config)
    if not isinstance(config, dict):
        return config
    replaced = {key: _replace(value, implementation) for key, value in config.items()}
    if config.get("class_name") == "GroupedConv2D":
        replaced["config"]["implementation"] = implementation
    return replaced


def _groups_per_block(groups: int, channels_per_group: int) -> int:
    """The largest divisor of `groups` whose block has at most BLOCK_CHANNELS input channels."""
    fitting = [
        n for n in range(1, groups + 1) if groups % n == 0 and n * channels_per_group <= BLOCK_CHANNELS
    ]
    return max(fitting, default=1)


def runs_natively(dtype: Any) -> bool:
    """Whether grouped convolutions and their gradients run fast on this machine in this dtype."""
    if keras.backend.backend() != "tensorflow":
        return not keras.distribution.list_devices()[0].startswith("cpu")  # JAX fails on "gpu" without one
    return _tensorflow_agrees(keras.backend.standardize_dtype(dtype))


@functools.cache
def _tensorflow_agrees(dtype: str) -> bool:
    # Asking is the only sure way: it depends on the device, on oneDNN being built in, switched on
    # and at home on this CPU, and on the dtype. Where it is not, the gradients fail, or are wrong.
    import tensorflow as tf

    def convolve_and_derive(
        images: np.ndarray, kernel: np.ndarray
    ) -> list[np.ndarray]:  # raw gradients: tapes do not record in an init_scope
        images, kernel = tf.cast(images, dtype), tf.cast(kernel, dtype)
        layout = {"strides": [1, 1, 1, 1], "padding": "SAME"}
        result = tf.raw_ops.Conv2D(input=images, filter=kernel, **layout)
        by_kernel = tf.raw_ops.Conv2DBackpropFilter(
            input=images, filter_sizes=kernel.shape, out_backprop=result, **layout
        )
        by_images = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=images.shape, filter=kernel, out_backprop=result, **layout
        )
        return [tf.cast(value, "float64").numpy() for value in (result, by_kernel, by_images)]

    rng = np.random.default_rng(0)
    images, kernel = rng.normal(size=(2, 6, 6, 32)), rng.normal(size=(3, 3, 8, 32))
    parts = zip(np.split(images, 4, -1), np.split(kernel, 4, -1), strict=True)
    with tf.init_scope():
        try:
            grouped = convolve_and_derive(images, kernel)
        except tf.errors.OpError:
            return False
        expected = [
            np.concatenate(p, -1) for p in zip(*[convolve_and_derive(*p) for p in parts], strict=True)
        ]
    return all(np.abs(a - b).max() < 0.1 * np.abs(b).max() for a, b in zip(grouped, expected, strict=True))
