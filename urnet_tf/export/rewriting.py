"""Copies of a Keras model that compute the same in another way, as file formats and servers need it."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from urnet_tf.errors import UsageError
from urnet_tf.export.preparation import Preparation

if TYPE_CHECKING:
    import keras

LOGITS, FEATURES, NONE_OF_THESE = "logits", "features", "none_of_these"


def with_named_outputs(model: "keras.Model") -> "keras.Model":
    """The model, images → a dictionary of outputs.

    Args:
      model: Keras model images → logits [B, C]; or → a dictionary of `logits` and, where there are
        such, `features` [B, D] and `none_of_these` [B] or [B, 1], the probability that an image
        belongs to no class. Where only the logits are given and a dense layer makes them, what
        enters that layer becomes `features`.

    Raises:
      UsageError: other outputs.
    """
    import keras

    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    names = {LOGITS, FEATURES, NONE_OF_THESE}
    if isinstance(model.output, dict):
        if LOGITS in model.output and set(model.output) <= names:
            return model
        received = ", ".join(model.output)
        raise UsageError(f"Expected outputs {LOGITS}, {FEATURES}, {NONE_OF_THESE}; received {received}.")
    if len(model.outputs) != 1:
        raise UsageError(f"Expected a model with one output or named ones; it has {len(model.outputs)}.")
    outputs, last = {LOGITS: model.outputs[0]}, model.layers[-1]
    activation = getattr(last, "activation", None)
    if isinstance(last, keras.layers.Softmax) or activation is keras.activations.softmax:
        raise UsageError(
            f"Expected a model that ends in logits; its last layer {last.name} is a softmax, which every "
            "export adds itself. Leave it out: keras.Model(model.input, <what enters the softmax>)."
        )
    if isinstance(last, keras.layers.Dense) and last.output is outputs[LOGITS]:
        outputs[FEATURES] = last.input
    return keras.Model(model.input, outputs, name=model.name)


def layers_of(model: "keras.Model") -> Iterator["keras.layers.Layer"]:
    """All layers, those of nested models too."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from layers_of(layer)


def float32_copy(model: "keras.Model") -> "keras.Model":
    """The model itself when it computes in float32, else a copy with the same weights that does."""
    if all(layer.compute_dtype == "float32" for layer in layers_of(model)):
        return model
    return _changed_copy(model, "DTypePolicy", lambda node: {**node, "config": {"name": "float32"}})


def with_keras_normalization(model: "keras.Model") -> "keras.Model":
    """A copy whose batch normalization is Keras' own, so that its file needs no layer of this package for it.

    The model itself where it has no other. Results agree but for the rounding, see `FusedBatchNormalization`.
    """
    import keras

    from urnet_tf.models.batch_normalization import FusedBatchNormalization

    if not any(isinstance(layer, FusedBatchNormalization) for layer in layers_of(model)):
        return model
    plain = keras.saving.serialize_keras_object(keras.layers.BatchNormalization())
    identity = {key: plain[key] for key in ("module", "class_name", "registered_name")}
    return _changed_copy(model, FusedBatchNormalization.__name__, lambda node: {**node, **identity})


def with_preparation(model: "keras.Model", preparation: Preparation) -> "keras.Model":
    """Pictures uint8 [n, h, w, 3] of any size → what the model, images → logits, says of their plain view."""
    import keras

    from urnet_tf.models.image_preparation import ImagePreparation

    pictures = keras.Input((None, None, 3), dtype="uint8", name="pictures")
    prepare = ImagePreparation(
        preparation.image_size_px, preparation.crop_fraction, preparation.short_side_px, name="preparation"
    )
    return keras.Model(pictures, model(prepare(pictures)), name=model.name)


def _changed_copy(model: "keras.Model", class_name: str, change: Callable) -> "keras.Model":
    """A copy with the same weights in which `change` has met the description of each object of a class."""
    import keras

    def changed(node: Any) -> Any:
        if isinstance(node, (list, tuple)):
            return type(node)(changed(v) for v in node)
        if not isinstance(node, dict):
            return node
        if node.get("class_name") == class_name:
            node = change(node)
        return {key: changed(value) for key, value in node.items()}

    copy = keras.saving.deserialize_keras_object(changed(keras.saving.serialize_keras_object(model)))
    copy.set_weights(model.get_weights())
    return copy


def with_grouped_convolutions(model: "keras.Model", implementation: str) -> "keras.Model":
    """A copy whose grouped convolutions compute so; the model itself when it has none.

    Keras' own grouped convolutions of one channel a group become depthwise ones.
    """
    import keras

    from urnet_tf.models.depthwise_convolution import with_depthwise_convolutions
    from urnet_tf.models.grouped_convolution import GroupedConv2D, with_implementation

    model = with_depthwise_convolutions(model)
    if not any(isinstance(layer, GroupedConv2D) for layer in layers_of(model)):
        return model
    return with_implementation(keras.Model(model.input, model.output), implementation)


def tf_variables(model: "keras.Model") -> list:
    """The TensorFlow variables to write, each once; without the seeds of dropout, which is off."""
    return [v.value for v in model.weights]
