"""The settings: one tree of frozen dataclasses.

Every field has a default and a comment with its unit and, where it comes from the paper, the equation. `None`
means off, or "let the program choose" where the comment says so.
"""

# Long because it is one tree, which is read, and shown on the site, as a whole.

from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from typing import TYPE_CHECKING, Any

from urnet_tf.backbone_names import PREPROCESSING, brings_weights
from urnet_tf.reweighting import LITERAL, REPAIRED
from urnet_tf.reweighting.factors import weighing
from urnet_tf.reweighting.objective import AUTO, BALANCED, PLAIN
from urnet_tf.schema import PADDED, CropFraction
from urnet_tf.text_rules import FILE_NAME, LINE, PATH

BEST, SOUND, PAPER = "best", "sound", "paper"


# Upper bounds, so that a slip is refused when it is read instead of failing, or never ending, hours later.
_SEED = 2**31 - 1  # NumPy, scikit-learn and TensorFlow all take it
_BYTES = 2**31 - 1  # of one tensor or message
_PIXELS = 700_000_000  # times three, they are fewer than _BYTES
_STORED_SIDE_PX = 65_500  # the longest side that JPEG can write
_SEEN_SIDE_PX = 4096  # activations of one image take tens of GB beyond
_IMAGES = 2**31 - 1  # ids of images are int32
_CLASSES = 1_000_000  # one batch of probabilities takes hundreds of MB
_ROWS = 1_000_000  # of one step or shard, which is held in memory
_UNITS = 65_536  # of a layer: a square matrix of them takes 17 GB
_PASSES = 100_000  # over the data: days on the smallest crawl
_REPEATS = 1000  # time or disk grows with each
_FACTOR = 1000.0  # of a loss, a rate, a weight: one term drowns all others in float32
_SHARE_BELOW_1 = 0.999999  # a momentum of 1 never moves
_FOLDS = 100  # a fold's number is int8
_PROCESSES = 1024
_SECONDS = 366 * 86_400.0  # a year


def _choice(default: Any, *choices: Any) -> Any:
    return field(default=default, metadata={"choices": (default, *choices)})


def _between(default: Any, low: float, high: float, *words: str) -> Any:
    return field(default=default, metadata={"minimum": low, "maximum": high, "words": words})


def _text(default: str | None, form: str, max_length: int) -> Any:
    return field(default=default, metadata={"form": form, "max_length": max_length})


def _path(default: str | None) -> Any:
    return _text(default, PATH, 4095)


def _several(default: Any, max_count: int, min_count: int = 1, **rules_of_items: Any) -> Any:
    make: dict[str, Any] = {"default_factory": dict} if default == {} else {"default": default}
    return field(**make, metadata={"min_count": min_count, "max_count": max_count, **rules_of_items})


@dataclass(frozen=True)
class IngestConfig:
    path: str | None = _path(None)  # folder, archive, list, tree or dataset; required
    # dataset: as img2dataset, webdataset, Hugging Face, TFDS or FiftyOne write one
    kind: str = _choice("auto", "folder", "list", "webvision", "dataset")
    image_root: str | None = _path(None)  # list: what relative paths start from; None = the list's folder
    # list: the encoding of its text, like cp1252; None = UTF-8, or what its bytes say for certain
    encoding: str | None = _text(None, LINE, 40)
    # list: {path: file, label: breed}, which of its columns mean what; others are found by their usual names
    columns: Mapping[str, str] = _several({}, 9, 0, form=LINE, max_length=200)
    # only these classes, by name; a folder of such a name is a class, whatever it is called; None = all
    classes: tuple[str, ...] | None = _several(None, 10_000, form=LINE, max_length=200)
    exclude: tuple[str, ...] = _several((), 10_000, 0, form=LINE, max_length=200)  # without these classes
    # classes with fewer usable training images are left out, with a line in the log
    min_class_images: int = _between(2, 2, _IMAGES)
    # {puma: cougar}: classes that are counted to another; one merged into itself stays apart from its like
    merge: Mapping[str, str] = _several({}, 10_000, 0, form=LINE, max_length=200)
    val_path: str | None = _path(None)  # a folder or list with validation images; None = as the input says
    test_path: str | None = _path(None)  # the same for test images
    val_fraction: float = _between(0.1, 0.0, 0.9)  # drawn per class when no validation set is given
    test_fraction: float = _between(0.0, 0.0, 0.9)  # drawn per class when no test set is given
    split_seed: int = _between(0, 0, _SEED)  # of these draws
    copy_similarity: float | None = _between(0.9, 0.5, 1.0)  # of copies of a picture; None = equal files only
    mirrored_copies: bool = True  # whether a mirror image is a copy; not where left and right are two classes
    # only these sources; None = all
    sources: tuple[str, ...] | None = _several(None, 1000, form=LINE, max_length=200)
    # {flickr: 15}: keep the top results of a query ...
    max_rank: Mapping[str, int] = _several({}, 1000, 0, minimum=0, maximum=_IMAGES)
    max_rank_per: str = _choice("query", "class")  # ... or of a class, taken in turn from its queries
    # without given ranks: whether the order of file names is one; auto = where they are numbered like results
    rank: str = _choice("auto", "name", "none")
    first_classes: int | None = _between(None, 2, _CLASSES)  # only the first n classes (mini-WebVision: 50)
    # files of judgements (.parquet, .csv) that are obeyed; auto = corrections.parquet of the work directory
    # where there is one; none = no file
    corrections: tuple[str, ...] = _several(("auto",), 1000, form=PATH, max_length=4095, single=True)
    max_bytes: int = _between(64 * 2**20, 1, _BYTES)  # per file
    max_pixels: int = _between(50_000_000, 1, _PIXELS)  # per image
    min_side_px: int = _between(8, 1, _STORED_SIDE_PX)


@dataclass(frozen=True)
class PackConfig:
    short_side_px: int = _between(256, 8, _STORED_SIDE_PX)  # larger images are reduced to it, never enlarged
    jpeg_quality: int = _between(95, 1, 100)
    images_per_shard: int = _between(2048, 1, _ROWS)  # also the unit of resuming


@dataclass(frozen=True)
class ModelConfig:
    mode: str = _choice("frozen", "finetune")  # heads on cached features, or the whole network
    # also efficientnet_lite1, _lite2, resnext, FILE.keras (images to features or classes), keras_hub:PRESET,
    # keras_applications:NAME
    backbone: str = _text("efficientnet_lite0", PATH, 4095)
    preprocessing: str = _choice(*PREPROCESSING)  # for FILE.keras; auto = 0..255, or as a preset says
    feature_layer: str | None = _text(None, LINE, 200)  # of FILE.keras; None = what comes before the classes
    features: str | None = _path(
        None
    )  # FILE.npy: your own, no backbone; whose they are in FILE.txt or .parquet
    weights: str | None = _path("imagenet")  # "imagenet", a checkpoint file, or None = random
    image_size_px: int = _between(224, 16, _SEEN_SIDE_PX)
    # at test time a central square of this part of the short side is shown; None = the whole image, stretched
    # to a square, which is what the task libraries of phones show; padded = the whole image on a gray square
    crop_fraction: CropFraction = _between(0.875, 0.1, 1.0, PADDED)
    dropout: float = _between(0.5, 0.0, 0.99)  # before the classifier
    attention_dim: int | None = _between(None, 1, _UNITS)  # FC2 of the bag branch (Fig. 4); None = D / 4
    resnext_depth: int = _choice(101, 26, 50, 152)
    resnext_cardinality: int = _between(32, 1, _REPEATS)
    resnext_width_per_group: int = _between(4, 1, _REPEATS)
    resnext_squeeze_excitation: bool = False  # timm's seresnext*
    resnext_deep_stem: bool = False  # timm's resnext*d: three 3x3 convolutions, averaging shortcuts
    resnext_small_stem: bool = False  # 3x3 stride-1 stem for images of 32-64 px


@dataclass(frozen=True)
class AugmentConfig:
    policy: str = _choice("crop_flip", "none", "randaugment", "augmix")  # finetune only
    min_area: float = _between(0.25, 0.01, 1.0)  # random resized crop: smallest share of the area
    flip: bool = True
    num_ops: int = _between(2, 1, 20)  # randaugment: operations per image
    magnitude: float = _between(9.0, 0.0, 10.0)  # randaugment


@dataclass(frozen=True)
class LossConfig:
    kind: str = _choice("cross_entropy", "gce", "sce", "focal", "elr")
    gce_q: float = _between(0.7, 0.01, 1.0)  # toward 0 cross entropy, 1 mean absolute error (Zhang 2018)
    sce_reverse: float = _between(1.0, 0.0, _FACTOR)  # of the reverse cross entropy; beta / alpha, Wang 2019
    focal_gamma: float = _between(2.0, 0.0, _FACTOR)  # Lin 2017
    elr_weight: float = _between(3.0, 0.0, _FACTOR)  # lambda of the early-learning term (Liu 2020)
    elr_momentum: float = _between(0.7, 0.0, _SHARE_BELOW_1)  # of each image's averaged prediction
    logit_adjustment: float = _between(0.0, 0.0, _FACTOR)  # tau log(class share) joins logits (Menon 2021)


@dataclass(frozen=True)
class FitConfig:
    epochs: float = _between(20.0, 0.0, _PASSES)  # passes over the training images
    batch_images: int = _between(255, 1, _ROWS)  # images per step; fewer where a pass has under four steps
    # parts of a batch, one by one: less memory, same step; None: as few as memory holds
    accumulate_steps: int | None = _between(None, 1, _ROWS)
    optimizer: str = _choice("adamw", "sgd")
    learning_rate: float = _between(1e-3, 0.0, _FACTOR)  # peak, per step
    warmup_fraction: float = _between(0.05, 0.0, 1.0)  # share of the steps with a rising rate; then cosine
    weight_decay: float = _between(1e-4, 0.0, _FACTOR)
    momentum: float = _between(0.9, 0.0, _SHARE_BELOW_1)  # sgd
    clip_norm: float | None = _between(None, 0.0, _FACTOR)  # of each variable's gradient
    loss: LossConfig = field(default_factory=LossConfig)
    label_smoothing: float = _between(0.0, 0.0, 0.99)  # with any loss
    mixup: float | None = _between(None, 1e-3, _FACTOR)  # of Beta(alpha, alpha) (Zhang 2018); None = off
    ema: float | None = _between(None, 0.0, _SHARE_BELOW_1)  # momentum of averaged weights; None = off
    checkpoint_s: float = _between(60.0, 0.0, _SECONDS)  # seconds between checkpoints


@dataclass(frozen=True)
class BaselineConfig:
    folds: int = _between(4, 1, _FOLDS)  # out-of-fold predictions; 1 = the paper's in-sample ones
    # finetune: who judges the labels. frozen: heads on features of the network as it starts; full: a whole
    # network a fold (the paper); None: full where its weights are random, else frozen
    networks: str | None = _choice(None, "frozen", "full")
    # frozen: linear discriminant analysis, logistic regression, their mean, or steps by `fit`; auto: the
    # mean, but the discriminant where logistic regression would take hours
    head: str = _choice("auto", "mean", "discriminant", "logistic", "trained")
    fit: FitConfig = field(default_factory=FitConfig)


@dataclass(frozen=True)
class ExtractConfig:
    top_k: int = _between(5, 1, _REPEATS)  # predictions kept per instance
    batch_images: int = _between(64, 1, _ROWS)


@dataclass(frozen=True)
class ClassWeightConfig:
    enabled: bool = False  # best balances classes by train.fit.loss.logit_adjustment instead
    kind: str = _choice("inverse", "effective_number")  # of the class size (Eq. 2-4), or Cui 2019
    alpha: float | None = _between(None, 0.0, 1.0)  # Eq. 4; None: repaired 1, literal 0.5; only with inverse
    effective_beta: float = _between(0.999, 0.0, 1.0)  # effective_number: 0 = no weights, 1 = inverse


@dataclass(frozen=True)
class ClusterWeightConfig:
    enabled: bool = False
    kind: str | None = _choice(
        None, "purity", "quality", "density", "size"
    )  # None: repaired purity, literal size
    clusters: int = _between(5, 2, _REPEATS)  # k of k-means
    neighbors: int = _between(4, 0, _REPEATS)  # most confused classes that join (Sec. 4.2)
    # which mistakes count there: images of the class taken for others (row: the paper), and the reverse
    confusion: str = _choice("both", "row")
    normalize: bool = True  # L2-normalize the features; false = as they are (the paper)
    pca_dim: int | None = _between(32, 1, _UNITS)  # None = the full features (the paper)
    n_init: int = _between(3, 1, _REPEATS)  # starts of k-means


@dataclass(frozen=True)
class ConfidenceConfig:
    enabled: bool = False
    text_vectors: str = _path("hashed")  # "hashed" character n-grams, or a fastText .vec or .bin file
    text_dim: int = _between(300, 8, _UNITS)  # of hashed vectors
    top_rank: int = _between(30, 1, _IMAGES)  # trained on the best results of a class ...
    source: str | None = _text("google", LINE, 200)  # ... from this source; None or not in the data = all
    # from image features to texts: one linear map, or two layers on each side (Fig. 5: the paper)
    network: str = _choice("linear", "two_sided")
    embedding_dim: int = _between(300, 1, _UNITS)  # two_sided: units of each layer
    normalize: bool = True  # L2-normalize the features; false = as they are (the paper)
    negatives: str = _choice("each_step", "once")  # pairwise: when another class is drawn for an image
    loss: str | None = _choice(None, "contrastive", "pairwise")  # None: pairwise (Eq. 8) if literal
    temperature: float = _between(0.07, 1e-3, _FACTOR)  # contrastive
    epochs: int = _between(30, 1, _PASSES)
    floor: float = _between(0.05, 0.0, 1.0)  # repaired: smallest weight, as a share of the class mean


@dataclass(frozen=True)
class SelfConfidenceConfig:
    enabled: bool = False
    floor: float = _between(0.05, 0.0, 1.0)  # smallest weight, as a share of the class mean


@dataclass(frozen=True)
class PageTextConfig:
    enabled: bool = True  # evidence from title, description and tags; nothing happens where there are none
    # "hashed" words; "minilm" (docs/settings.md); a .vec or .bin file; a folder with a BERT
    encoder: str = _path("hashed")


@dataclass(frozen=True)
class ZeroShotConfig:
    # evidence from the words of the classes, by a network of images and texts; nothing happens without one
    enabled: bool = True
    # keras_hub:PRESET of CLIP or SigLIP, whose image tower runs over the images; None = model.backbone, if it
    # is one
    checkpoint: str | None = _text(None, PATH, 4095)


@dataclass(frozen=True)
class OtherScoreConfig:
    enabled: bool = True  # evidence from a column of someone else; nothing happens without a file
    path: str | None = _path(None)  # .parquet or .csv, with a column content_hash or path
    column: str | None = _text(None, LINE, 200)  # more = more probably right; None = the only numeric one


@dataclass(frozen=True)
class SoftLabelConfig:
    enabled: bool = False
    kind: str = _choice(
        "distribution", "predicted"
    )  # the whole prediction of the folds, or one label (Eq. 10)
    beta: float = _between(0.8, 0.0, 1.0)  # share of the given label, Eq. 10; distribution: the smallest


@dataclass(frozen=True)
class CombineConfig:
    smallest: float = _between(0.05, 0.0, 1.0)  # repaired: bounds of the combined weight
    largest: float = _between(10.0, 1.0, _FACTOR)
    unit_mean: bool = False  # literal: scale the product to mean 1, as repaired always does
    # n copies of a picture in one class count 1 / n each, see ingest.copy_similarity
    copies_once: bool = False


@dataclass(frozen=True)
class ReweightConfig:
    formulas: str = _choice(REPAIRED, LITERAL)  # repaired formulas, or the literal ones
    # 2: weighted heads of the folds are refitted (not with one fold); None: 2 where labels are judged on
    # frozen features, else 1
    rounds: int | None = _between(None, 1, 2)
    refit: FitConfig = field(default_factory=lambda: FitConfig(loss=LossConfig(logit_adjustment=1.0)))
    class_weight: ClassWeightConfig = field(default_factory=ClassWeightConfig)
    cluster_weight: ClusterWeightConfig = field(default_factory=ClusterWeightConfig)
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)
    self_confidence: SelfConfidenceConfig = field(default_factory=SelfConfidenceConfig)
    page_text: PageTextConfig = field(default_factory=PageTextConfig)
    zero_shot: ZeroShotConfig = field(default_factory=ZeroShotConfig)
    other_score: OtherScoreConfig = field(default_factory=OtherScoreConfig)
    soft_label: SoftLabelConfig = field(default_factory=SoftLabelConfig)
    combine: CombineConfig = field(default_factory=CombineConfig)


@dataclass(frozen=True)
class Switch:
    enabled: bool = True


# A factor without settings of its own has a switch.
_OTHERS = [factor.name for factor in weighing() if factor.name not in ReweightConfig.__dataclass_fields__]
if _OTHERS and not TYPE_CHECKING:  # a checker cannot follow, and reads the class above
    ReweightConfig = make_dataclass(
        "ReweightConfig",
        [(name, Switch, field(default_factory=Switch)) for name in _OTHERS],
        bases=(ReweightConfig,),
        frozen=True,
    )
    ReweightConfig.__module__ = __name__  # so that it can be pickled


@dataclass(frozen=True)
class BagConfig:
    size: int = _between(3, 1, _REPEATS)  # images of one class in a bag, N_b
    loss_weight: float = _between(1.0, 0.0, _FACTOR)  # lambda of the bag branch; 0 = off
    # of a bag: the mean of its images' targets, or the label that they share (the paper)
    target: str = _choice("mean", "label")
    weighted: bool = True  # by the mean weight of its images; false = all bags alike (the paper)


@dataclass(frozen=True)
class TrainConfig:
    # finetune: what the network starts from. fitted: model.weights and the head that `head` names, fitted to
    # weighted features; baseline_with_classifier (the paper): FC1 as well; None: fitted where the baseline's
    # networks are frozen, else pretrained
    init: str | None = _choice(None, "fitted", "pretrained", "baseline", "baseline_with_classifier")
    # finetune: which part of the network learns besides the heads: all, last_stage, or blocks:n (the last n)
    unfreeze: str = _text("all", LINE, 20)
    # trained: the weights of the last pass, or of the pass that agrees best with the labels of the validation
    # images, where by more than a standard error
    keep: str = _choice("last", "best")
    # finetune: batch normalization keeps the statistics and scales that it starts with
    freeze_batch_norm: bool = False
    # finetune: learning rate of the network as a share of that of the heads, and of each block as a share of
    # that of the block behind it
    backbone_rate: float = _between(1.0, 0.0, 1.0)
    block_rate: float = _between(1.0, 0.01, 1.0)
    # frozen: as `baseline.head`
    head: str = _choice("mean", "discriminant", "logistic", "trained")
    # fitted heads: classes count alike, images count alike (as frequent as in the crawl), or auto: classes
    # alike as far as the share of all images that are right does not drop beyond chance
    objective: str = _choice(BALANCED, PLAIN, AUTO)
    bag: BagConfig = field(default_factory=BagConfig)
    # URNets that differ in their seed, for an ensemble (Table 1: 29); fitted heads need no seed, so are one
    members: int = _between(1, 1, _REPEATS)
    # the members after the first take these bag sizes in turn; None = bag.size
    member_bag_sizes: tuple[int, ...] | None = _several(None, 100, minimum=1, maximum=_REPEATS)
    # one more URNet, trained on the mean probabilities of the members instead of the soft labels
    distill: bool = False
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(loss=LossConfig(logit_adjustment=1.0), mixup=0.4)
    )


@dataclass(frozen=True)
class EvaluateConfig:
    # None = test when it has labels, else val; but 50 judged images rather than labels drawn from the crawl
    split: str | None = _choice(None, "val", "test", "judged")
    crops: str = _choice("1", "5", "10", "grid")  # per scale
    scales: tuple[float, ...] = _several((1.0,), 20, minimum=0.1, maximum=10.0)  # of image_size_px
    bag_branch: bool = False  # average the instance branch with the bag branch on a bag of one
    # what the ensemble joins: all URNets (train.members), or the plain models of the folds as well
    ensemble: str = _choice("urnets", "urnets_and_folds")
    ece_bins: int = _between(15, 2, 10 * _REPEATS)
    batch_images: int = _between(64, 1, _ROWS)


@dataclass(frozen=True)
class ExportConfig:
    name: str = _text("urnet", FILE_NAME, 100)
    # the first URNet, all of them as one model, or the one that was distilled from them
    model: str = _choice("urnet", "ensemble", "distilled")
    top_k: int = _between(5, 1, _REPEATS)  # classes that the SavedModel serves
    # share of the held images that the score for "none of these" may refuse at 1/2; None = no such score
    none_of_these: float | None = _between(0.05, 0.001, 0.45)
    formats: tuple[str, ...] = _several(
        ("saved_model", "keras", "tflite_float32", "tflite_float16", "tflite_dynamic_int8", "tflite_int8"),
        max_count=9,
        choices=(
            "saved_model", "keras", "tflite_float32", "tflite_float16", "tflite_dynamic_int8", "tflite_int8",
            "onnx", "keras_with_preparation", "onnx_with_preparation",
        ),
    )  # fmt: skip
    max_pixels: int = _between(
        25_000_000, 1, _PIXELS
    )  # of an encoded image; decoding takes 16 bytes for each
    crops: str = _choice("1", "5", "10", "grid")  # of the SavedModel on encoded images: as evaluate.crops
    scales: tuple[float, ...] = _several((1.0,), 20, minimum=0.1, maximum=10.0)
    tolerance_float32: float = _between(1e-4, 0.0, 1.0)  # of probabilities to Keras, largest and relative
    tolerance_float16: float = _between(1e-2, 0.0, 1.0)  # relative: of the norms over all images
    tolerance_int8_points: float = _between(1.5, 0.0, 100.0)  # top-1 accuracy lost, percent
    tolerance_library_points: float = _between(
        3.0, 0.0, 100.0
    )  # the same, of .tflite files in task libraries
    allow_drift: bool = False  # keep files that differ more
    check_images: int | None = _between(2000, 1, _IMAGES)  # held images to compare files on; None = all
    calibration_images: int = _between(100, 1, _ROWS)  # training images that set ranges of int8, by weight


@dataclass(frozen=True)
class ReportConfig:
    title: str = _text("What is wrong here, and what to do about it", LINE, 200)
    classes: int = _between(4, 1, _REPEATS)  # classes of which the page shows what counted most and least
    images_per_class: int = _between(8, 1, _REPEATS)
    thumbnail_px: int = _between(96, 16, _SEEN_SIDE_PX)
    # classes shown with the groups of look-alikes (Fig. 6), where these weighed
    grouped_classes: int = _between(2, 0, _REPEATS)
    class_page_images: int = _between(
        24, 0, _REPEATS
    )  # pictures on the page of each class; 0 = no such pages


@dataclass(frozen=True)
class RuntimeConfig:
    # mirrored: all GPUs of this machine; multi_worker: all machines that TF_CONFIG or Slurm names
    strategy: str = _choice("none", "mirrored", "multi_worker")
    precision: str = _choice("float32", "mixed_bfloat16", "mixed_float16")  # float16: GPUs without bfloat16
    jit_compile: bool = False  # XLA, for one GPU only: on CPUs it is many times slower
    verify_hashes: bool = True  # of results before they are read; false looks at sizes alone (huge runs)
    workers: int | None = _between(None, 1, _PROCESSES)  # processes of the offline stages; None = cores
    executor: str = _choice("local", "processes", "ray")  # what runs units of offline work: docs/clusters.md
    address: str = _text("auto", LINE, 255)  # of a Ray cluster, HOST:PORT; auto = that of this machine


@dataclass(frozen=True)
class Config:
    """All settings of a run, as `load_config` gives them; what each means stands beside it.

    Example:
      >>> import urnet_tf
      >>> urnet_tf.Config().preset
      'best'
    """

    preset: str = _choice(BEST, SOUND, PAPER)  # the defaults of all that is not set; see PRESETS
    seed: int = _between(0, 0, _SEED)
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


def judges_features(config: Config) -> bool:
    """Whether labels are judged on features of a frozen network, computed once: see `baseline.networks`."""
    if config.model.mode == "frozen":
        return True
    if config.baseline.networks is not None:
        return config.baseline.networks == "frozen"
    return config.model.weights is not None or brings_weights(config.model.backbone)


def starts_from(config: Config) -> str:
    """`train.init`, or what the program chooses where it is None."""
    return config.train.init or ("fitted" if judges_features(config) else "pretrained")


def trains(config: Config, section: str) -> bool:
    """Whether the classifiers of `baseline` or `train` are trained by steps; linear heads are fitted else."""
    whole = not judges_features(config) if section == "baseline" else config.model.mode == "finetune"
    return whole or getattr(config, section).head == "trained"


def count_members(config: Config) -> int:
    """How many URNets `train` makes: a fitted head is the same for every seed, so there is one."""
    return config.train.members if trains(config, "train") else 1


def has_second_round(config: Config) -> bool:
    """Whether weighted heads of the folds are refitted; with one fold nothing is out of fold."""
    rounds = config.reweight.rounds or (2 if judges_features(config) else 1)
    return rounds > 1 and config.baseline.folds > 1
