"""Which presets of keras-hub have a text tower beside their image tower, what it costs, and what it lacks.

Builds no network and needs no keras-hub, so plans are drawn with it.
"""

import dataclasses
import json
import pathlib
from typing import Any

from urnet_tf.backbone_names import preset_of
from urnet_tf.errors import UsageError
from urnet_tf.text_rules import quote

# The networks of images and texts of keras-hub, and how the names of their published presets begin.
TEXT_TOWERS = {"CLIPBackbone": "clip", "SigLIPBackbone": "siglip"}
_CONFIG, _TOKENIZER = "config.json", "tokenizer.json"


@dataclasses.dataclass(frozen=True)
class TowerSizes:
    """A text tower of Transformer blocks, as its preset describes it."""

    width: int
    inner_width: int
    layers: int
    tokens: int  # of a text, with padding

    @property
    def multiply_adds(self) -> int:
        """Of one text: the matrices of attention and of both dense layers of each block, for each token."""
        matrices = 4 * self.width**2 + 2 * self.width * self.inner_width
        return self.layers * self.tokens * matrices

    @property
    def parameters(self) -> int:
        """Of those matrices."""
        return self.multiply_adds // self.tokens


_GUESSED = TowerSizes(512, 2048, 12, 77)  # of CLIP ViT-B, for presets that are not at hand


def has_text_tower(name: str) -> bool:
    """Whether a name of `model.backbone` means a network of images and texts.

    >>> has_text_tower("keras_hub:clip_vit_base_patch32"), has_text_tower("resnext")
    (True, False)
    """
    preset = preset_of(name)
    if not preset:
        return False
    if not pathlib.Path(preset).is_dir():
        return preset.rstrip("/").rsplit("/", 1)[-1].lower().startswith(tuple(TEXT_TOWERS.values()))
    return _read_config(preset).get("class_name") in TEXT_TOWERS


def has_tokenizer(name: str) -> bool:
    """Whether a preset brings the tokenizer of its text tower; one that is not at hand is thought to."""
    folder = pathlib.Path(preset_of(name))
    return not folder.is_dir() or (folder / _TOKENIZER).is_file()


def check_text_tower(name: str) -> None:
    """Makes sure that a preset at hand reads images and texts.

    Raises:
      UsageError: it is another network, or has no tokenizer.
    """
    if not has_text_tower(name):
        raise UsageError(
            f"Expected keras_hub: and a preset of CLIP or SigLIP as `name`; received {quote(name)}."
        )
    if not has_tokenizer(name):
        raise UsageError(
            f"Expected a tokenizer ({_TOKENIZER}) in the preset {quote(name)} (`name`), which has none: save "
            "it there with tokenizer.save_to_preset, or do without its text tower: `enabled=false`."
        )


def measure_text_tower(name: str) -> TowerSizes:
    """What the preset says of the size of its text tower; a guess where it is not at hand."""
    folder = pathlib.Path(preset_of(name))
    config = _read_config(str(folder)) if folder.is_dir() else {}
    own = config.get("config", {}).get("text_encoder", {}).get("config", {})
    try:
        return TowerSizes(
            int(own["hidden_dim"]), int(own["intermediate_dim"]), int(own["num_layers"]),
            int(own["max_sequence_length"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError):
        return _GUESSED


def image_size_of(name: str) -> int | None:
    """The side of the images that a preset at hand takes; None where it does not say."""
    own = _read_config(preset_of(name)).get("config", {}).get("vision_encoder", {}).get("config", {})
    try:
        return int(own["image_shape"][0])
    except (KeyError, TypeError, ValueError, IndexError):
        return None


def _read_config(folder: str) -> dict[str, Any]:
    try:
        found = json.loads((pathlib.Path(folder) / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
