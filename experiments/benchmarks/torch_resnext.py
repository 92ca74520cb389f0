"""The ResNeXt family in PyTorch, with the tensor names of torchvision and timm.

The reference that `urnet_tf.models.resnext` is compared with, in speed and in results. Needs PyTorch
only. `name` below is timm's name of the same network:

  build_torch_resnext(50, 32, 4)                            resnext50_32x4d (torchvision's, too)
  build_torch_resnext(50, 32, 4, deep_stem=True)            resnext50d_32x4d
  build_torch_resnext(101, 32, 4, squeeze_excitation=True)  seresnext101_32x4d
  build_torch_resnext(50, 1, 64)                            resnet50
"""

import torch
from torch import nn

BLOCKS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class SqueezeExcitation(nn.Module):
    """Weights channels by their means: x * sigmoid(fc2(relu(fc1(mean(x)))))."""

    def __init__(self, channels: int):
        super().__init__()
        squeezed = squeezed_channels(channels)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x):
        means = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(means))))


class Bottleneck(nn.Module):
    """1x1 → grouped 3x3 → 1x1, added to the input."""

    def __init__(self, inputs, width, filters, strides, groups, squeeze_excitation, downsample):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, strides, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, filters, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(filters)
        self.se = SqueezeExcitation(filters) if squeeze_excitation else None
        self.downsample = downsample
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.se is not None:
            y = self.se(y)
        if self.downsample is not None:
            x = self.downsample(x)
        return self.relu(y + x)


class TorchResNeXt(nn.Module):
    """Normalized images float32 [B, 3, H, W] → logits [B, num_classes]."""

    def __init__(
        self, depth, cardinality, width_per_group, squeeze_excitation, deep_stem, small_stem, classes
    ):
        super().__init__()
        strides = 1 if small_stem else 2
        if deep_stem:
            self.conv1 = nn.Sequential(
                nn.Conv2d(3, 32, 3, strides, 1, bias=False),
                nn.BatchNorm2d(32),
                nn.ReLU(inplace=True),
                nn.Conv2d(32, 32, 3, 1, 1, bias=False),
                nn.BatchNorm2d(32),
                nn.ReLU(inplace=True),
                nn.Conv2d(32, 64, 3, 1, 1, bias=False),
            )
        else:
            side = 3 if small_stem else 7
            self.conv1 = nn.Conv2d(3, 64, side, strides, side // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_stem else nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for stage, count in enumerate(BLOCKS[depth]):
            width, filters = cardinality * width_per_group * 2**stage, 256 * 2**stage
            blocks = []
            for block in range(count):
                strides = 2 if stage > 0 and block == 0 else 1
                downsample = _downsample(inputs, filters, strides, deep_stem) if block == 0 else None
                blocks.append(
                    Bottleneck(inputs, width, filters, strides, cardinality, squeeze_excitation, downsample)
                )
                inputs = filters
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes)

    def features(self, x):
        """Means over the last activation: [B, 2048]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))


def build_torch_resnext(
    depth: int,
    cardinality: int,
    width_per_group: int,
    *,
    squeeze_excitation: bool = False,
    deep_stem: bool = False,
    small_stem: bool = False,
    num_classes: int = 1000,
) -> nn.Module:
    """Builds normalized images [B, 3, H, W] → logits [B, num_classes], with PyTorch's random weights."""
    return TorchResNeXt(
        depth, cardinality, width_per_group, squeeze_excitation, deep_stem, small_stem, num_classes
    )


def squeezed_channels(channels: int) -> int:
    """A sixteenth of the channels, to the nearest multiple of 8: timm's `make_divisible`."""
    return max(8, (channels // 16 + 4) // 8 * 8)


def _downsample(inputs, filters, strides, deep_stem):
    """The shortcut of a first block; the deep-stem networks average before a stride-1 convolution."""
    if not deep_stem:
        return nn.Sequential(nn.Conv2d(inputs, filters, 1, strides, bias=False), nn.BatchNorm2d(filters))
    pool = nn.Identity()
    if strides > 1:
        pool = nn.AvgPool2d(2, strides, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(pool, nn.Conv2d(inputs, filters, 1, bias=False), nn.BatchNorm2d(filters))
