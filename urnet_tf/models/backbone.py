"""One door to the backbones: a name and weights → a Keras model image → features.

Images come as float32 [B, H, W, 3], RGB, 0..255; each backbone normalises them itself, so a saved
or exported model cannot be fed with the wrong normalisation. Features are float32 [B, D].
"""

import os

import keras
from absl import logging

from urnet_tf.errors import UsageError
from urnet_tf.models import efficientnet_lite, resnext
from urnet_tf.models.checkpoint_reader import copy_into, read_checkpoint
from urnet_tf.models.pretrained import IMAGENET, find_weights

NAMES = ("efficientnet_lite0", "resnext")


def build_backbone(
    name: str,
    image_size_px: int | None,
    weights: str | os.PathLike | None = IMAGENET,
    *,
    depth: int = 101,
    cardinality: int = 32,
    width_per_group: int = 4,
    small_stem: bool = False,
    implementation: str = "auto",
    synchronized: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Builds a backbone image float32 [B, H, W, 3] (RGB, 0..255) → features float32 [B, D].

    Args:
      name: "efficientnet_lite0" or "resnext".
      image_size_px: side of the square image.
      weights: "imagenet" (efficientnet_lite0, from an installed package), a `.pth` state
        dictionary with torchvision's names, a `.weights.h5` of this backbone, or None = random.
      depth, cardinality, width_per_group, small_stem, implementation: see `build_resnext`.
      synchronized: batch statistics over all replicas; needed for equal results under mirroring.
      seed: of random weights.

    Raises:
      UsageError: an unknown name, weights that cannot be had, read, or do not fit.
    """
    if name not in NAMES:
        raise UsageError(f"Expected a backbone of {', '.join(NAMES)}; received {name!r}.")
    path = find_weights(name, weights)
    if name == "efficientnet_lite0":
        model = efficientnet_lite.build_efficientnet_lite0(
            image_size_px, synchronized=synchronized, seed=seed
        )
        name_of, ignored = efficientnet_lite.checkpoint_name, ("_fc.",)
    else:
        model = resnext.build_resnext(
            image_size_px,
            depth=depth,
            cardinality=cardinality,
            width_per_group=width_per_group,
            small_stem=small_stem,
            implementation=implementation,
            synchronized=synchronized,
            seed=seed,
        )
        name_of, ignored = _torchvision_name, ("fc.",)
    if path is None:
        return model
    if path.name.endswith(".weights.h5"):
        _load_keras_weights(model, path)
        return model
    tensors = read_checkpoint(path)
    count = copy_into(model, tensors, name_of=name_of, ignored_prefixes=ignored, source=str(path))
    logging.info("%s: all %d tensors loaded from %s", model.name, count, path.name)
    return model


def _torchvision_name(layer_name):
    return layer_name.replace("-", ".")


def _load_keras_weights(model, path):
    try:
        model.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} does not fit {model.name}: {reason[:300]}") from error
