"""What applies when: which settings can change a result under the others, in one table.

A setting without effect enters no stage's key, and one that a person has set is named in a warning. Settings
are named by their dotted keys, like `train.fit.loss.kind`.
"""

import dataclasses
import fnmatch
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from urnet_tf.backbone_names import brings_weights, is_own
from urnet_tf.checkpoints.text_towers import has_text_tower, has_tokenizer
from urnet_tf.config.fields import (
    Config,
    count_members,
    has_second_round,
    judges_features,
    starts_from,
    trains as trains,
)
from urnet_tf.config.presets import from_dict
from urnet_tf.config.tree import FREE_MAPPINGS, plain_value, select
from urnet_tf.reweighting import LITERAL
from urnet_tf.reweighting.factors import weighing
from urnet_tf.store.bucket_trees import fetch_tree

# How a run is carried out, never what comes out of it but for rounding.
INDIFFERENT = ("runtime.workers", "runtime.strategy", "runtime.jit_compile", "runtime.verify_hashes",
               "runtime.executor", "runtime.address",
               "*.checkpoint_s", "preset",
               "ingest.corrections")  # what the files say counts, see `judgements`  # fmt: skip

# Settings that name a file or a folder: one place is one value, however it is written.
_PATHS = ("ingest.path", "ingest.image_root", "ingest.val_path", "ingest.test_path", "model.weights",
          "model.features", "model.backbone", "reweight.confidence.text_vectors",
          "reweight.page_text.encoder", "reweight.other_score.path")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Rule:
    """Settings that need another one to have an effect."""

    keys: str  # a pattern of dotted keys
    applies: Callable[[Config], bool]
    needs: str  # the other setting, as a person would write it


def _on(section: str) -> Callable[[Config], bool]:
    return lambda config: resolve(config, f"{section}.enabled")


def _fit_rules(fit: str, kinds_of_loss: Mapping[str, Iterable[str]]) -> list[Rule]:
    """The rules inside of one section `fit`."""

    def uses_sgd(config: Config) -> bool:
        return select(config, f"{fit}.optimizer") == "sgd"

    rules = [Rule(f"{fit}.momentum", uses_sgd, f"{fit}.optimizer=sgd")]
    for kind, keys in kinds_of_loss.items():

        def is_kind(config: Config, kind: str = kind) -> bool:
            return select(config, f"{fit}.loss.kind") == kind

        rules += [Rule(f"{fit}.loss.{key}", is_kind, f"{fit}.loss.kind={kind}") for key in keys]
    return rules


def _uses_hashed_text(config: Config) -> bool:
    reweight = config.reweight
    confidence = reweight.confidence.enabled and reweight.confidence.text_vectors == "hashed"
    return confidence or (reweight.page_text.enabled and reweight.page_text.encoder == "hashed")


_LOSSES = {
    "gce": ("gce_q",), "sce": ("sce_reverse",), "focal": ("focal_gamma",),
    "elr": ("elr_weight", "elr_momentum"),
}  # fmt: skip
_WHOLE = "model.mode=finetune"


def _is_whole(config: Config) -> bool:
    return config.model.mode == "finetune"


def _has_backbone(config: Config) -> bool:
    return config.model.features is None or _is_whole(config)


def _is_repaired(config: Config) -> bool:
    return config.reweight.formulas != LITERAL


def text_tower_of(config: Config) -> str:
    """The preset that reads images and texts: `reweight.zero_shot.checkpoint`, or the backbone; "" = none.

    A backbone without a tokenizer is a network of images alone.
    """
    if config.reweight.zero_shot.checkpoint is not None:
        return config.reweight.zero_shot.checkpoint
    name = config.model.backbone
    return name if _has_backbone(config) and has_text_tower(name) and has_tokenizer(name) else ""


_TOWER = "a preset of CLIP or SigLIP in model.backbone or reweight.zero_shot.checkpoint"


RULES = (
    Rule("ingest.image_root", lambda c: _kind(c) == "list", "a list at ingest.path"),
    Rule("ingest.encoding", lambda c: _kind(c) == "list", "a list at ingest.path"),
    Rule("ingest.columns", lambda c: _kind(c) in ("list", "dataset"), "a list at ingest.path"),
    Rule("ingest.rank", lambda c: _kind(c) != "webvision", "another crawl than WebVision's"),
    Rule("ingest.max_rank_per", lambda c: bool(c.ingest.max_rank), "a source in ingest.max_rank"),
    Rule("augment.*", _is_whole, _WHOLE),
    Rule("augment.num_ops", lambda c: c.augment.policy == "randaugment", "augment.policy=randaugment"),
    Rule("augment.magnitude", lambda c: c.augment.policy == "randaugment", "augment.policy=randaugment"),
    Rule("augment.min_area", lambda c: c.augment.policy != "none", "another augment.policy than none"),
    Rule("augment.flip", lambda c: c.augment.policy != "none", "another augment.policy than none"),
    # Without a file there is nothing to depend on.
    Rule("model.features", lambda c: not _has_backbone(c), "a file"),
    *(
        Rule(key, _has_backbone, "model.features=null")
        for key in ("model.backbone", "model.weights", "model.image_size_px", "model.crop_fraction",
                    "model.preprocessing", "model.feature_layer", "model.resnext_*", "export.*")
    ),
    *(
        Rule(key, lambda c: is_own(c.model.backbone), "a network of your own in model.backbone")
        for key in ("model.preprocessing", "model.feature_layer")
    ),
    Rule("model.weights", lambda c: not brings_weights(c.model.backbone), "a model.backbone without weights"),
    Rule("model.resnext_*", lambda c: c.model.backbone == "resnext", "model.backbone=resnext"),
    *(
        Rule(key, _is_whole, _WHOLE)
        for key in ("baseline.networks", "train.init", "train.unfreeze", "train.freeze_batch_norm",
                    "train.backbone_rate", "train.block_rate")
    ),
    Rule("baseline.head", judges_features, "model.mode=frozen or baseline.networks=frozen"),
    Rule(
        "train.head", lambda c: not _is_whole(c) or starts_from(c) == "fitted",
        "model.mode=frozen or train.init=fitted",
    ),
    Rule("train.objective", lambda c: not trains(c, "train"), "another train.head than trained"),
    Rule("baseline.fit.*", lambda c: trains(c, "baseline"), "baseline.head=trained"),
    Rule("reweight.refit.*", lambda c: trains(c, "baseline"), "baseline.head=trained"),
    *(
        Rule(key, lambda c: trains(c, "train"), "train.head=trained")
        for key in ("train.fit.*", "train.keep", "train.bag.loss_weight", "train.bag.target",
                    "train.bag.weighted", "train.members", "evaluate.bag_branch")
    ),
    *(
        Rule(key, lambda c: count_members(c) > 1, "train.members above 1")
        for key in ("train.member_bag_sizes", "train.distill")
    ),
    Rule("evaluate.ensemble", lambda c: c.baseline.folds > 1, "baseline.folds above 1"),
    *(
        Rule(key, lambda c: c.train.bag.loss_weight > 0, "train.bag.loss_weight above 0")
        for key in ("train.bag.target", "train.bag.weighted")
    ),
    Rule("model.attention_dim", lambda c: trains(c, "train"), "train.head=trained"),
    *_fit_rules("baseline.fit", _LOSSES),
    *_fit_rules("reweight.refit", _LOSSES),
    *_fit_rules("train.fit", _LOSSES),
    Rule("reweight.refit.*", has_second_round, "reweight.rounds=2 and baseline.folds above 1"),
    Rule(
        "reweight.class_weight.alpha", lambda c: c.reweight.class_weight.kind == "inverse",
        "reweight.class_weight.kind=inverse",
    ),
    Rule(
        "reweight.class_weight.effective_beta",
        lambda c: c.reweight.class_weight.kind == "effective_number",
        "reweight.class_weight.kind=effective_number",
    ),
    *(
        Rule(f"reweight.{name}.*", _on(f"reweight.{name}"), f"reweight.{name}.enabled=true")
        for name in (*(f.name for f in weighing() if f.name != "confidence"), "soft_label")
    ),
    *(
        Rule(f"reweight.confidence.{key}", _on("reweight.confidence"), "reweight.confidence.enabled=true")
        for key in ("text_vectors", "top_rank", "source", "loss", "temperature", "epochs", "floor", "network",
                    "embedding_dim", "normalize", "negatives")
    ),
    Rule("reweight.confidence.text_dim", _uses_hashed_text, "hashed texts in confidence or page_text"),
    Rule(
        "reweight.confidence.temperature",
        lambda c: resolve(c, "reweight.confidence.loss") == "contrastive",
        "reweight.confidence.loss=contrastive",
    ),
    Rule(
        "reweight.confidence.negatives", lambda c: resolve(c, "reweight.confidence.loss") == "pairwise",
        "reweight.confidence.loss=pairwise",
    ),
    Rule(
        "reweight.confidence.embedding_dim", lambda c: c.reweight.confidence.network == "two_sided",
        "reweight.confidence.network=two_sided",
    ),
    Rule("reweight.other_score.*", lambda c: c.reweight.other_score.path is not None, "a file"),
    # By their full names, so that runs without a text tower do not depend on whether one would be used.
    Rule("reweight.zero_shot.enabled", lambda c: bool(text_tower_of(c)), _TOWER),
    Rule("reweight.zero_shot.checkpoint", lambda c: c.reweight.zero_shot.checkpoint is not None, "a preset"),
    Rule("reweight.page_fit.enabled", lambda c: bool(text_tower_of(c)), _TOWER),
    Rule("reweight.page_fit.enabled", _on("reweight.zero_shot"), "reweight.zero_shot.enabled=true"),
    Rule("reweight.confidence.floor", _is_repaired, "reweight.formulas=repaired"),
    Rule("reweight.combine.smallest", _is_repaired, "reweight.formulas=repaired"),
    Rule("reweight.combine.largest", _is_repaired, "reweight.formulas=repaired"),
    Rule("reweight.combine.unit_mean", lambda c: not _is_repaired(c), "reweight.formulas=literal"),
    Rule(
        "export.calibration_images", lambda c: "tflite_int8" in c.export.formats,
        "tflite_int8 in export.formats",
    ),
    Rule("runtime.address", lambda c: c.runtime.executor == "ray", "runtime.executor=ray"),
    Rule("export.crops", lambda c: "saved_model" in c.export.formats, "saved_model in export.formats"),
    Rule("export.scales", lambda c: "saved_model" in c.export.formats, "saved_model in export.formats"),
)  # fmt: skip


# What the program chooses where a setting is None, as far as other settings decide it.
_CHOSEN: dict[str, Callable[[Config], Any]] = {
    "baseline.networks": lambda c: "frozen" if judges_features(c) else "full",
    "train.init": starts_from,
    "reweight.rounds": lambda c: 2 if judges_features(c) else 1,
    "reweight.class_weight.alpha": lambda c: 1.0 if _is_repaired(c) else 0.5,
    "reweight.cluster_weight.kind": lambda c: "purity" if _is_repaired(c) else "size",
    "reweight.confidence.loss": lambda c: "contrastive" if _is_repaired(c) else "pairwise",
}


def resolve(config: Config, key: str) -> Any:
    """The value of a setting, or what the program chooses where it is None."""
    value = select(config, key)
    return _CHOSEN[key](config) if value is None and key in _CHOSEN else value


def effective_settings(config: Config, keys: tuple[str, ...] | None = None) -> dict[str, object]:
    """The settings that can change a result, as plain values in canonical form.

    Args:
      keys: dotted keys of settings or sections; None = all.

    Returns:
      dotted key → value; paths are absolute without links, `ingest.kind` is what was found.
    """
    found = {}
    for key, value in _flat(plain_value(dataclasses.asdict(config))).items():
        chosen = keys is None or any(key == k or key.startswith(f"{k}.") for k in keys)
        if chosen and not _matches(key, INDIFFERENT) and _missing(config, key) is None:
            found[key] = _canonical(config, key, value)
    return found


def ignored_settings(config: Config) -> dict[str, str]:
    """Settings that differ from their default and have no effect: dotted key → what they would need."""
    default = from_dict({"preset": config.preset, "model": {"mode": config.model.mode}})
    usual = _flat(plain_value(dataclasses.asdict(default)))
    found = {}
    for key, value in _flat(plain_value(dataclasses.asdict(config))).items():
        needs = _missing(config, key)
        if needs is not None and value != usual.get(key):
            found[key] = needs
    return found


def _missing(config: Config, key: str) -> str | None:
    """What a setting needs in order to have an effect; None where it has one."""
    for rule in RULES:
        is_switch = "*" in rule.keys and key == rule.keys.replace("*", "enabled")  # counts on and off
        if fnmatch.fnmatchcase(key, rule.keys) and not is_switch and not rule.applies(config):
            return rule.needs
    return None


def _canonical(config: Config, key: str, value: object) -> object:
    if key == "ingest.kind":
        return _kind(config)
    if key in _CHOSEN:
        return resolve(config, key)
    if key == "model.backbone" and not is_own(config.model.backbone):
        return value
    if key in _PATHS and isinstance(value, str) and os.path.exists(value):
        return os.path.realpath(value)
    return value


def _kind(config: Config) -> str:
    """What lies at `ingest.path`; UsageError where nothing does."""
    from urnet_tf.crawl import readers

    settings = config.ingest
    if settings.path is None:
        return settings.kind
    return readers.resolve_kind(fetch_tree(settings.path), settings.kind)


def _matches(key: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def _flat(tree: Mapping, prefix: str = "") -> dict[str, object]:
    """{"a": {"b": 1}} → {"a.b": 1}; mappings of free keys, like `ingest.max_rank`, stay values."""
    found: dict[str, object] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in FREE_MAPPINGS:
            found |= _flat(value, f"{name}.")
        else:
            found[name] = value
    return found
