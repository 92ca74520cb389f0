"""The networks' shapes as plain data, members of the ResNeXt family by name, and which a checkpoint holds.

Plain Python: plans and error messages use it without building a network.
"""

import itertools
from collections.abc import Mapping

import numpy as np

# Of EfficientNet-Lite0: repeats, kernel, stride, expansion, filters.
LITE0_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)

BLOCKS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def variant_name(
    depth: int,
    cardinality: int,
    width_per_group: int,
    squeeze_excitation: bool = False,
    deep_stem: bool = False,
    small_stem: bool = False,
) -> str:
    """The name of a network as torchvision and timm call it: `seresnext101_32x4d`, `resnet50d`."""
    kind, size = "resnext", f"_{cardinality}x{width_per_group}d"
    if (cardinality, width_per_group) == (1, 64):
        kind, size = "resnet", ""
    small = ", small stem" if small_stem else ""
    return f"{'se' * squeeze_excitation}{kind}{depth}{'d' * deep_stem}{size}{small}"


# The networks that checkpoints are published for: their names → keywords of `build_resnext`.
VARIANTS = {
    variant_name(*values): dict(
        zip(
            ("depth", "cardinality", "width_per_group", "squeeze_excitation", "deep_stem"),
            values,
            strict=True,
        )
    )
    for values in itertools.product(BLOCKS, (1, 32, 64), (4, 8, 64), (False, True), (False, True))
    if values[1:3] in ((1, 64), (32, 4), (32, 8), (64, 4))
}


def recognize_variant(tensors: Mapping[str, np.ndarray]) -> dict | None:
    """The keywords of `build_resnext` that a checkpoint needs, by its names and shapes.

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
    if depth is None or kernel is None or kernel.ndim != 4 or not all(kernel.shape):
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
