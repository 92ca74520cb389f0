"""The networks' shapes as plain data, members of the ResNeXt family by name, and which a checkpoint holds.

Plain Python: plans and error messages use it without building a network.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping

import numpy as np

from urnet_tf.errors import UsageError

# Of EfficientNet-Lite0: repeats, kernel, stride, expansion, filters.
_LITE0_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclasses.dataclass(frozen=True)
class Lite:
    """The shape of an EfficientNet-Lite: Lite0, wider and deeper but for the stem and the last layer."""

    width: float
    depth: float
    image_size_px: int  # that it was made and trained for

    @property
    def stages(self) -> tuple[tuple[int, int, int, int, int], ...]:
        """Of each stage: repeats, kernel, stride, expansion, filters."""
        last = len(_LITE0_STAGES) - 1
        return tuple(
            (
                repeats if place in (0, last) else math.ceil(self.depth * repeats),
                kernel,
                stride,
                expansion,
                self._widened(filters),
            )
            for place, (repeats, kernel, stride, expansion, filters) in enumerate(_LITE0_STAGES)
        )

    def _widened(self, filters: int) -> int:
        """Filters times the width to a multiple of 8, at most a tenth fewer."""
        wanted = self.width * filters
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * wanted else rounded


LITES = {
    "efficientnet_lite0": Lite(1.0, 1.0, 224),
    "efficientnet_lite1": Lite(1.0, 1.1, 240),
    "efficientnet_lite2": Lite(1.1, 1.2, 260),
}

BLOCKS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


@dataclasses.dataclass(frozen=True)
class Variant:
    """The shape of a network of the ResNeXt family.

    Raises:
      UsageError: an unknown depth, or groups of no channels.
    """

    depth: int = 101  # 26, 50, 101 or 152
    cardinality: int = 32  # groups of each 3x3 convolution; 1 with a width of 64 is a ResNet
    width_per_group: int = 4  # channels of one group in the first stage; doubles with each stage
    squeeze_excitation: bool = False  # weights the channels of each block by their means
    # Three 3x3 convolutions for the first 7x7, and shortcuts that average before they project: variant D.
    deep_stem: bool = False
    # The stem keeps the resolution (stride 1, no pooling, 3x3 convolutions), for images of 32-64 pixels.
    small_stem: bool = False

    def __post_init__(self) -> None:
        if self.depth not in BLOCKS:
            raise UsageError(
                f"Expected a ResNeXt depth of {', '.join(map(str, BLOCKS))}; received {self.depth}."
            )
        if self.cardinality < 1 or self.width_per_group < 1:
            raise UsageError(
                "Expected a cardinality and a width per group of at least 1; "
                f"received {self.cardinality} and {self.width_per_group}."
            )

    @property
    def blocks(self) -> tuple[int, ...]:
        """How many of each stage."""
        return BLOCKS[self.depth]

    @property
    def name(self) -> str:
        """As torchvision and timm call it: `seresnext101_32x4d`, `resnet50d`. It leaves out a small stem."""
        kind, size = "resnext", f"_{self.cardinality}x{self.width_per_group}d"
        if (self.cardinality, self.width_per_group) == (1, 64):
            kind, size = "resnet", ""
        return f"{'se' * self.squeeze_excitation}{kind}{self.depth}{'d' * self.deep_stem}{size}"

    def __str__(self) -> str:
        return self.name + (", small stem" if self.small_stem else "")


# The networks that checkpoints are published for, by their names.
VARIANTS = {
    variant.name: variant
    for variant in itertools.starmap(
        Variant, itertools.product(BLOCKS, (1, 32, 64), (4, 8, 64), (False, True), (False, True))
    )
    if (variant.cardinality, variant.width_per_group) in ((1, 64), (32, 4), (32, 8), (64, 4))
}


def squeezed_channels(channels: int) -> int:
    """Units between the two layers of squeeze-and-excitation: a sixteenth, to a multiple of 8, as in timm."""
    return max(8, (channels // 16 + 4) // 8 * 8)


def recognize_variant(tensors: Mapping[str, np.ndarray]) -> dict | None:
    """The fields of `Variant` that a checkpoint needs, by its names and shapes.

    Args:
      tensors: by the names of torchvision and timm, OIHW.

    Returns:
      depth, cardinality, width_per_group, squeeze_excitation, deep_stem and, where the stem tells,
      small_stem; None for a checkpoint of another family.
    """
    blocks = tuple(
        sum(name.startswith(f"layer{stage}.") and name.endswith(".conv3.weight") for name in tensors)
        for stage in (1, 2, 3, 4)
    )
    depth = next((depth for depth, known in BLOCKS.items() if known == blocks), None)
    kernel = tensors.get("layer1.0.conv2.weight")
    if depth is None or kernel is None or kernel.ndim != 4 or not 0 < kernel.shape[1] <= kernel.shape[0]:
        return None
    found = {
        "depth": depth,
        "cardinality": kernel.shape[0] // kernel.shape[1],
        "width_per_group": kernel.shape[1],
        "squeeze_excitation": "layer1.0.se.fc1.weight" in tensors,
        "deep_stem": "conv1.0.weight" in tensors,
    }
    if "conv1.weight" in tensors:  # a deep stem has the same weights with and without a stride
        found["small_stem"] = tensors["conv1.weight"].shape[-1] == 3
    return found
