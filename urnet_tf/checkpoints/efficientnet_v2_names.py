"""Names of EfficientNetV2's tensors in timm's checkpoints of Google's weights, `tf_efficientnetv2_*`.

Keras calls the layers of a block `block4a_expand_conv`, timm `blocks.3.0.conv_pw`; the numbers of timm's
normalizations depend on the kind of the block:

  fused, channels kept      conv bn1                                   (project_conv, project_bn of Keras)
  fused                     conv_exp bn1, conv_pwl bn2
  with a depthwise one      conv_pw bn1, conv_dw bn2, se.conv_reduce, se.conv_expand, conv_pwl bn3

Both pad as TensorFlow does and normalize with epsilon 1e-3. torchvision's networks and timm's
`efficientnetv2_*` without `tf_` pad both sides of images alike; the latter have the same names, so that no
file tells them apart.
Google trained S, M and L on images / 128 - 1, as Keras prepares them; timm writes images / 127.5 - 1.

Sources: Tan and Le, "EfficientNetV2", 2021; timm/models/efficientnet.py and _efficientnet_blocks.py.
"""

import re
from collections.abc import Collection

# Of `keras.applications`, and what timm calls their checkpoints.
NETWORKS = {
    f"EfficientNetV2{size}": f"tf_efficientnetv2_{size.lower()}" for size in "B0 B1 B2 B3 S M L".split()
}
CLASSIFIER = "classifier."  # what the names of the classifier begin with
_ENDS = {"stem_conv": "conv_stem", "stem_bn": "bn1", "top_conv": "conv_head", "top_bn": "bn2"}
_KINDS = {
    "kept": {"project_conv": "conv", "project_bn": "bn1"},
    "fused": {"expand_conv": "conv_exp", "expand_bn": "bn1", "project_conv": "conv_pwl", "project_bn": "bn2"},
    "depthwise": {
        "expand_conv": "conv_pw", "expand_bn": "bn1", "dwconv2": "conv_dw", "bn": "bn2",
        "se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand", "project_conv": "conv_pwl",
        "project_bn": "bn3",
    },
}  # fmt: skip
_BLOCK = re.compile(r"(block(\d+)(.)_)(.*)")


def checkpoint_name(layer_name: str, layer_names: Collection[str]) -> str:
    """The checkpoint's name of a Keras layer: `block4a_expand_conv` → `blocks.3.0.conv_pw`.

    Args:
      layer_name: of a layer with weights.
      layer_names: of the whole network, which tell the kind of a block; a layer that timm has no name for
        keeps its own.
    """
    found = _BLOCK.fullmatch(layer_name)
    if found is None:
        return _ENDS.get(layer_name, layer_name)
    start, stage, block, piece = found.groups()
    kind = "fused" if f"{start}expand_conv" in layer_names else "kept"
    if f"{start}dwconv2" in layer_names:
        kind = "depthwise"
    return f"blocks.{int(stage) - 1}.{ord(block) - ord('a')}.{_KINDS[kind].get(piece, piece)}"
