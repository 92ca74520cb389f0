"""One door to the backbones: a name and weights → a Keras model image → features.

Images come as float32 [B, H, W, 3], RGB, 0..255; each backbone normalizes them itself, so a saved
or exported model cannot be fed with the wrong normalization. Features are float32 [B, D].
"""

import os
from collections.abc import Mapping

import keras
import numpy as np
from absl import logging

from urnet_tf.backbone_names import BACKBONES, is_own
from urnet_tf.checkpoints.pretrained import IMAGENET, find_weights
from urnet_tf.checkpoints.reader import Format, file_format, read_checkpoint
from urnet_tf.checkpoints.weight_matching import copy_into, keras_slots, pytorch_slots
from urnet_tf.errors import UsageError
from urnet_tf.models import efficientnet_lite, resnext
from urnet_tf.models.own_backbone import build_own_backbone
from urnet_tf.models.variants import LITES, Variant, recognize_variant


def build_backbone(
    name: str,
    image_size_px: int | None,
    weights: str | os.PathLike | None = IMAGENET,
    *,
    depth: int = 101,
    cardinality: int = 32,
    width_per_group: int = 4,
    squeeze_excitation: bool = False,
    deep_stem: bool = False,
    small_stem: bool = False,
    implementation: str = "auto",
    preprocessing: str = "auto",
    feature_layer: str | None = None,
    synchronized: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Builds a backbone image float32 [B, H, W, 3] (RGB, 0..255) → features float32 [B, D].

    Example:
      >>> import numpy as np, urnet_tf
      >>> backbone = urnet_tf.build_backbone("resnext", 32, weights=None, depth=26, cardinality=1)
      >>> backbone.predict(np.zeros((2, 32, 32, 3)), verbose=0).shape
      (2, 2048)

    Args:
      name: "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2" or "resnext"; a path that ends in
        .keras, or "keras_hub:" and a preset of keras-hub, which bring their weights; or
        "keras_applications:" and one of `backbone_names.APPLICATIONS`.
      image_size_px: side of the square image.
      weights: "imagenet" (efficientnet_lite*, from an installed package; of keras.applications, downloaded by
        Keras when first used), a checkpoint with the
        names of torchvision and timm (`.pth` or `.safetensors`; of keras.applications for ConvNeXt, also of
        Hugging Face), a `.weights.h5` of this backbone, or None = random. The classifier in a checkpoint
        is not used.
      depth, cardinality, width_per_group, squeeze_excitation, deep_stem, small_stem: of a ResNeXt, see
        `models.variants.Variant`.
      implementation: of its grouped convolutions, see `GroupedConv2D`.
      preprocessing, feature_layer: of a network of one's own, see `build_own_backbone`.
      synchronized: batch statistics over all replicas; needed for equal results under mirroring.
      seed: of random weights.

    Raises:
      UsageError: an unknown name, weights that cannot be had, read, or do not fit.
    """
    if is_own(name):
        return build_own_backbone(
            name, image_size_px, weights, preprocessing=preprocessing, feature_layer=feature_layer, seed=seed
        )
    if name not in BACKBONES:
        raise UsageError(
            f"Expected a backbone of {', '.join(BACKBONES)}, a .keras file, keras_hub:PRESET or "
            f"keras_applications:NAME; received {name!r}."
        )
    path = find_weights(name, weights)
    variant = None
    if name in LITES:
        model = efficientnet_lite.build_efficientnet_lite(
            name, image_size_px, synchronized=synchronized, seed=seed
        )
        name_of, ignored = efficientnet_lite.checkpoint_name, ("_fc.",)
    else:
        variant = Variant(depth, cardinality, width_per_group, squeeze_excitation, deep_stem, small_stem)
        model = resnext.build_resnext(
            image_size_px, variant, implementation=implementation, synchronized=synchronized, seed=seed
        )
        name_of, ignored = resnext.checkpoint_name, ("fc.",)
    if path is None:
        return model
    tensors = read_checkpoint(path)
    if file_format(path) is Format.KERAS:
        slots, hint = (
            keras_slots(model),
            "Keras weights fit the network and the settings that they were saved from.",
        )
    else:
        slots, hint = pytorch_slots(model, name_of), _fitting_settings(tensors, variant)
    match = copy_into(
        slots, tensors, ignored_prefixes=ignored, mismatch=f"{path} does not fit {model.name}", hint=hint
    )
    logging.info("%s: %s, from %s", model.name, match.summary(), path.name)
    return model


def _fitting_settings(tensors: Mapping[str, np.ndarray], variant: Variant | None) -> str:
    """What to set for a ResNeXt checkpoint that was made for another variant."""
    found = recognize_variant(tensors)
    if not found or not variant:
        return "Check the `backbone`: the checkpoint is of another network."
    changes = {key: value for key, value in found.items() if getattr(variant, key) != value}
    if not changes:
        return "Its blocks are those of the model: the checkpoint is incomplete, or of a related network."
    advice = " ".join(f"`{key}={str(value).lower()}`" for key, value in changes.items())
    return f"The checkpoint looks like {Variant(**found)}; to use it: {advice}"
