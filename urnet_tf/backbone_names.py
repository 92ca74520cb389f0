"""How backbones are called, and which names mean a network of one's own: a file, or a preset of keras-hub."""

import itertools
from collections.abc import Sequence

# The networks that this package builds; all others are one's own.
BACKBONES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "resnext")
# What a network of one's own wants to see of images 0..255: see `models.own_backbone`.
PREPROCESSING = ("auto", "none", "zero_to_one", "minus_one_to_one", "imagenet", "caffe")
# Which part of a network learns: all of it, the last stage, or "blocks:n".
ALL, LAST_STAGE, BLOCKS = "all", "last_stage", "blocks:"
KERAS_FILE, KERAS_HUB = ".keras", "keras_hub:"


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
    """Whether a name means a network of one's own, and not one of `BACKBONES`."""
    return name.endswith(KERAS_FILE) or name.startswith(KERAS_HUB)


def preset_of(name: str) -> str:
    """The preset of keras-hub that a name means; "" for a file."""
    return name.removeprefix(KERAS_HUB) if name.startswith(KERAS_HUB) else ""
