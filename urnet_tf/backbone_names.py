"""How backbones are called: those of this package, and networks that Keras opens."""

import itertools
from collections.abc import Sequence

# The networks that this package builds; all others are opened by Keras.
BACKBONES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "resnext")
# What a network of one's own wants to see of images 0..255: see `models.own_backbone`.
PREPROCESSING = ("auto", "none", "zero_to_one", "minus_one_to_one", "imagenet", "caffe")
# Which part of a network learns: all of it, the last stage, or "blocks:n".
ALL, LAST_STAGE, BLOCKS = "all", "last_stage", "blocks:"
KERAS_FILE, KERAS_HUB, KERAS_APPLICATIONS = ".keras", "keras_hub:", "keras_applications:"
# Networks of `keras.applications`, by what they want to see of images 0..255, see `PREPROCESSING`.
_APPLICATIONS = {
    "none": """ConvNeXtTiny ConvNeXtSmall ConvNeXtBase ConvNeXtLarge ConvNeXtXLarge EfficientNetV2B0
        EfficientNetV2B1 EfficientNetV2B2 EfficientNetV2B3 EfficientNetV2S EfficientNetV2M EfficientNetV2L
        EfficientNetB0 EfficientNetB1 EfficientNetB2 EfficientNetB3 EfficientNetB4 EfficientNetB5
        EfficientNetB6 EfficientNetB7 MobileNetV3Small MobileNetV3Large""",
    "minus_one_to_one": """MobileNet MobileNetV2 ResNet50V2 ResNet101V2 ResNet152V2 InceptionV3
        InceptionResNetV2 Xception NASNetMobile NASNetLarge""",
    "imagenet": "DenseNet121 DenseNet169 DenseNet201",
    "caffe": "ResNet50 ResNet101 ResNet152 VGG16 VGG19",
}
APPLICATIONS = {name: seen for seen, names in _APPLICATIONS.items() for name in names.split()}


def count_learning(part: str, sides: Sequence[int | None]) -> int | None:
    """How many of the last blocks of a network are to learn; None where `part` is none of its forms.

    Args:
      part: "all", "last_stage" (the last blocks that give activations of one size) or "blocks:n".
      sides: of the activations that leave each block, from the images to the features.
    """
    if part == ALL:
        return len(sides)
    if part == LAST_STAGE:
        return len(list(itertools.takewhile(lambda side: side == sides[-1], reversed(sides))))
    return read_blocks(part)


def read_blocks(part: str) -> int | None:
    """The n of "blocks:n"; None of anything else."""
    number = part.removeprefix(BLOCKS)
    return int(number) if number != part and number.isdecimal() else None


def is_own(name: str) -> bool:
    """Whether a name means a network that Keras opens, and not one of `BACKBONES`."""
    return name.endswith(KERAS_FILE) or name.startswith((KERAS_HUB, KERAS_APPLICATIONS))


def brings_weights(name: str) -> bool:
    """Whether a name means a network together with its weights."""
    return is_own(name) and not application_of(name)


def application_of(name: str) -> str:
    """The network of `keras.applications` that a name means; "" where it means another."""
    return name.removeprefix(KERAS_APPLICATIONS) if name.startswith(KERAS_APPLICATIONS) else ""


def preset_of(name: str) -> str:
    """The preset of keras-hub that a name means; "" for a file."""
    return name.removeprefix(KERAS_HUB) if name.startswith(KERAS_HUB) else ""
