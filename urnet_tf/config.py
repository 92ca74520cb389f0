"""The configuration: one tree of frozen dataclasses, YAML files, dotted overrides.

Every field has a default and a comment with its unit and, where it comes from the paper, the
equation. `None` means off, or "let the program choose" where the comment says so. An unknown key
is an error that names the nearest known one. This module does not import TensorFlow.
"""

import dataclasses
import difflib
import pathlib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from urnet_tf.errors import UsageError

SOUND, PAPER = "sound", "paper"


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
    label_smoothing: float = _between(0.0, 0.0, 0.99)
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
    enabled: bool = True
    alpha: float | None = _between(None, 0.0, 1.0)  # Eq. 4; None: sound 1, paper 0.5


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
class SoftLabelConfig:
    enabled: bool = True
    beta: float = _between(0.8, 0.0, 1.0)  # share of the given label, Eq. 10


@dataclass(frozen=True)
class CombineConfig:
    smallest: float = _at_least(0.05, 0.0)  # sound: bounds of the combined weight
    largest: float = _at_least(10.0, 0.0)


@dataclass(frozen=True)
class ReweightConfig:
    fidelity: str = _choice(SOUND, PAPER)  # repaired formulas, or the literal ones
    class_weight: ClassWeightConfig = field(default_factory=ClassWeightConfig)
    cluster_weight: ClusterWeightConfig = field(default_factory=ClusterWeightConfig)
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)
    self_confidence: SelfConfidenceConfig = field(default_factory=SelfConfidenceConfig)
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
    fit: FitConfig = field(default_factory=FitConfig)


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
    top_k: int = _at_least(5, 1)
    saved_model: bool = True
    tflite: bool = True
    tolerance: float = _at_least(1e-4, 0.0)  # largest difference of a probability to Keras
    check_images: int = _at_least(64, 1)


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
    workers: int | None = _at_least(None, 1)  # processes of the offline stages; None = cores


@dataclass(frozen=True)
class Config:
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
    tree = _read_with_base(pathlib.Path(path)) if path else {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UsageError(f"Expected --set section.key=value; received {override!r}.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"The value of --set {override!r} is not YAML: {_one_line(error)}") from None
        node, *parents = tree, *key.split(".")[:-1]
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UsageError(f"--set {override}: {parent!r} is a value, not a section.")
        node[key.split(".")[-1]] = value
    return from_dict(tree)


def from_dict(tree: Mapping) -> Config:
    """Builds a Config from nested mappings; see `load_config` for the errors raised."""
    config = _build(Config, tree, "")
    combine = config.reweight.combine
    if not combine.smallest < 1.0 < combine.largest:
        raise UsageError(
            "Expected reweight.combine.smallest < 1 < reweight.combine.largest; received "
            f"{combine.smallest} and {combine.largest}."
        )
    if not (config.export.saved_model or config.export.tflite):
        raise UsageError("Expected export.saved_model or export.tflite; both are switched off.")
    train, bags = config.train.fit, max(1, config.train.fit.batch_images // config.train.bag.size)
    _check_parts("baseline.fit", config.baseline.fit, config.baseline.fit.batch_images, "images")
    _check_parts("train.fit", train, bags, f"bags of {config.train.bag.size}")
    if config.runtime.jit_compile and config.runtime.strategy != "none":
        raise UsageError("Expected runtime.strategy=none with runtime.jit_compile; received mirrored.")
    return config


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


def _read_with_base(path: pathlib.Path) -> dict:
    tree = _read_yaml(path)
    base = tree.pop("base", None)
    if base is None:
        return tree
    base_tree = _read_yaml(path.parent / base)
    if "base" in base_tree:
        raise UsageError(f"{path}: its base {base} has a base itself; only one level is allowed.")
    return _merge(base_tree, tree)


def _read_yaml(path: pathlib.Path) -> dict:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"Cannot read the configuration {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {_one_line(error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UsageError(f"Expected a mapping of sections in {path}; received {type(tree).__name__}.")
    return tree


def _merge(base: dict, over: dict) -> dict:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _one_line(error) -> str:
    return " ".join(str(error).split())


def _build(cls, tree, prefix):
    if tree is None:
        tree = {}
    if not isinstance(tree, Mapping):
        raise UsageError(f"Expected a section at {prefix[:-1]!r}; received {tree!r}.")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in tree.items():
        if key not in fields:
            raise UsageError(_unknown_key(str(key), prefix, fields))
        if dataclasses.is_dataclass(hints[key]):
            values[key] = _build(hints[key], value, f"{prefix}{key}.")
        else:
            values[key] = _checked(value, hints[key], fields[key].metadata, f"{prefix}{key}")
    return cls(**values)


def _check_parts(key, fit, rows, what):
    if rows % fit.accumulate_steps:
        raise UsageError(
            f"Expected {key}.accumulate_steps to divide the {rows} {what} of a step; received "
            f"{fit.accumulate_steps}. Change it or {key}.batch_images."
        )


def _unknown_key(key, prefix, fields):
    near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
    if near:
        hint = f"did you mean {prefix}{near[0]}?"
    else:
        hint = f"known here: {', '.join(fields)}."
    return f"Unknown configuration key {prefix}{key}; {hint}"


def _checked(value, hint, metadata, key):
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    options = typing.get_args(hint) if union else (hint,)
    if value is None and type(None) in options:
        return None
    kind = next(o for o in options if o is not type(None))
    value = _converted(value, kind, key)
    choices = metadata.get("choices")
    if choices and value not in choices:
        raise UsageError(f"Expected one of {', '.join(map(str, choices))} for {key}; received {value!r}.")
    low, high = metadata.get("minimum"), metadata.get("maximum")
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        span = f"at least {low}" if high is None else f"a number between {low} and {high}"
        raise UsageError(f"Expected {span} for {key}; received {value!r}.")
    return value


def _converted(value, kind, key):
    origin = typing.get_origin(kind)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"Expected a list for {key}; received {value!r}.")
        item = typing.get_args(kind)[0]
        return tuple(_converted(v, item, f"{key}[{i}]") for i, v in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise UsageError(f"Expected a mapping for {key}, like {{flickr: 15}}; received {value!r}.")
        item = typing.get_args(kind)[1]
        return {str(k): _converted(v, item, f"{key}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, str):
        try:  # YAML 1.1 reads 1e-3 (no dot) as a string
            value = float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"Expected {_KIND_NAMES[kind]} for {key}; received {value!r}.")
    return value


_KIND_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
