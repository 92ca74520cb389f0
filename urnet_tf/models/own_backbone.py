"""Networks that Keras opens as backbones: a `.keras` file, a preset of keras-hub, an application.

In: a network from images, whatever it ends in. Out: a Keras model image float32 [B, S, S, 3] (RGB, 0..255) →
features float32 [B, D]. A classifier is cut before its last dense layer, maps of features [B, h, w, D] and
tokens [B, n, D] are averaged, and the log says what was done.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from absl import logging
from keras import layers

from urnet_tf.backbone_names import APPLICATIONS, PREPROCESSING, application_of, preset_of
from urnet_tf.checkpoints.own_networks import find_network
from urnet_tf.checkpoints.pretrained import IMAGENET
from urnet_tf.errors import UsageError
from urnet_tf.models.applications import open_application
from urnet_tf.text_rules import quote, reason_of, show_path

_LAST_NAMES = ("logits", "predictions", "classifier", "classification_head")  # dense layers of classifiers
_SQUASHING = ("softmax", "sigmoid")
_IMAGENET_MEAN, _IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of 0..1, RGB
_CAFFE_MEAN = (103.939, 116.779, 123.68)  # of 0..255, BGR


class _Scaling(NamedTuple):
    """values * scale + offset, of one number or one a channel; reversed = BGR."""

    scale: Any = 1.0
    offset: Any = 0.0
    reversed: bool = False


_SCALINGS = {
    "none": _Scaling(),
    "zero_to_one": _Scaling(1 / 255),
    "minus_one_to_one": _Scaling(1 / 127.5, -1.0),
    "imagenet": _Scaling(
        [1 / (255 * deviation) for deviation in _IMAGENET_DEVIATION],
        [-mean / deviation for mean, deviation in zip(_IMAGENET_MEAN, _IMAGENET_DEVIATION, strict=True)],
    ),
    "caffe": _Scaling(1.0, [-mean for mean in _CAFFE_MEAN], True),
}


def build_own_backbone(
    name: str,
    image_size_px: int | None,
    weights: str | os.PathLike | None = IMAGENET,
    *,
    preprocessing: str = "auto",
    feature_layer: str | None = None,
    seed: int = 0,
) -> keras.Model:
    """Builds image float32 [B, S, S, 3] (RGB, 0..255) → features float32 [B, D] from a network at hand.

    Args:
      name: a path that ends in .keras; "keras_hub:" and a preset, a name or a folder; or
        "keras_applications:" and one of `APPLICATIONS`.
      image_size_px: S; None leaves it open.
      weights: of an application: "imagenet", which Keras downloads when they are first used, a file (see
        `models.applications`), or None = random. All others bring theirs.
      preprocessing: what the network wants to see, of `PREPROCESSING`; "auto" = the own one of a preset or
        application, and images as they are (0..255) for a `.keras` file, which normalizes them itself.
      feature_layer: the layer whose output is the features; None = the last, or what a classifier has
        before its last dense layer.
      seed: of random weights.

    Raises:
      UsageError: the network cannot be had or read, takes anything but such images, or gives no features.
    """
    if preprocessing not in PREPROCESSING:
        raise UsageError(
            f"Expected `preprocessing` of {', '.join(PREPROCESSING)}; received {quote(preprocessing)}."
        )
    if application_of(name):
        network = open_application(name, image_size_px, weights, seed)
        scaling = _SCALINGS[APPLICATIONS[application_of(name)]]
    elif preset_of(name):
        network, scaling = _open_preset(name)
    else:
        network, scaling = _read_file(name), _Scaling()
    if preprocessing != "auto":
        scaling = _SCALINGS[preprocessing]
    entrance = _check_entrance(name, network, image_size_px)
    tensor, note = _features_of(name, network, feature_layer)
    image = keras.Input((image_size_px, image_size_px, 3), name="image")
    x = image[..., ::-1] if scaling.reversed else image
    if (scaling.scale, scaling.offset) != (1.0, 0.0):
        x = layers.Rescaling(scaling.scale, scaling.offset, dtype="float32", name="rescale")(x)
    features, averaged = _averaged(name, keras.Model(entrance, tensor, name="network")(x))
    model = keras.Model(image, features, name=_model_name(name))
    seen = "as they are, 0..255" if scaling == _Scaling() else f"times {scaling.scale} plus {scaling.offset}"
    logging.info(
        "%s: features [%d] are %s%s; images are seen %s%s", name, features.shape[-1], note, averaged, seen,
        " in the order BGR" if scaling.reversed else "",
    )  # fmt: skip
    return model


def check_rereadable(model: keras.Model, name: str) -> None:
    """Makes sure that a network that is to be trained and written can be read back.

    Raises:
      UsageError: Keras cannot build it again from its own description, as with ViT of keras-hub 0.32.
    """
    try:
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    except (ValueError, TypeError, KeyError) as error:
        reason = [line for line in str(error).splitlines() if line.strip()][-1][:200]
        raise UsageError(
            f"Expected a network that Keras can read back from a file; {name} (`name`) cannot: "
            f"{reason.rstrip('.')}. Heads can be trained on its features."
        ) from None


def _read_file(name: str) -> keras.Model:
    path = find_network(name)
    try:
        return keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UsageError(
            f"Cannot read the network {show_path(str(path))} (`name`): {reason_of(error)}. Expected a "
            ".keras file of Keras layers, or of layers that are registered with Keras."
        ) from None


def _open_preset(name: str) -> tuple[keras.Model, _Scaling]:
    find_network(name)
    import keras_hub

    preset = preset_of(name)
    try:
        network = keras_hub.models.Backbone.from_preset(preset)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UsageError(
            f"Cannot open the preset {quote(preset)} of keras-hub (`name`): {reason_of(error)}."
        ) from None
    if hasattr(network, "get_vision_embeddings"):  # of images and texts, like CLIP
        image = keras.Input(network.vision_encoder.image_shape, name="images")
        network = keras.Model(image, network.get_vision_embeddings(image), name=network.name)
    try:
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
    except (ValueError, TypeError, KeyError, OSError):
        logging.warning("%s says nothing of its preprocessing: images are seen as they are, 0..255.", name)
        return network, _Scaling()
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    return network, _Scaling(scale, offset)


def _check_entrance(name: str, network: keras.Model, image_size_px: int | None) -> keras.KerasTensor:
    """The input of the network, which must take square color images of the size."""
    entrances = getattr(network, "inputs", None) or []
    shape = tuple(entrances[0].shape) if len(entrances) == 1 else ()
    if len(shape) != 4 or shape[3] not in (3, None):
        received = (
            ", ".join(str(tuple(entrance.shape)) for entrance in entrances) or "no inputs that are known"
        )
        raise UsageError(
            f"Expected a network of one input, images [batch, height, width, 3], as `name`; {name} has "
            f"{received}. Save it as a functional model of such images."
        )
    if any(side not in (None, image_size_px) for side in shape[1:3]):
        raise UsageError(
            f"Expected `image_size_px={shape[1]}`, since {name} takes images [{shape[1]}, {shape[2]}, 3] "
            f"only; received {image_size_px}."
        )
    return entrances[0]


def _features_of(name: str, network: keras.Model, feature_layer: str | None) -> tuple[keras.KerasTensor, str]:
    """What is taken for features, and a clause of what it is."""
    if feature_layer is not None:
        known = [layer.name for layer in network.layers]
        if feature_layer not in known:
            raise UsageError(
                f"Expected a layer of {name} as `feature_layer`; received {quote(feature_layer)}. The last "
                f"ones are {', '.join(known[-5:])}."
            )
        return network.get_layer(feature_layer).output, f"the output of {feature_layer}"
    outputs = network.output
    if isinstance(outputs, dict) and "features" in outputs:
        return outputs["features"], "its output called features"
    found = keras.tree.flatten(outputs)
    if len(found) != 1:
        raise UsageError(
            f"Expected a network of one output as `name`, or of one called features; {name} has "
            f"{len(found)}. Set `feature_layer`."
        )
    return _before_classes(found[0])


def _before_classes(tensor: keras.KerasTensor) -> tuple[keras.KerasTensor, str]:
    """What a classifier has before its last dense layer; else the output itself."""
    layer, squashed = _maker(tensor), False
    if isinstance(layer, layers.Softmax) or _activation(layer) in _SQUASHING:
        squashed = True
        if not isinstance(layer, layers.Dense):
            layer = _maker(layer.input)
    if isinstance(layer, layers.Dense) and (squashed or layer.name.endswith(_LAST_NAMES)):
        return layer.input, f"what enters its last dense layer, {layer.name}, which gives classes"
    return tensor, "its output"


def _maker(tensor: keras.KerasTensor) -> Any:
    return tensor._keras_history.operation


def _activation(layer: Any) -> str:
    return getattr(getattr(layer, "activation", None), "__name__", "")


def _averaged(name: str, x: keras.KerasTensor) -> tuple[keras.KerasTensor, str]:
    """Features [B, D] in float32, and a clause of what was averaged."""
    sizes: Sequence[int | None] = x.shape
    if len(sizes) not in (2, 3, 4) or sizes[-1] is None:
        raise UsageError(
            f"Expected features [batch, D], [batch, n, D] or [batch, h, w, D] of {name}; received "
            f"{tuple(sizes)}. Set `feature_layer` to another layer."
        )
    if len(sizes) == 2:
        return layers.Activation("linear", dtype="float32", name="features")(x), ""
    pooling = layers.GlobalAveragePooling2D if len(sizes) == 4 else layers.GlobalAveragePooling1D
    what = "places" if len(sizes) == 4 else "tokens"
    return pooling(dtype="float32", name="features")(x), f", averaged over {what}"


def _model_name(name: str) -> str:
    stem = pathlib.PurePath(preset_of(name) or application_of(name) or name).name.removesuffix(".keras")
    return "".join(sign if sign.isascii() and sign.isalnum() else "_" for sign in stem) or "network"
