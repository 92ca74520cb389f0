"""The text tower of a network of images and texts: CLIP and SigLIP as keras-hub opens them.

In: the name of a preset, which has weights, a tokenizer and how texts are prepared. Out: a function from
texts to vectors in the space of the features that `own_backbone` gives for the same preset, and the scale of
logits.

Image towers end in their projection (CLIP) or attention pooling (SigLIP), and `own_backbone` takes them that
far. So the logits of the network itself are

  l = exp(logit_scale) cos(features, vector)  (+ the bias of SigLIP)

Source: Radford et al., 2021, Fig. 3; Zhai et al., 2023, Algorithm 1.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from urnet_tf.backbone_names import preset_of
from urnet_tf.checkpoints.own_networks import find_network
from urnet_tf.errors import UsageError
from urnet_tf.text_rules import quote, reason_of

_BATCH = 64  # texts; the last ones are filled up, so that the function is traced once
_REASONS = (ValueError, TypeError, KeyError, OSError, ImportError)
_TINY = 1e-12


class TextTower(NamedTuple):
    """What reads texts.

    encode: n texts → float32 [n, E], L2-normalized.
    logit_scale: what the network multiplies cosines by.
    image_size_px: of the images that the image tower beside it takes.
    """

    encode: Callable[[Sequence[str]], np.ndarray]
    logit_scale: float
    image_size_px: int


def open_text_tower(name: str) -> TextTower:
    """Opens the text tower of a preset.

    Args:
      name: "keras_hub:" and a preset of CLIP or SigLIP, a name or a folder.

    Raises:
      UsageError: keras-hub is not installed, the preset cannot be opened, has no text tower or no tokenizer.
    """
    find_network(name)
    import keras_hub

    preset = preset_of(name)
    try:
        network = keras_hub.models.Backbone.from_preset(preset)
    except _REASONS as error:
        raise UsageError(
            f"Cannot open the preset {quote(preset)} of keras-hub (`name`): {reason_of(error)}."
        ) from None
    kind = type(network).__name__.removesuffix("Backbone")
    if not hasattr(network, "get_text_embeddings"):
        raise UsageError(f"Expected a preset of CLIP or SigLIP as `name`; {quote(name)} is of {kind}.")
    try:
        prepare = getattr(keras_hub.models, f"{kind}Preprocessor").from_preset(preset, image_converter=None)
    except _REASONS as error:
        raise UsageError(
            f"Cannot open the tokenizer of the preset {quote(preset)} (`name`): {reason_of(error)}."
        ) from None
    length = min(prepare.sequence_length, network.text_encoder.max_sequence_length)
    ids = keras.Input((length,), dtype="int32", name="token_ids")
    tower = keras.Model(ids, network.get_text_embeddings(ids), name="text_tower")
    (scale,) = (weight for weight in network.weights if weight.path.endswith("logit_scale"))
    size = network.vision_encoder.image_shape[0]
    return TextTower(
        lambda texts: _encode(texts, prepare, tower), float(np.exp(keras.ops.convert_to_numpy(scale))), size
    )


def _encode(texts: Sequence[str], prepare: Any, tower: keras.Model) -> np.ndarray:
    """float32 [n, E], L2-normalized."""
    length = tower.input_shape[1]
    vectors = np.empty((len(texts), tower.output_shape[-1]), np.float32)
    for start in range(0, len(texts), _BATCH):
        some = [str(text) for text in texts[start : start + _BATCH]]
        rows, some = len(some), some + [""] * (_BATCH - len(some))
        # It prepares images and texts together; those of texts alone stay as they are.
        found = prepare(
            {"images": np.zeros((_BATCH, 1), np.float32), "prompts": some}, sequence_length=length
        )
        ids = keras.ops.convert_to_numpy(found["token_ids"])
        vectors[start : start + rows] = tower.predict_on_batch(ids)[:rows]
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _TINY)
