"""ResNeXt feature extractors in Keras, laid out so that torchvision and timm checkpoints fit exactly.

Paddings are PyTorch's (symmetric), batch normalization has epsilon 1e-5. Layer names are the
checkpoint's with "-" for ".": `layer1-0-conv2` holds `layer1.0.conv2.weight`.

  layers of the first stage    conv1, bn1, relu; with a deep stem conv1-0 .. conv1-6, bn1, relu
  layers of a block            conv1 bn1 relu1, conv2 (grouped) bn2 relu2, conv3 bn3, se-fc1 se-fc2,
                               downsample-*, add, relu3
  named activations            see `with_intermediates`

Sources: Xie et al., "Aggregated Residual Transformations for Deep Neural Networks", 2017; the paper
of this package trains ResNeXt-101 (Sec. 5). Hu et al., "Squeeze-and-Excitation Networks", 2018.
He et al., "Bag of Tricks for Image Classification", 2019 (the deep stem and the averaging shortcut).
"""

import dataclasses

import keras
from keras import layers

from urnet_tf.models.batch_normalization import FusedBatchNormalization
from urnet_tf.models.grouped_convolution import GroupedConv2D
from urnet_tf.models.seeding import he_normal
from urnet_tf.models.variants import Variant, squeezed_channels

IMAGE_MEAN = (123.675, 116.28, 103.53)  # of ImageNet, as torchvision's weights expect
IMAGE_STD = (58.395, 57.12, 57.375)


def build_resnext(
    image_size_px: int | None,
    variant: Variant = Variant(),  # noqa: B008  it is frozen
    *,
    implementation: str = "auto",
    synchronized: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Builds image float32 [B, H, W, 3] (RGB, 0..255) → features float32 [B, 2048], random weights.

    Args:
      image_size_px: side of the square image; None leaves it open.
      variant: the network's shape; `variants.VARIANTS` has those with usual names.
      implementation: of the grouped convolutions, see `GroupedConv2D`.
      synchronized: batch statistics over all replicas; needed for equal results under mirroring.
      seed: of the initial weights.
    """
    pieces = _Pieces(variant, implementation, synchronized, seed)
    image = keras.Input((image_size_px, image_size_px, 3), name="image")
    x = layers.Rescaling(
        [1 / std for std in IMAGE_STD],
        [-mean / std for mean, std in zip(IMAGE_MEAN, IMAGE_STD, strict=True)],
        dtype="float32",
        name="rescale",
    )(image)
    x = pieces.stem(x)
    if not variant.small_stem:  # after a ReLU, padding with zeros is padding with minus infinity
        x = layers.MaxPooling2D(3, 2, name="maxpool")(layers.ZeroPadding2D(1, name="maxpool-pad")(x))
    for stage, blocks in enumerate(variant.blocks):
        width = variant.cardinality * variant.width_per_group * 2**stage
        for block in range(blocks):
            strides = 2 if stage > 0 and block == 0 else 1
            x = pieces.bottleneck(x, f"layer{stage + 1}-{block}", width, 256 * 2**stage, strides, block == 0)
    features = layers.GlobalAveragePooling2D(dtype="float32", name="features")(x)
    return keras.Model(image, features, name=variant.name)


@dataclasses.dataclass(frozen=True)
class _Pieces:
    """The pieces of one network, by the names that their layers get."""

    variant: Variant
    implementation: str
    synchronized: bool
    seed: int

    def convolution(
        self,
        x: keras.KerasTensor,
        name: str,
        filters: int,
        side: int = 1,
        strides: int = 1,
        groups: int = 1,
        use_bias: bool = False,
    ) -> keras.KerasTensor:
        return GroupedConv2D(
            filters,
            side,
            strides,
            padding=side // 2,
            groups=groups,
            use_bias=use_bias,
            implementation=self.implementation,
            kernel_initializer=he_normal(self.seed, name),
            name=name,
        )(x)

    def normalized(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        layer = FusedBatchNormalization(momentum=0.9, epsilon=1e-5, synchronized=self.synchronized, name=name)
        return layer(x)

    def active(self, x: keras.KerasTensor, name: str, active_name: str) -> keras.KerasTensor:
        return layers.ReLU(name=active_name)(self.normalized(x, name))

    def stem(self, x: keras.KerasTensor) -> keras.KerasTensor:
        strides = 1 if self.variant.small_stem else 2
        if self.variant.deep_stem:
            x = self.active(self.convolution(x, "conv1-0", 32, 3, strides), "conv1-1", "conv1-2")
            x = self.active(self.convolution(x, "conv1-3", 32, 3), "conv1-4", "conv1-5")
            x = self.convolution(x, "conv1-6", 64, 3)
        else:
            x = self.convolution(x, "conv1", 64, 3 if self.variant.small_stem else 7, strides)
        return self.active(x, "bn1", "relu")

    def excited(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        channels = x.shape[-1]
        y = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}-mean")(x)
        y = self.convolution(y, f"{name}-fc1", squeezed_channels(channels), use_bias=True)
        y = self.convolution(layers.ReLU(name=f"{name}-relu")(y), f"{name}-fc2", channels, use_bias=True)
        y = layers.Activation("sigmoid", name=f"{name}-gate")(y)
        return layers.Multiply(name=f"{name}-scale")([x, y])

    def shortcut(self, x: keras.KerasTensor, name: str, filters: int, strides: int) -> keras.KerasTensor:
        if not self.variant.deep_stem:
            return self.normalized(self.convolution(x, f"{name}-0", filters, strides=strides), f"{name}-1")
        if strides > 1:  # "same" averages over the pixels inside of the image, as timm does
            x = layers.AveragePooling2D(2, strides, "same", name=f"{name}-0")(x)
        return self.normalized(self.convolution(x, f"{name}-1", filters), f"{name}-2")

    def bottleneck(
        self, x: keras.KerasTensor, name: str, width: int, filters: int, strides: int, project: bool
    ) -> keras.KerasTensor:
        y = self.active(self.convolution(x, f"{name}-conv1", width), f"{name}-bn1", f"{name}-relu1")
        y = self.convolution(y, f"{name}-conv2", width, 3, strides, self.variant.cardinality)
        y = self.active(y, f"{name}-bn2", f"{name}-relu2")
        y = self.normalized(self.convolution(y, f"{name}-conv3", filters), f"{name}-bn3")
        if self.variant.squeeze_excitation:
            y = self.excited(y, f"{name}-se")
        if project:
            x = self.shortcut(x, f"{name}-downsample", filters, strides)
        return layers.ReLU(name=f"{name}-relu3")(layers.Add(name=f"{name}-add")([y, x]))


def with_intermediates(model: keras.Model) -> keras.Model:
    """The same network with its inner activations as outputs; weights are shared, not copied.

    Args:
      model: of `build_resnext`.

    Returns:
      image → {"stem": [B, H/2, W/2, 64], before pooling; "stage1": [B, H/4, W/4, 256], "stage2":
      [B, H/8, W/8, 512], "stage3": …, "stage4": …, "features": [B, 2048]}. A small stem keeps H x W
      up to and including "stage1".
    """
    last = {}  # the last block of each stage wins
    for layer in model.layers:
        stage = layer.name.partition("-")[0]
        if stage.startswith("layer") and layer.name.endswith("-relu3"):
            last[stage.replace("layer", "stage")] = layer.output
    return keras.Model(
        model.input,
        {"stem": model.get_layer("relu").output, **last, "features": model.get_layer("features").output},
        name=f"{model.name}_intermediates",
    )


def checkpoint_name(layer_name: str) -> str:
    """The checkpoint's name of a layer: `layer1-0-conv2` → `layer1.0.conv2`."""
    return layer_name.replace("-", ".")
