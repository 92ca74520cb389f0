"""ResNeXt feature extractors in Keras, laid out so that torchvision checkpoints fit exactly.

torchvision pads explicitly (3 pixels before the stem, 1 before the pool and before strided 3x3
convolutions) where Keras' "same" pads unevenly, and normalises with epsilon 1e-5. Layer names are
torchvision's with "-" for ".": `layer1-0-conv2` holds `layer1.0.conv2.weight`.

Source: Xie et al., "Aggregated Residual Transformations for Deep Neural Networks", 2017; the paper
of this package trains ResNeXt-101 (Sec. 5).
"""

import keras
from keras import layers

from urnet_tf.errors import UsageError
from urnet_tf.models.grouped_convolution import GroupedConv2D
from urnet_tf.models.seeding import he_normal

BLOCKS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
IMAGE_MEAN = (123.675, 116.28, 103.53)  # of ImageNet, as torchvision's weights expect
IMAGE_STD = (58.395, 57.12, 57.375)


def build_resnext(
    image_size_px: int | None,
    *,
    depth: int = 101,
    cardinality: int = 32,
    width_per_group: int = 4,
    small_stem: bool = False,
    implementation: str = "auto",
    synchronized: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Builds image float32 [B, H, W, 3] (RGB, 0..255) → features float32 [B, 2048], random weights.

    Args:
      image_size_px: side of the square image; None leaves it open.
      depth: 26, 50, 101 or 152.
      cardinality: groups of each 3x3 convolution.
      width_per_group: channels of one group in the first stage; doubles with each stage.
      small_stem: a 3x3 stride-1 stem without pooling, for images of 32-64 pixels.
      implementation: of the grouped convolutions, see `GroupedConv2D`.
      synchronized: batch statistics over all replicas; needed for equal results under mirroring.
      seed: of the initial weights.

    Raises:
      UsageError: an unknown depth.
    """
    if depth not in BLOCKS:
        raise UsageError(f"Expected a ResNeXt depth of {', '.join(map(str, BLOCKS))}; received {depth}.")

    def convolution(x, name, filters, side=1, strides=1):
        return layers.Conv2D(
            filters,
            side,
            strides,
            "valid",
            use_bias=False,
            kernel_initializer=he_normal(seed, name),
            name=name,
        )(x)

    def grouped(x, name, filters, strides):
        padding = "same"
        if strides > 1:
            x, padding = layers.ZeroPadding2D(1, name=f"{name}-pad")(x), "valid"
        return GroupedConv2D(
            filters, 3, strides, padding, cardinality, implementation, he_normal(seed, name), name=name
        )(x)

    def normalised(x, name):
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, synchronized=synchronized, name=name)(x)

    def bottleneck(x, name, width, filters, strides, project):
        y = layers.ReLU(name=f"{name}-relu1")(
            normalised(convolution(x, f"{name}-conv1", width), f"{name}-bn1")
        )
        y = grouped(y, f"{name}-conv2", width, strides)
        y = layers.ReLU(name=f"{name}-relu2")(normalised(y, f"{name}-bn2"))
        y = normalised(convolution(y, f"{name}-conv3", filters), f"{name}-bn3")
        if project:
            x = convolution(x, f"{name}-downsample-0", filters, strides=strides)
            x = normalised(x, f"{name}-downsample-1")
        return layers.ReLU(name=f"{name}-relu3")(layers.Add(name=f"{name}-add")([y, x]))

    image = keras.Input((image_size_px, image_size_px, 3), name="image")
    x = layers.Rescaling(
        [1 / std for std in IMAGE_STD],
        [-mean / std for mean, std in zip(IMAGE_MEAN, IMAGE_STD, strict=True)],
        dtype="float32",
        name="rescale",
    )(image)
    if small_stem:
        x = convolution(layers.ZeroPadding2D(1, name="conv1-pad")(x), "conv1", 64, side=3)
    else:
        x = convolution(layers.ZeroPadding2D(3, name="conv1-pad")(x), "conv1", 64, side=7, strides=2)
    x = layers.ReLU(name="relu")(normalised(x, "bn1"))
    if not small_stem:  # after a ReLU, padding with zeros is padding with minus infinity
        x = layers.MaxPooling2D(3, 2, name="maxpool")(layers.ZeroPadding2D(1, name="maxpool-pad")(x))
    for stage, blocks in enumerate(BLOCKS[depth]):
        width = cardinality * width_per_group * 2**stage
        for block in range(blocks):
            strides = 2 if stage > 0 and block == 0 else 1
            x = bottleneck(x, f"layer{stage + 1}-{block}", width, 256 * 2**stage, strides, block == 0)
    features = layers.GlobalAveragePooling2D(dtype="float32", name="features")(x)
    return keras.Model(image, features, name=f"resnext{depth}_{cardinality}x{width_per_group}d")
