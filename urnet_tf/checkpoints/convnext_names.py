"""Names of ConvNeXt's tensors in the checkpoints of timm, torchvision, Hugging Face and its authors.

Plain Python: which layout a file has, which of the five sizes it holds, what its tensors are called.

  piece       of the stem: stem_conv, stem_norm; in front of stages 1 to 3: down_norm, down_conv; of a block:
              depthwise (7x7), norm, expand (C → 4C), project (4C → C), scale; behind the mean: head_norm

Sources: Liu et al., "A ConvNet for the 2020s", 2022, https://github.com/facebookresearch/ConvNeXt
(models/convnext.py); timm/models/convnext.py; torchvision/models/convnext.py; transformers/models/convnext.
All see images less ImageNet's mean, by its deviation, as Keras' network does inside, and have layer
normalization with epsilon 1e-6, but for the last one of Hugging Face (`layer_norm_eps`, 1e-12). All normalize
the mean over places; Keras' network without its classifier normalizes at each place.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

# Of `keras.applications`: channels of the first stage, blocks of the third one; the others follow from them.
SIZES = {
    "ConvNeXtTiny": (96, 9),
    "ConvNeXtSmall": (96, 27),
    "ConvNeXtBase": (128, 27),
    "ConvNeXtLarge": (192, 27),
    "ConvNeXtXLarge": (256, 27),
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one library names the tensors: of each piece its layer, without `.weight`; of `scale` all."""

    library: str
    stem_conv: str
    stem_norm: str
    down_norm: str
    down_conv: str
    block: str  # what the names of a block begin with
    depthwise: str
    norm: str
    expand: str
    project: str
    scale: str
    head_norm: str
    classifier: str  # what the names of the classifier begin with
    stage_step: tuple[int, int] = (1, 0)  # `stage` in the names is stage * step + offset
    head_epsilon: float = 1e-6

    def name_of(self, piece: str, stage: int = 0, block: int = 0) -> str:
        """The checkpoint's name of a piece, see the module; of `scale` that of the tensor itself.

        Args:
          piece: a field of this class that stands for a layer.
          stage, block: from 0.
        """
        name = getattr(self, piece)
        if piece in ("depthwise", "norm", "expand", "project", "scale"):
            name = self.block + name
        step, offset = self.stage_step
        return name.format(stage=stage * step + offset, before=stage * step + offset - 1, block=block)


_LAYOUTS = (
    Layout(
        "timm", "stem.0", "stem.1", "stages.{stage}.downsample.0", "stages.{stage}.downsample.1",
        "stages.{stage}.blocks.{block}.", "conv_dw", "norm", "mlp.fc1", "mlp.fc2", "gamma",
        "head.norm", "head.fc.",
    ),
    Layout(
        "torchvision", "features.0.0", "features.0.1", "features.{before}.0", "features.{before}.1",
        "features.{stage}.{block}.", "block.0", "block.2", "block.3", "block.5", "layer_scale",
        "classifier.0", "classifier.2.", stage_step=(2, 1),
    ),
    Layout(
        "Hugging Face", "embeddings.patch_embeddings", "embeddings.layernorm",
        "encoder.stages.{stage}.downsampling_layer.0", "encoder.stages.{stage}.downsampling_layer.1",
        "encoder.stages.{stage}.layers.{block}.", "dwconv", "layernorm", "pwconv1", "pwconv2",
        "layer_scale_parameter", "layernorm", "classifier.", head_epsilon=1e-12,
    ),
    Layout(
        "its authors", "downsample_layers.0.0", "downsample_layers.0.1", "downsample_layers.{stage}.0",
        "downsample_layers.{stage}.1", "stages.{stage}.{block}.", "dwconv", "norm", "pwconv1", "pwconv2",
        "gamma", "norm", "head.",
    ),
)  # fmt: skip
LIBRARIES = "timm, torchvision, Hugging Face or its authors"


def plain_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors without the prefix of Hugging Face's classifiers, layer scales as vectors.

    torchvision has layer scales [C, 1, 1].
    """
    return {
        name.removeprefix("convnext."): tensor.reshape(-1)
        if name.endswith("layer_scale") and tensor.shape[1:] == (1, 1)
        else tensor
        for name, tensor in tensors.items()
    }


def layout_of(tensors: Mapping[str, np.ndarray]) -> Layout | None:
    """Whose names the tensors have, see `plain_names`; None where they are of no ConvNeXt."""
    return next(
        (
            layout
            for layout in _LAYOUTS
            if f"{layout.stem_conv}.weight" in tensors
            and f"{layout.name_of('depthwise', 0, 0)}.weight" in tensors
        ),
        None,
    )


def recognize_size(tensors: Mapping[str, np.ndarray], layout: Layout) -> str | None:
    """Which of `SIZES` a checkpoint holds; None for one that Keras does not have."""
    channels = tensors[f"{layout.stem_conv}.weight"].shape[0]
    blocks = 0
    while f"{layout.name_of('depthwise', 2, blocks)}.weight" in tensors:
        blocks += 1
    return next((name for name, size in SIZES.items() if size == (channels, blocks)), None)
