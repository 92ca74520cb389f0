"""The configuration: one tree of frozen dataclasses, YAML files, dotted overrides, presets.

An unknown key is an error that names the nearest known one. Nothing here imports TensorFlow.
"""

from urnet_tf.config.fields import (
    BEST,
    PAPER,
    SOUND,
    AugmentConfig,
    BaselineConfig,
    Config,
    FitConfig,
    IngestConfig,
    LossConfig,
    ModelConfig,
    ReweightConfig,
    RuntimeConfig,
    TrainConfig,
    count_members,
    has_second_round,
    judges_features,
    starts_from,
)
from urnet_tf.config.presets import PRESETS, from_dict, load_config
from urnet_tf.config.tree import plain_value, select, to_dict

__all__ = [
    "BEST",
    "PAPER",
    "PRESETS",
    "SOUND",
    "AugmentConfig",
    "BaselineConfig",
    "Config",
    "FitConfig",
    "IngestConfig",
    "LossConfig",
    "ModelConfig",
    "ReweightConfig",
    "RuntimeConfig",
    "TrainConfig",
    "count_members",
    "from_dict",
    "has_second_round",
    "judges_features",
    "load_config",
    "plain_value",
    "select",
    "starts_from",
    "to_dict",
]
