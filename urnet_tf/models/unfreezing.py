"""Which part of a network learns, and how fast: blocks from the images to the features.

A block is what stands between two additions of a residual network, or one layer with weights where there are
none; stages end where the side of the activations changes. So it works for any network of one input.

Source: not in the paper; smaller rates for earlier layers after Howard and Ruder, "ULMFiT", 2018.
"""

import keras

from urnet_tf.backbone_names import count_learning
from urnet_tf.errors import UsageError


def list_blocks(backbone: keras.Model) -> list[list[keras.layers.Layer]]:
    """The layers with weights, in order, block by block; a nested network counts as its layers do."""
    blocks: list[list[keras.layers.Layer]] = [[]]
    layers = _flat_layers(backbone)
    residual = any(isinstance(layer, keras.layers.Add) for layer in layers)
    for layer in layers:
        if layer.weights:
            blocks[-1].append(layer)
        if isinstance(layer, keras.layers.Add) or (not residual and layer.weights):
            blocks.append([])
    return [block for block in blocks if block]


def unfreeze(backbone: keras.Model, part: str, *, freeze_batch_norm: bool = False) -> int:
    """Lets a part of a network learn and freezes the rest; statistics of frozen normalizations stay.

    Args:
      backbone: image → features.
      part: "all", "last_stage" (the last with its own size of activations), or "blocks:n", the last n blocks;
        0 blocks leave the heads alone.
      freeze_batch_norm: batch normalization does not learn anywhere.

    Returns:
      The number of blocks that learn.

    Raises:
      UsageError: more blocks than there are, or another part.
    """
    blocks = list_blocks(backbone)
    count = count_learning(part, _sides(blocks))
    if count is None:
        raise UsageError(f"Expected all, last_stage or blocks:n as the part that learns; received {part!r}.")
    if count > len(blocks):
        raise UsageError(
            f"Expected at most {len(blocks)} blocks of {backbone.name} to learn; received {count}. Write all."
        )
    for number, block in enumerate(blocks):
        for layer in block:
            fixed = freeze_batch_norm and isinstance(layer, keras.layers.BatchNormalization)
            layer.trainable = number >= len(blocks) - count and not fixed
    return count


def rates_by_variable(backbone: keras.Model, rate: float, block_rate: float = 1.0) -> dict[str, float]:
    """Path of each variable that learns → its learning rate as a share of that of the heads.

    Args:
      rate: of the last block.
      block_rate: of each block as a share of that of the block behind it.
    """
    found: dict[str, float] = {}
    blocks = list_blocks(backbone)
    for number, block in enumerate(reversed(blocks)):
        for layer in block:
            found |= {variable.path: rate * block_rate**number for variable in layer.trainable_variables}
    return found


def _flat_layers(model: keras.Model) -> list[keras.layers.Layer]:
    layers: list[keras.layers.Layer] = []
    for layer in model.layers:
        layers += _flat_layers(layer) if isinstance(layer, keras.Model) else [layer]
    return layers


def _sides(blocks: list[list[keras.layers.Layer]]) -> list[int | None]:
    """Of the activations that leave each block; layer normalization of their mean belongs to their stage."""
    sides: list[int | None] = []
    for block in blocks:
        of_mean = isinstance(block[-1], keras.layers.LayerNormalization) and len(block[-1].output.shape) == 2
        sides.append(sides[-1] if of_mean and sides else _side(block[-1]))
    return sides


def _side(layer: keras.layers.Layer) -> int | None:
    shape: tuple[int | None, ...] = tuple(layer.output.shape)
    return shape[1] if len(shape) == 4 else None
