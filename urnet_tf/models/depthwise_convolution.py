"""Grouped convolutions of one input channel a group, as Keras' depthwise ones.

`keras.applications.ConvNeXt*` has `Conv2D(groups=channels)`. Keras compiles that with XLA on TensorFlow,
which no converter to ONNX follows and which is slow on CPUs: a training step of ConvNeXt-Tiny (64 px,
8 images, float32, two cores) took 4.3 times as long as with `DepthwiseConv2D`
(experiments/benchmarks/bench_depthwise.py). Both compute the same from the same numbers: (kh, kw, 1, C * m)
there is (kh, kw, C, m) here.
"""

from collections.abc import Iterator
from typing import Any

import keras

_SHARED_KEYS = (
    "name", "trainable", "dtype", "kernel_size", "strides", "padding", "data_format", "dilation_rate",
    "activation", "use_bias", "bias_initializer", "bias_regularizer", "bias_constraint",
    "activity_regularizer",
)  # fmt: skip
_OF_THE_KERNEL = ("initializer", "regularizer", "constraint")


def with_depthwise_convolutions(model: keras.Model) -> keras.Model:
    """A copy whose convolutions of one channel a group are `DepthwiseConv2D`, nested models included.

    Names, weights, dtypes and what is frozen stay. The model itself where it has no such convolution.

    Args:
      model: a functional or sequential model, built, that Keras can read back from its description.
    """
    if not any(_is_depthwise(layer) for layer in leaves(model)):
        return model
    copy = keras.saving.deserialize_keras_object(_changed(keras.saving.serialize_keras_object(model)))
    for ours, theirs in zip(copy.weights, model.weights, strict=True):
        ours.assign(keras.ops.reshape(theirs, ours.shape))
    return copy


def _is_depthwise(layer: keras.layers.Layer) -> bool:
    if type(layer) is not keras.layers.Conv2D or not layer.built:
        return False
    return _can_be_depthwise(layer.groups, layer.kernel.shape[2], layer.strides, layer.data_format)


def _can_be_depthwise(groups: int, channels_per_group: int, strides: Any, data_format: str) -> bool:
    one_stride = len(set(strides)) == 1  # all that TensorFlow's depthwise convolution takes
    return groups > 1 and channels_per_group == 1 and one_stride and data_format == "channels_last"


def leaves(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a model and of those inside of it, in order."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer


def _changed(node: Any) -> Any:
    """A description of Keras objects with the convolutions exchanged."""
    if isinstance(node, (list, tuple)):
        return type(node)(_changed(item) for item in node)
    if not isinstance(node, dict):
        return node
    if node.get("class_name") == "Conv2D" and node.get("build_config"):
        config, channels = node["config"], node["build_config"]["input_shape"][-1]
        groups = config["groups"]
        if _can_be_depthwise(groups, channels // groups, config["strides"], config["data_format"]):
            return node | {"class_name": "DepthwiseConv2D", "config": _depthwise(config)}
    return {key: _changed(value) for key, value in node.items()}


def _depthwise(config: dict[str, Any]) -> dict[str, Any]:
    kernel = {f"depthwise_{part}": config[f"kernel_{part}"] for part in _OF_THE_KERNEL}
    multiplier = {"depth_multiplier": config["filters"] // config["groups"]}
    return {key: config[key] for key in _SHARED_KEYS if key in config} | kernel | multiplier
