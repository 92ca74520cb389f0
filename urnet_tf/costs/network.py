"""What a network costs, counted from its architecture: parameters, multiply-adds, activations kept.

Plans are drawn without TensorFlow, so the layers of `resnext`, `efficientnet_lite`, `classifier` and
`urnet` are walked here once more, in plain arithmetic. The tests hold the two descriptions together:
parameters must equal those of the Keras models, for all options.

A multiply-add is counted where a matrix is applied: in convolutions and dense layers. Normalization,
activations and pooling are left out, as in torchvision's tables. One multiply-add is two FLOPs.

What is kept for the backward pass: the input of each convolution and normalization and the output of
each ReLU. A convolution with both behind it leaves two tensors, its own output and the ReLU's; the
normalized tensor in between is freed.
"""

import dataclasses

from urnet_tf.backbone_names import ALL, BACKBONES, count_learning
from urnet_tf.errors import UsageError
from urnet_tf.models.variants import LITES, Variant, squeezed_channels


@dataclasses.dataclass(frozen=True)
class NetworkCost:
    """Counts of a backbone; multiply-adds and elements are of one image, forward. All but the features are 0
    where they are not known."""

    name: str
    feature_dim: int  # D of the features
    trainable: int  # parameters that training changes
    parameters: int  # these and the running statistics of normalization
    layers: int  # convolutions
    multiply_adds: int
    kept_elements: int  # activations that the backward pass needs
    normalized_elements: int  # those of them that enter a batch normalization
    largest_elements: int  # of the largest activation
    blocks: tuple["BlockCost", ...] = ()  # from the images to the features; () where they are not known

    @property
    def flops(self) -> int:
        """Floating-point operations: a multiplication and an addition each."""
        return 2 * self.multiply_adds

    def learning(self, part: str) -> "BlockCost":
        """What learns of it, where `part` is as in `models.unfreezing.unfreeze`."""
        if part == ALL or not self.blocks:
            return BlockCost(self.trainable, self.multiply_adds, self.kept_elements)
        count = count_learning(part, [block.side for block in self.blocks]) or 0
        last = self.blocks[max(0, len(self.blocks) - count) :]
        return BlockCost(
            sum(block.trainable for block in last),
            sum(block.multiply_adds for block in last),
            sum(block.kept_elements for block in last),
        )


@dataclasses.dataclass(frozen=True)
class BlockCost:
    """What one block adds, as `models.unfreezing.list_blocks` cuts them; a sum of some has no side."""

    trainable: int
    multiply_adds: int
    kept_elements: int
    side: int = 0  # of the activations that leave it


@dataclasses.dataclass(frozen=True)
class HeadCost:
    """Counts of the dense layers on the features; multiply-adds are of one image, forward."""

    parameters: int  # all are trained
    multiply_adds: int


def count_network(
    name: str,
    image_size_px: int,
    variant: Variant = Variant(),  # noqa: B008  it is frozen
) -> NetworkCost:
    """Counts the backbone that `build_backbone` builds; the variant is that of a ResNeXt.

    Raises:
      UsageError: an unknown name.
    """
    if name in LITES:
        return _count_efficientnet_lite(name, image_size_px)
    if name != "resnext":
        raise UsageError(f"Expected a backbone of {', '.join(BACKBONES)}; received {name!r}.")
    return _count_resnext(image_size_px, variant)


def count_classifier(feature_dim: int, num_classes: int) -> HeadCost:
    """Counts what `build_classifier` adds to the features."""
    return HeadCost((feature_dim + 1) * num_classes, feature_dim * num_classes)


def count_urnet(
    feature_dim: int, num_classes: int, bag_size: int, attention_dim: int | None = None
) -> HeadCost:
    """Counts what `build_urnet` adds to the features, FC1 to FC4; an image takes its share of FC4."""
    hidden = attention_dim or max(1, feature_dim // 4)
    branch = count_classifier(feature_dim, num_classes)
    attention = feature_dim * hidden + hidden  # the matrices of FC2 and FC3; only FC2 has a bias
    return HeadCost(
        2 * branch.parameters + attention + hidden,
        branch.multiply_adds + attention + branch.multiply_adds // bag_size,
    )


@dataclasses.dataclass(frozen=True)
class _Map:
    """The shape of a square feature map."""

    side: int
    channels: int

    @property
    def elements(self) -> int:
        return self.side * self.side * self.channels

    def strided(self, strides: int, channels: int | None = None) -> "_Map":
        """What a padded convolution or pool makes of it; every padding here gives ceil(side / strides)."""
        return _Map(-(-self.side // strides), channels or self.channels)


class _Walk:
    """Adds up layers; each method takes the map that a layer receives and returns the one it gives."""

    def __init__(self) -> None:
        self.trainable = self.statistics = self.layers = 0
        self.multiply_adds = self.kept = self.normalized = self.largest = 0
        self.blocks: list[BlockCost] = []
        self._ended = (0, 0, 0)  # of those that are there: trainable, multiply-adds, kept

    def end_block(self, x: _Map) -> None:
        """What has been added since the last block is one, and gives `x`."""
        now = self.trainable, self.multiply_adds, self.kept
        trainable, multiply_adds, kept = (n - before for n, before in zip(now, self._ended, strict=True))
        self.blocks.append(BlockCost(trainable, multiply_adds, kept, x.side))
        self._ended = now

    def keep(self, x: _Map) -> _Map:
        """A tensor that stays until the backward pass."""
        self.kept += x.elements
        self.largest = max(self.largest, x.elements)
        return x

    def convolve(self, x: _Map, filters: int, kernel: int = 1, strides: int = 1, groups: int = 1) -> _Map:
        """A convolution without bias, and the batch normalization behind it."""
        y = x.strided(strides, filters)
        matrix = kernel * kernel * x.channels // groups * filters
        self.multiply_adds += matrix * y.side * y.side
        self.trainable += matrix + 2 * filters  # scale and offset
        self.statistics += 2 * filters  # moving mean and variance
        self.layers += 1
        self.normalized += y.elements
        return self.keep(y)

    def activate(self, x: _Map, filters: int, kernel: int = 1, strides: int = 1, groups: int = 1) -> _Map:
        """Convolution, normalization, ReLU."""
        return self.keep(self.convolve(x, filters, kernel, strides, groups))

    def excite(self, x: _Map) -> _Map:
        """Squeeze and excitation: two dense layers with bias on the means; their product keeps the map."""
        squeezed = squeezed_channels(x.channels)
        self.multiply_adds += 2 * x.channels * squeezed
        self.trainable += 2 * x.channels * squeezed + squeezed + x.channels
        self.layers += 2
        return self.keep(x)

    def cost(self, name: str, x: _Map) -> NetworkCost:
        """The sums; `x` is averaged to the features."""
        if self.trainable > self._ended[0]:
            self.end_block(x)
        return NetworkCost(
            name=name,
            feature_dim=x.channels,
            trainable=self.trainable,
            parameters=self.trainable + self.statistics,
            layers=self.layers,
            multiply_adds=self.multiply_adds,
            kept_elements=self.kept,
            normalized_elements=self.normalized,
            largest_elements=self.largest,
            blocks=tuple(self.blocks),
        )


def _count_resnext(side: int, variant: Variant) -> NetworkCost:
    walk = _Walk()
    x, strides = walk.keep(_Map(side, 3)), 1 if variant.small_stem else 2
    if variant.deep_stem:
        x = walk.activate(walk.activate(x, 32, 3, strides), 32, 3)
        x = walk.activate(x, 64, 3)
    else:
        x = walk.activate(x, 64, 3 if variant.small_stem else 7, strides)
    if not variant.small_stem:
        x = walk.keep(walk.keep(x).strided(2))  # the pool's padded input and its output
    for stage, blocks in enumerate(variant.blocks):
        width, filters = variant.cardinality * variant.width_per_group * 2**stage, 256 * 2**stage
        for block in range(blocks):
            strides = 2 if stage > 0 and block == 0 else 1
            y = walk.activate(walk.activate(x, width), width, 3, strides, variant.cardinality)
            y = walk.convolve(y, filters)
            if variant.squeeze_excitation:
                y = walk.excite(y)
            if block == 0:
                if variant.deep_stem and strides > 1:  # averaged first, then projected with stride 1
                    x, strides = walk.keep(x.strided(2)), 1
                walk.convolve(x, filters, strides=strides)
            x = walk.keep(y)  # the ReLU of the sum
            walk.end_block(x)
    return walk.cost(variant.name, x)


def _count_efficientnet_lite(name: str, side: int) -> NetworkCost:
    walk = _Walk()
    x = walk.activate(walk.keep(_Map(side, 3)), 32, 3, 2)
    for repeats, kernel, first_strides, expansion, filters in LITES[name].stages:
        for repeat in range(repeats):
            y = walk.activate(x, x.channels * expansion) if expansion != 1 else x
            y = walk.activate(y, y.channels, kernel, 1 if repeat else first_strides, y.channels)
            x = walk.keep(walk.convolve(y, filters))  # as the next input, added to the last one or not
            if repeat:
                walk.end_block(x)
    return walk.cost(name, walk.activate(x, 1280))
