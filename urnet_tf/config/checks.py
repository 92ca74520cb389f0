"""What single values allow and together cannot work: reported when a configuration is read, not later."""

import operator

from urnet_tf.backbone_names import (
    ALL,
    APPLICATIONS,
    BACKBONES,
    KERAS_HUB,
    LAST_STAGE,
    application_of,
    is_own,
    preset_of,
    read_blocks,
)
from urnet_tf.config.fields import (
    ClassWeightConfig,
    Config,
    FitConfig,
    IngestConfig,
    ModelConfig,
    RuntimeConfig,
    TrainConfig,
    count_members,
    judges_features,
    starts_from,
)
from urnet_tf.errors import UsageError
from urnet_tf.schema import LIST_COLUMNS
from urnet_tf.text_rules import quote

_GROUPED_CHANNELS = 8192  # of a ResNeXt's first stage, 16 times the widest published; eight times that follow
_FITS = ("baseline.fit", "reweight.refit", "train.fit")


def check_together(config: Config) -> None:
    """Looks at the settings of a `config.Config` that depend on each other.

    Raises:
      UsageError: two of them exclude each other.
    """
    combine = config.reweight.combine
    if not combine.smallest < 1.0 < combine.largest:
        raise UsageError(
            "Expected reweight.combine.smallest < 1 < reweight.combine.largest; received "
            f"{combine.smallest} and {combine.largest}."
        )
    _check_ingest(config.ingest)
    _check_backbone(config.model.backbone)
    _check_width(config.model)
    _check_features(config)
    _check_checkpoint(config.reweight.zero_shot.checkpoint)
    _check_class_weight(config.reweight.class_weight)
    if config.runtime.jit_compile and config.runtime.strategy != "none":
        raise UsageError(
            f"Expected runtime.strategy=none with runtime.jit_compile; received {config.runtime.strategy}."
        )
    _check_exported(config)
    _check_start(config)
    for key in _FITS:
        fit = operator.attrgetter(key)(config)
        if key == "train.fit":
            _check_bags(config.train)
        else:
            _check_parts(key, fit, fit.batch_images, "images")
        _check_elr(key, fit, config.runtime)


def _check_ingest(settings: IngestConfig) -> None:
    unknown = sorted(set(settings.columns) - set(LIST_COLUMNS))
    if unknown:
        raise UsageError(
            f"Expected {', '.join(LIST_COLUMNS)} as keys of ingest.columns; received {quote(unknown[0])}; "
            "the value is the name that the list has for it, like {path: file, label: breed}."
        )
    fractions = settings.val_fraction, settings.test_fraction
    if sum(fractions) >= 1:
        raise UsageError(
            "Expected ingest.val_fraction + ingest.test_fraction below 1, so that images are left to train "
            f"on; received {fractions[0]} + {fractions[1]}."
        )
    if settings.min_side_px**2 > settings.max_pixels:
        raise UsageError(
            "Expected ingest.max_pixels to allow images of ingest.min_side_px; received "
            f"{settings.max_pixels} and {settings.min_side_px}."
        )


def _check_backbone(name: str) -> None:
    if name not in BACKBONES and not is_own(name):
        raise UsageError(
            f"Expected one of {', '.join(BACKBONES)}, FILE.keras, keras_hub:PRESET or "
            f"keras_applications:NAME for model.backbone; received {quote(name)}."
        )
    if application_of(name) and application_of(name) not in APPLICATIONS:
        raise UsageError(
            f"Expected one of {', '.join(APPLICATIONS)} behind keras_applications: in model.backbone; "
            f"received {quote(application_of(name))}."
        )


def _check_width(model: ModelConfig) -> None:
    channels = model.resnext_cardinality * model.resnext_width_per_group
    if channels > _GROUPED_CHANNELS:
        raise UsageError(
            f"Expected at most {_GROUPED_CHANNELS} channels of model.resnext_cardinality x "
            f"model.resnext_width_per_group; received {model.resnext_cardinality} x "
            f"{model.resnext_width_per_group}."
        )


def _check_features(config: Config) -> None:
    """Features of one's own are of one view, and there is no network to train."""
    if config.model.features is None:
        return
    if config.model.mode != "frozen":
        raise UsageError(
            f"Expected model.mode=frozen with model.features, which leave no network to train; received "
            f"{config.model.mode}."
        )
    crops, scales = config.evaluate.crops, tuple(config.evaluate.scales)
    if (crops, scales) != ("1", (1.0,)):
        raise UsageError(
            "Expected evaluate.crops=1 and evaluate.scales=[1.0] with model.features, which are of one view "
            f"of each image; received {crops} and {list(scales)}."
        )


def _check_checkpoint(name: str | None) -> None:
    if name is not None and not preset_of(name):
        raise UsageError(
            f"Expected {KERAS_HUB}PRESET, of CLIP or SigLIP, for reweight.zero_shot.checkpoint; received "
            f"{quote(name)}."
        )


def _check_class_weight(settings: ClassWeightConfig) -> None:
    if settings.kind != "inverse" and settings.alpha is not None:
        raise UsageError(
            f"Expected reweight.class_weight.alpha=null with kind={settings.kind}, which has no alpha but "
            f"effective_beta; received {settings.alpha}."
        )


def _check_start(config: Config) -> None:
    """What training starts from must be there, and what it ends with."""
    if config.train.keep == "best" and config.train.fit.ema is not None:
        raise UsageError(
            f"Expected train.keep=last with averaged weights; received best and train.fit.ema="
            f"{config.train.fit.ema}."
        )
    if config.model.mode != "finetune":
        return
    part = config.train.unfreeze
    if part not in (ALL, LAST_STAGE) and not read_blocks(part):
        raise UsageError(
            f"Expected train.unfreeze of all, last_stage or blocks:n, like blocks:4; received {quote(part)}."
        )
    init, frozen = starts_from(config), judges_features(config)
    needed = {"fitted": True, "baseline": False, "baseline_with_classifier": False}.get(init, frozen)
    if needed != frozen:
        raise UsageError(
            f"Expected baseline.networks={'frozen' if needed else 'full'} with train.init={init}; received "
            f"{'frozen' if frozen else 'full'}. Set one of them."
        )


def _check_exported(config: Config) -> None:
    """The export must be of a model that training makes."""
    wanted, members = config.export.model, count_members(config)
    if wanted == "urnet":
        return
    if members == 1:
        raise UsageError(
            f"Expected train.members above 1, and train.head=trained or model.mode=finetune, with "
            f"export.model={wanted}; received {config.train.members} member(s) of train.head="
            f"{config.train.head}. Raise train.members, or set export.model=urnet."
        )
    if wanted == "distilled" and not config.train.distill:
        raise UsageError("Expected train.distill=true with export.model=distilled; received false.")


def _check_bags(train: TrainConfig) -> None:
    for size in dict.fromkeys((train.bag.size, *(train.member_bag_sizes or ()))):
        _check_parts("train.fit", train.fit, max(1, train.fit.batch_images // size), f"bags of {size}")


def _check_parts(key: str, fit: FitConfig, rows: int, what: str) -> None:
    if fit.accumulate_steps is not None and rows % fit.accumulate_steps:
        raise UsageError(
            f"Expected {key}.accumulate_steps to divide the {rows} {what} of a step; received "
            f"{fit.accumulate_steps}. Change it or {key}.batch_images."
        )


def _check_elr(key: str, fit: FitConfig, runtime: RuntimeConfig) -> None:
    """What a memory of each image's predictions rules out."""
    if fit.loss.kind != "elr":
        return
    if fit.mixup is not None:
        raise UsageError(
            f"Expected {key}.mixup=null with {key}.loss.kind=elr, as a mixed image has no predictions of "
            f"its own to remember; received {fit.mixup}."
        )
    if runtime.strategy != "none":
        raise UsageError(
            f"Expected runtime.strategy=none with {key}.loss.kind=elr, as each device would remember only "
            f"its own images; received {runtime.strategy}."
        )
