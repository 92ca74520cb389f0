"""The configuration: one tree of frozen dataclasses, YAML files, dotted overrides.

Every field has a default and a comment with its unit and, where it comes from the paper, the
equation. `None` means off, or "let the program choose" where the comment says so. An unknown key
is an error that names the nearest known one. This module does not import TensorFlow.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from urnet_tf import config_tree
from urnet_tf.errors import UsageError

BEST, SOUND, PAPER = "best", "sound", "paper"

_PLAIN_FIT = {"fit": {"mixup": None, "loss": {"logit_adjustment": 0.0}}}
_PAPERS_STEPS = {
    "rounds": 1,
    "class_weight": {"enabled": True},
    "page_text": {"enabled": False},
    "rank_prior": {"enabled": False},
    "soft_label": {"kind": "supposed"},
}
# What a preset sets before the settings of a file or command line. The defaults below are `best` for frozen
# features: what measurement chose. `sound` is the paper's system with its formulas repaired, `paper` the
# literal one. Whole networks learned too slowly with mixup and logit adjustment in the measured budgets.
PRESETS = {
    BEST: {},
    SOUND: {"reweight": _PAPERS_STEPS, "train": _PLAIN_FIT},
    PAPER: {"reweight": _PAPERS_STEPS | {"fidelity": PAPER}, "train": _PLAIN_FIT},
}
_BEST_FINETUNE = {"reweight": {"class_weight": {"enabled": True}}, "train": _PLAIN_FIT}


def _choice(default, *choices):
    return field(default=default, metadata={"choices": (default, *choices)})


def _at_least(default, minimum):
    return field(default=default, metadata={"minimum": minimum})


def _between(default, low, high):
    return field(default=default, metadata={"minimum": low, "maximum": high})


@dataclass(frozen=True)
class IngestConfig:
    path: str | None = None  # folder, list file or WebVision tree; required
    kind: str = _choice("auto", "folder", "list", "webvision")
    image_root: str | None = None  # list: what relative paths start from; None = the list's folder
    val_path: str | None = None  # a folder or list with validation images; None = as the input says
    test_path: str | None = None  # the same for test images
    val_fraction: float = _between(0.1, 0.0, 0.9)  # drawn per class when no validation set is given
    test_fraction: float = _between(0.0, 0.0, 0.9)  # drawn per class when no test set is given
    split_seed: int = _at_least(0, 0)  # of these draws
    sources: tuple[str, ...] | None = None  # only these sources; None = all
    max_rank: Mapping[str, int] = field(default_factory=dict)  # {flickr: 15}: keep the top results of a query
    first_classes: int | None = _at_least(None, 2)  # only the first n classes (mini-WebVision: 50)
    max_bytes: int = _at_least(64 * 2**20, 1)  # per file
    max_pixels: int = _at_least(50_000_000, 1)  # per image
    min_side_px: int = _at_least(8, 1)


@dataclass(frozen=True)
class PackConfig:
    short_side_px: int = _at_least(256, 8)  # larger images are reduced to this short side, never enlarged
    jpeg_quality: int = _between(95, 1, 100)
    images_per_shard: int = _at_least(2048, 1)  # also the unit of resuming


@dataclass(frozen=True)
class ModelConfig:
    mode: str = _choice("frozen", "finetune")  # heads on cached features, or the whole network
    backbone: str = _choice("efficientnet_lite0", "resnext")
    weights: str | None = "imagenet"  # "imagenet", a checkpoint file, or None = random
    image_size_px: int = _at_least(224, 16)
    crop_fraction: float = _between(0.875, 0.1, 1.0)  # central part of the short side shown at test time
    dropout: float = _between(0.5, 0.0, 0.99)  # before the classifier
    attention_dim: int | None = _at_least(None, 1)  # FC2 of the bag branch (Fig. 4); None = D / 4
    resnext_depth: int = _choice(101, 26, 50, 152)
    resnext_cardinality: int = _at_least(32, 1)
    resnext_width_per_group: int = _at_least(4, 1)
    resnext_squeeze_excitation: bool = False  # timm's seresnext*
    resnext_deep_stem: bool = False  # timm's resnext*d: three 3x3 convolutions, averaging shortcuts
    resnext_small_stem: bool = False  # 3x3 stride-1 stem for images of 32-64 px


@dataclass(frozen=True)
class AugmentConfig:
    policy: str = _choice("crop_flip", "none", "randaugment", "augmix")  # finetune only
    min_area: float = _between(0.25, 0.01, 1.0)  # random resized crop: smallest share of the area
    flip: bool = True
    num_ops: int = _at_least(2, 1)  # randaugment: operations per image
    magnitude: float = _between(9.0, 0.0, 10.0)  # randaugment


@dataclass(frozen=True)
class LossConfig:
    kind: str = _choice("cross_entropy", "gce", "sce", "focal", "elr")
    gce_q: float = _between(0.7, 0.01, 1.0)  # towards 0 cross entropy, 1 mean absolute error (Zhang 2018)
    sce_reverse: float = _at_least(1.0, 0.0)  # weight of the reverse cross entropy; beta / alpha of Wang 2019
    focal_gamma: float = _at_least(2.0, 0.0)  # Lin 2017
    elr_weight: float = _at_least(3.0, 0.0)  # lambda of the early-learning term (Liu 2020)
    elr_momentum: float = _between(0.7, 0.0, 1.0)  # of each image's averaged prediction
    logit_adjustment: float = _at_least(0.0, 0.0)  # tau log(class share) is added to the logits (Menon 2021)


@dataclass(frozen=True)
class FitConfig:
    epochs: float = _at_least(20.0, 0.0)  # passes over the training images
    batch_images: int = _at_least(255, 1)  # images per step; fewer where a pass has under four steps
    accumulate_steps: int = _at_least(1, 1)  # parts of a batch, one after the other: less memory, same step
    optimizer: str = _choice("adamw", "sgd")
    learning_rate: float = _at_least(1e-3, 0.0)  # peak, per step
    warmup_fraction: float = _between(0.05, 0.0, 1.0)  # share of the steps with a rising rate; then cosine
    weight_decay: float = _at_least(1e-4, 0.0)
    momentum: float = _between(0.9, 0.0, 1.0)  # sgd
    clip_norm: float | None = _at_least(None, 0.0)  # of each variable's gradient
    loss: LossConfig = field(default_factory=LossConfig)
    label_smoothing: float = _between(0.0, 0.0, 0.99)  # with any loss
    mixup: float | None = _at_least(None, 1e-3)  # alpha of Beta(alpha, alpha) (Zhang 2018); None = off
    ema: float | None = _between(None, 0.0, 1.0)  # momentum of averaged weights; None = off
    checkpoint_s: float = _at_least(60.0, 0.0)  # seconds between checkpoints


@dataclass(frozen=True)
class BaselineConfig:
    folds: int = _at_least(4, 1)  # out-of-fold predictions; 1 = the paper's in-sample ones
    fit: FitConfig = field(default_factory=FitConfig)


@dataclass(frozen=True)
class ExtractConfig:
    top_k: int = _at_least(5, 1)  # predictions kept per instance
    batch_images: int = _at_least(64, 1)


@dataclass(frozen=True)
class ClassWeightConfig:
    enabled: bool = False  # best balances classes by train.fit.loss.logit_adjustment instead
    kind: str = _choice("inverse", "effective_number")  # of the class size (Eq. 2-4), or Cui 2019
    alpha: float | None = _between(None, 0.0, 1.0)  # Eq. 4; None: sound 1, paper 0.5; only with inverse
    effective_beta: float = _between(0.999, 0.0, 1.0)  # effective_number: 0 = no weights, 1 = inverse


@dataclass(frozen=True)
class ClusterWeightConfig:
    enabled: bool = True
    kind: str | None = _choice(None, "purity", "quality", "density", "size")  # None: sound purity, paper size
    clusters: int = _at_least(5, 2)  # k of k-means
    neighbours: int = _at_least(4, 0)  # most confused classes that join (Sec. 4.2)
    pca_dim: int | None = _at_least(32, 1)  # None = the full features
    n_init: int = _at_least(3, 1)


@dataclass(frozen=True)
class ConfidenceConfig:
    enabled: bool = True
    text_vectors: str = "hashed"  # "hashed" character n-grams, or a fastText .vec or .bin file
    text_dim: int = _at_least(300, 8)  # of hashed vectors
    top_rank: int = _at_least(30, 1)  # trained on the best results of a class ...
    source: str | None = "google"  # ... from this source; None or absent from the data = all sources
    loss: str | None = _choice(None, "contrastive", "pairwise")  # None: pairwise (Eq. 8) in paper
    temperature: float = _at_least(0.07, 1e-3)  # contrastive
    epochs: int = _at_least(30, 1)
    floor: float = _between(0.05, 0.0, 1.0)  # sound: smallest weight, as a share of the class mean


@dataclass(frozen=True)
class SelfConfidenceConfig:
    enabled: bool | None = None  # None: on in sound, off in paper
    floor: float = _between(0.05, 0.0, 1.0)  # smallest weight, as a share of the class mean


@dataclass(frozen=True)
class PageTextConfig:
    enabled: bool = True  # evidence from title, description and tags; nothing happens where there are none
    encoder: str = "hashed"  # hashed words; "minilm" (README), a .vec or .bin file, or a folder with a BERT
    floor: float = _between(0.05, 0.0, 1.0)  # smallest weight, as a share of the class mean


@dataclass(frozen=True)
class RankPriorConfig:
    enabled: bool = True  # base rate P(right | source, rank), read off the crawl
    floor: float = _between(0.05, 0.0, 1.0)  # smallest weight, as a share of the class mean


@dataclass(frozen=True)
class SoftLabelConfig:
    enabled: bool = True
    kind: str = _choice("distribution", "supposed")  # all that the folds suppose, or one label (Eq. 10)
    beta: float = _between(0.8, 0.0, 1.0)  # share of the given label, Eq. 10; distribution: the smallest


@dataclass(frozen=True)
class CombineConfig:
    smallest: float = _at_least(0.05, 0.0)  # sound: bounds of the combined weight
    largest: float = _at_least(10.0, 0.0)
    unit_mean: bool = False  # paper: scale the product to mean 1, as sound always does; false = literal


@dataclass(frozen=True)
class ReweightConfig:
    fidelity: str = _choice(SOUND, PAPER)  # repaired formulas, or the literal ones
    # 2: weighted heads of the folds are asked again (not with one fold); None: frozen 2, finetune 1
    rounds: int | None = _between(None, 1, 2)
    refit: FitConfig = field(default_factory=lambda: FitConfig(loss=LossConfig(logit_adjustment=1.0)))
    class_weight: ClassWeightConfig = field(default_factory=ClassWeightConfig)
    cluster_weight: ClusterWeightConfig = field(default_factory=ClusterWeightConfig)
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)
    self_confidence: SelfConfidenceConfig = field(default_factory=SelfConfidenceConfig)
    page_text: PageTextConfig = field(default_factory=PageTextConfig)
    rank_prior: RankPriorConfig = field(default_factory=RankPriorConfig)
    soft_label: SoftLabelConfig = field(default_factory=SoftLabelConfig)
    combine: CombineConfig = field(default_factory=CombineConfig)


@dataclass(frozen=True)
class BagConfig:
    size: int = _at_least(3, 1)  # images of one class in a bag, N_b
    loss_weight: float = _at_least(1.0, 0.0)  # lambda of the bag branch; 0 = off


@dataclass(frozen=True)
class TrainConfig:
    init: str = _choice("pretrained", "baseline")  # finetune: what the network starts from
    bag: BagConfig = field(default_factory=BagConfig)
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(loss=LossConfig(logit_adjustment=1.0), mixup=0.4)
    )


@dataclass(frozen=True)
class EvaluateConfig:
    split: str | None = _choice(None, "val", "test")  # None = test when it has labels, else val
    crops: str = _choice("1", "5", "10", "grid")  # per scale
    scales: tuple[float, ...] = (1.0,)  # of image_size_px
    bag_branch: bool = False  # average the instance branch with the bag branch on a bag of one
    ece_bins: int = _at_least(15, 2)
    batch_images: int = _at_least(64, 1)


@dataclass(frozen=True)
class ExportConfig:
    name: str = "urnet"
    top_k: int = _at_least(5, 1)  # classes that the SavedModel serves
    formats: tuple[str, ...] = (
        "saved_model",
        "keras",
        "tflite_float32",
        "tflite_float16",
        "tflite_dynamic_int8",
        "tflite_int8",
    )  # also "onnx"
    crops: str = _choice("1", "5", "10", "grid")  # of the SavedModel on encoded images: as evaluate.crops
    scales: tuple[float, ...] = (1.0,)
    tolerance_float32: float = _at_least(1e-4, 0.0)  # of probabilities against Keras, largest and relative
    tolerance_float16: float = _at_least(1e-2, 0.0)  # relative: of the norms over all images
    tolerance_int8_points: float = _at_least(1.5, 0.0)  # top-1 accuracy lost, percent
    allow_drift: bool = False  # keep files that differ more
    check_images: int | None = _at_least(2000, 1)  # held images that all files are compared on; None = all
    calibration_images: int = _at_least(100, 1)  # training images that set the ranges of int8, by weight


@dataclass(frozen=True)
class ReportConfig:
    title: str = "What this crawl holds, and what counted"
    classes: int = _at_least(12, 1)  # classes shown with pictures
    images_per_class: int = _at_least(8, 1)
    thumbnail_px: int = _at_least(96, 16)


@dataclass(frozen=True)
class RuntimeConfig:
    strategy: str = _choice("none", "mirrored")  # several devices of this machine
    precision: str = _choice("float32", "mixed_bfloat16", "mixed_float16")  # float16: GPUs without bfloat16
    jit_compile: bool = False  # XLA, for one GPU only: on CPUs it is many times slower
    verify_hashes: bool = True  # of results before they are read; false looks at sizes alone (huge runs)
    workers: int | None = _at_least(None, 1)  # processes of the offline stages; None = cores


@dataclass(frozen=True)
class Config:
    preset: str = _choice(BEST, SOUND, PAPER)  # the defaults of all that is not set; see PRESETS
    seed: int = _at_least(0, 0)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    pack: PackConfig = field(default_factory=PackConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    extract: ExtractConfig = field(default_factory=ExtractConfig)
    reweight: ReweightConfig = field(default_factory=ReweightConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def load_config(path: str | None = None, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file (one level of `base:`) and applies `section.key=value` overrides.

    Args:
      path: YAML file, or None for the defaults. Relative paths under `ingest` and
        `model.weights` stay relative to the working directory.
      overrides: like `"reweight.soft_label.beta=0.9"`; values are read as YAML.

    Raises:
      UsageError: a file is missing or no YAML mapping, a key is unknown, a value has the wrong
        type or lies outside of its range.
    """
    tree = config_tree.read(pathlib.Path(path)) if path else {}
    return from_dict(config_tree.override(tree, overrides))


def from_dict(tree: Mapping) -> Config:
    """Builds a Config from nested mappings; see `load_config` for the errors raised."""
    config = config_tree.build(Config(), tree)  # checks every value, preset and mode among them
    settings = PRESETS[config.preset]
    if config.preset == BEST and config.model.mode == "finetune":
        settings = _BEST_FINETUNE
    config = config_tree.build(Config(), config_tree.merge(settings, tree))
    combine = config.reweight.combine
    if not combine.smallest < 1.0 < combine.largest:
        raise UsageError(
            "Expected reweight.combine.smallest < 1 < reweight.combine.largest; received "
            f"{combine.smallest} and {combine.largest}."
        )
    _check_class_weight(config.reweight.class_weight)
    _check_export(config.export)
    train, bags = config.train.fit, max(1, config.train.fit.batch_images // config.train.bag.size)
    _check_parts("baseline.fit", config.baseline.fit, config.baseline.fit.batch_images, "images")
    _check_parts("train.fit", train, bags, f"bags of {config.train.bag.size}")
    if config.runtime.jit_compile and config.runtime.strategy != "none":
        raise UsageError("Expected runtime.strategy=none with runtime.jit_compile; received mirrored.")
    for key in ("baseline.fit", "reweight.refit", "train.fit"):
        _check_elr(key, select(config, key), config.runtime)
    return config


def has_second_round(config: Config) -> bool:
    """Whether weighted heads of the folds are asked again; with one fold there is nobody to ask."""
    rounds = config.reweight.rounds or (2 if config.model.mode == "frozen" else 1)
    return rounds > 1 and config.baseline.folds > 1


def _check_class_weight(settings):
    if settings.kind != "inverse" and settings.alpha is not None:
        raise UsageError(
            f"Expected reweight.class_weight.alpha=null with kind={settings.kind}, which has no alpha but "
            f"effective_beta; received {settings.alpha}."
        )


def _check_elr(key, fit, runtime):
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


def _check_export(export):
    known = (*ExportConfig().formats, "onnx")
    unknown = [name for name in export.formats if name not in known]
    if unknown or not export.formats:
        received = ", ".join(unknown) or "none"
        raise UsageError(f"Expected export.formats of {', '.join(known)}; received {received}.")


def to_dict(config) -> dict:
    """The nested plain dictionary of a Config or of one of its sections (lists for tuples)."""
    plain = dataclasses.asdict(config)
    return yaml.safe_load(yaml.safe_dump(plain_value(plain)))


def plain_value(value):
    """Tuples to lists and mappings to dictionaries, so that YAML and JSON can hold them."""
    if isinstance(value, Mapping):
        return {str(k): plain_value(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(v) for v in value]
    return value


def select(config: Config, key: str):
    """The section or value under a dotted key, like `select(config, "train.fit")`."""
    for part in key.split("."):
        config = getattr(config, part)
    return config


def _check_parts(key, fit, rows, what):
    if rows % fit.accumulate_steps:
        raise UsageError(
            f"Expected {key}.accumulate_steps to divide the {rows} {what} of a step; received "
            f"{fit.accumulate_steps}. Change it or {key}.batch_images."
        )
