"""Networks of `keras.applications` without their classifiers, with weights from wherever they are.

Weights are ImageNet's, which Keras downloads; a file of Keras weights (`.h5`), with the classifier or not;
or, read without PyTorch, a checkpoint (`.safetensors`, `.pth`): of ConvNeXt as timm, torchvision, Hugging
Face or its authors publish it, of EfficientNetV2 timm's. With such a checkpoint ConvNeXt ends as its own
network does: in the mean over places, normalized. Keras' network without its classifier normalizes at each
place, and the mean is taken of that.
"""

import os
import pathlib
import random
import warnings
from typing import Any

import keras
from absl import logging
from keras import layers

from urnet_tf.backbone_names import application_of
from urnet_tf.checkpoints import efficientnet_v2_names
from urnet_tf.checkpoints.convnext_names import (
    LIBRARIES,
    SIZES,
    Layout,
    layout_of,
    plain_names,
    recognize_size,
)
from urnet_tf.checkpoints.own_networks import find_application
from urnet_tf.checkpoints.pretrained import IMAGENET
from urnet_tf.checkpoints.reader import read_checkpoint
from urnet_tf.checkpoints.weight_matching import copy_into, pytorch_slots
from urnet_tf.errors import UsageError
from urnet_tf.models.depthwise_convolution import leaves, with_depthwise_convolutions
from urnet_tf.text_rules import quote, reason_of, show_path

_DENSE, _CONVOLUTION, _DEPTHWISE, _VECTOR = (1, 0), (2, 3, 1, 0), (2, 3, 0, 1), (0,)  # from PyTorch's axes
_PIECES = {  # what Keras calls the layers of a block
    "depthwise_conv": "depthwise",
    "layernorm": "norm",
    "pointwise_conv_1": "expand",
    "pointwise_conv_2": "project",
    "layer_scale": "scale",
}


def open_application(
    name: str, image_size_px: int | None, weights: str | os.PathLike | None, seed: int
) -> keras.Model:
    """Builds images [B, S, S, 3] → what the network has before its classifier.

    Depthwise convolutions are `DepthwiseConv2D`, see `models.depthwise_convolution`.

    Args:
      name: "keras_applications:" and one of `backbone_names.APPLICATIONS`.
      image_size_px: S; None leaves it open.
      weights: "imagenet", a file, or None = random.
      seed: of random weights.

    Raises:
      UsageError: there is no such network, it takes no such images, or the weights cannot be had
        or do not fit.
    """
    path = find_application(name, weights)
    of_keras = path is not None and path.suffix == ".h5"
    build = getattr(keras.applications, application_of(name))
    shape = (image_size_px, image_size_px, 3)
    before = random.getstate()  # where Keras takes the seeds of its layers from
    random.seed(seed)
    try:
        network = build(
            include_top=False, weights=IMAGENET if weights == IMAGENET else None, input_shape=shape
        )
        if path is not None and of_keras:
            network = _with_keras_weights(name, build, network, path)
        network = with_depthwise_convolutions(network)
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(
            f"Cannot have the weights of {name} (`weights`): {reason_of(error)}. Keras downloads "
            f"{IMAGENET!r} when it is first used; elsewhere, give a file of its weights."
        ) from None
    except ValueError as error:
        raise UsageError(
            f"Cannot build {name} for images of {image_size_px} px (`name`): {reason_of(error)}"
        ) from None
    finally:
        random.setstate(before)
    if path is None or of_keras:
        return network
    if application_of(name) in SIZES:
        return with_convnext_weights(network, path, name)
    load_efficientnet_v2_weights(network, path, name)
    return network


def _with_keras_weights(name: str, build: Any, network: keras.Model, path: pathlib.Path) -> keras.Model:
    """The network with the weights of a file, which may be that of the whole classifier."""
    try:
        _load_all(network, path)
        return network
    except (ValueError, UserWarning):  # other layers than these
        whole = build(include_top=True, weights=None)
    try:
        _load_all(whole, path)
    except (ValueError, UserWarning) as error:
        raise UsageError(
            f"Expected Keras weights of {name} as `weights`, with its classifier or without; "
            f"{show_path(str(path))} does not fit: {reason_of(error)}"
        ) from None
    # Layers without names of their own are numbered through the process, so that only the order is the same.
    theirs = [layer for layer in whole.layers if layer.weights]
    for layer, known in zip([layer for layer in network.layers if layer.weights], theirs, strict=False):
        layer.set_weights(known.get_weights())
    return network


def _load_all(network: keras.Model, path: pathlib.Path) -> None:
    """Reads all weights of a network; Keras only warns of layers that the file does not have."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        network.load_weights(path)


def with_convnext_weights(network: keras.Model, path: pathlib.Path, name: str) -> keras.Model:
    """A ConvNeXt of Keras with the tensors of a checkpoint, images → features float32 [B, D].

    Args:
      network: without its classifier, its depthwise convolutions being `DepthwiseConv2D`; its last layer
        normalizes at each place, and what comes before it is used.
      path: a `.safetensors` or `.pth` file of names that `checkpoints.convnext_names` knows.
      name: what errors and the log call the network.

    Raises:
      UsageError: the file is of another network or incomplete.
    """
    tensors = plain_names(read_checkpoint(path))
    layout = layout_of(tensors)
    if layout is None:
        first = ", ".join(quote(key) for key in list(tensors)[:3])
        raise UsageError(
            f"Expected a checkpoint of {name} as `weights`, with the names of {LIBRARIES}; "
            f"{show_path(str(path))} has none of ConvNeXt's, but {first} and so on."
        )
    x = layers.GlobalAveragePooling2D(dtype="float32", name="head_mean")(network.layers[-1].input)
    x = layers.LayerNormalization(epsilon=layout.head_epsilon, dtype="float32", name="head_norm")(x)
    model = keras.Model(network.inputs[0], x, name=network.name)
    found = recognize_size(tensors, layout)
    if found and name.endswith(found):
        hint = "Its size is that of the network: the checkpoint is incomplete, or of a related network."
    elif found:
        hint = f"The checkpoint looks like {found}; to use it: `name=keras_applications:{found}`"
    else:
        hint = "The checkpoint is a ConvNeXt of another size or kind than Keras has."
    match = copy_into(
        convnext_slots(model, layout),
        tensors,
        ignored_prefixes=(layout.classifier,),
        mismatch=f"{show_path(str(path))} does not fit {name}, by the names of {layout.library}",
        hint=hint,
    )
    logging.info("%s: %s, from %s, by the names of %s", name, match.summary(), path.name, layout.library)
    return model


def load_efficientnet_v2_weights(network: keras.Model, path: pathlib.Path, name: str) -> None:
    """Copies a checkpoint of timm's `tf_efficientnetv2_*` into an EfficientNetV2 of Keras.

    Args:
      network: without its classifier.
      path: a `.safetensors` or `.pth` file.
      name: what errors and the log call the network.

    Raises:
      UsageError: the file is of another network or incomplete.
    """
    known = [layer.name for layer in network.layers]
    slots = pytorch_slots(network, lambda layer: efficientnet_v2_names.checkpoint_name(layer, known))
    expected = efficientnet_v2_names.NETWORKS.get(application_of(name), "tf_efficientnetv2_*")
    match = copy_into(
        slots,
        read_checkpoint(path),
        ignored_prefixes=(efficientnet_v2_names.CLASSIFIER,),
        mismatch=f"{show_path(str(path))} does not fit {name}, by the names of timm",
        hint=f"Expected a checkpoint of timm's {expected}; those of torchvision pad images in another way.",
    )
    logging.info("%s: %s, from %s, by the names of timm", name, match.summary(), path.name)


def convnext_slots(model: keras.Model, layout: Layout) -> dict[str, tuple]:
    """Where the tensors of a ConvNeXt go: name → (variable, axes that give Keras' layout of PyTorch's)."""
    slots: dict[str, tuple] = {}
    for layer in leaves(model):
        if not layer.weights:
            continue
        key = layout.name_of(*_piece_of(layer.name.removeprefix(f"{model.name}_")))
        if hasattr(layer, "epsilon"):  # of layer normalization
            slots |= {f"{key}.weight": (layer.gamma, _VECTOR), f"{key}.bias": (layer.beta, _VECTOR)}
        elif isinstance(layer, layers.Dense):
            slots |= {f"{key}.weight": (layer.kernel, _DENSE), f"{key}.bias": (layer.bias, _VECTOR)}
        elif hasattr(layer, "kernel"):
            axes = _DEPTHWISE if isinstance(layer, layers.DepthwiseConv2D) else _CONVOLUTION
            slots |= {f"{key}.weight": (layer.kernel, axes), f"{key}.bias": (layer.bias, _VECTOR)}
        else:
            slots[key] = layer.gamma, _VECTOR
    return slots


def _piece_of(name: str) -> tuple[str, int, int]:
    """Piece, stage and block, see `Layout.name_of`, of Keras' name of a layer behind that of the network."""
    known = {"stem_conv": "stem_conv", "stem_layernorm": "stem_norm", "head_norm": "head_norm"}
    if name in known:
        return known[name], 0, 0
    kind, _, rest = name.partition("_")
    if kind == "downsampling":
        what, _, number = rest.rpartition("_")
        return {"layernorm": "down_norm", "conv": "down_conv"}[what], int(number) + 1, 0
    stage, _, block, what = rest.split("_", 3)  # of stage_0_block_1_layernorm
    return _PIECES[what], int(stage), int(block)
